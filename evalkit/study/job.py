"""Run one job of a study: `python -m evalkit.study.job FOLDER ID`, as Snakemake calls it, here or on a node."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..files import write_atomic
from . import devices, plan

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # what ends a job: the command gets them too
STOPPED = (2, 130)  # exit codes of a command that saved its state and can go on


def run(folder: Path, id: str) -> int:
    """Run the job unless its record is there, and note how it ended beside it. Returns its exit code.

    A training or transfer that was begun goes on where it stopped. The signals that end a job are handed to the
    command, which saves and ends; the end is that of the command.

    Args:
        folder: The study's folder.
        id: Of the job in its plan.
    """
    study = plan.read(folder)
    job = study.job(id)
    if plan.finished(folder, job):
        _note(folder, id, state="done", message="its record was there already")
        return 0
    began = time.time()
    _note(folder, id, state="running", pid=os.getpid(), began=began)
    with devices.taken(job.gpus) as environment:
        code, last = _call(study.python, _argv(folder, job), folder, folder / "jobs" / f"{id}.log", environment)
    done = code == 0 and plan.finished(folder, job)
    state = "done" if done else "stopped" if code in STOPPED or code < 0 else "failed"
    _note(folder, id, state=state, exit=code, began=began, ended=time.time(), message="" if done else last)
    if done and all(plan.finished(folder, other) for other in study.of_cell(job.cell)):
        prune(folder / study.of_cell(job.cell)[0].out)
    return 0 if done else code or 1


def _argv(folder: Path, job: plan.Job) -> list[str]:
    """The command's arguments: a run folder that was begun is continued."""
    several = ["--gpus", str(job.gpus)] if job.gpus > 1 else []
    if (folder / job.out / "config.yaml").is_file():
        return [*(job.argv[:1] if job.argv[0] == "train" else job.argv[:2]), *several, "--resume", job.out]
    left = folder / job.out
    if left.exists() and job.argv[0] in ("train", "transfer"):
        shutil.rmtree(left)  # of a start that died before it had written its config
    return [*job.argv, *several, "--out", job.out]


def _call(python: str, argv: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run `python -m evalkit *argv` in the study's folder, its output into `log`: its exit code and last line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        out.write(f"$ evalkit {json.dumps(argv)}\n".encode())
        out.flush()
        command = [python, "-m", "evalkit", *argv]
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment)
        before = {n: signal.signal(n, lambda n, _: process.send_signal(n)) for n in SIGNALS}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    lines = log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
    return code, lines[-1] if lines else ""


def _note(folder: Path, id: str, **facts: Any) -> None:
    facts |= {"host": socket.gethostname(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
    text = json.dumps(facts, sort_keys=True) + "\n"
    write_atomic(folder / "jobs" / f"{id}.json", lambda f: f.write(text.encode()))


def prune(run: Path) -> None:
    """Remove the training states of a finished run: its weights stay, it cannot be trained further."""
    for path in run.glob("checkpoints/*/train_state.pt"):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
