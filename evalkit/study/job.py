"""Run one job of a study: `python -m evalkit.study.job FOLDER ID`, as Snakemake calls it, here or on a node.

On a cluster a training may be longer than a job's time limit. Slurm is asked to warn before it (engine.py); the command
then saves and ends, and the Slurm job puts itself back into the queue, under its own number, for which Snakemake still
waits. What `scancel` ends stays ended.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import EvalkitError
from ..files import write_atomic
from . import devices, plan

WARNING = signal.SIGUSR1  # the job's time runs out
SIGNALS = (signal.SIGTERM, WARNING, signal.SIGINT)  # what ends a job: the command gets them too
STOPPED = (2, 130)  # exit codes of a command that saved its state and can go on
PYTHON = ("-P", "-m", "evalkit")  # no torch.py of the working directory instead of torch
IDLE = 2  # times in a row that the time may run out before a new checkpoint is there; once, while everything starts


def run(folder: Path, id: str) -> int:
    """Run the job unless its record is there, and note how it ended beside it. Returns its exit code.

    A training or transfer that was begun goes on where it stopped. The signals that end a job are handed to the
    command, which saves and ends; the end is that of the command. What another process is running already, of a study
    whose own process was killed, is waited for.

    Args:
        folder: The study's folder.
        id: Of the job in its plan.
    """
    (folder / "jobs").mkdir(exist_ok=True)
    with (folder / "jobs" / f"{id}.lock").open("wb") as lock:  # ends with this process
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _run(folder, id)


def _run(folder: Path, id: str) -> int:
    study = plan.read(folder)
    job = study.job(id)
    if plan.finished(folder, job):
        _note(folder, id, state="done", message="its record was there already")
        return 0
    cwd = folder / study.cwd
    if not cwd.is_dir():
        _note(folder, id, state="failed", message=f"{cwd}, where the study was started, is gone; run the study again")
        return 1
    out = folder / job.out
    if out.is_symlink() and not out.exists():  # taken from elsewhere
        _note(folder, id, state="failed", message=f"{out} links to {os.readlink(out)}, which is gone; remove the link")
        return 1
    began, idle = time.time(), plan.state(folder, job).get("idle", 0)
    idle = idle if isinstance(idle, int) else 0
    saved = _newest(folder / job.out)
    _note(folder, id, state="running", pid=os.getpid(), began=began, idle=idle)
    with devices.taken(job.gpus) as environment:
        ended = _call(
            [study.python, *PYTHON, *_argv(folder, job, cwd)], cwd, folder / "jobs" / f"{id}.log", environment
        )
    done = ended.code == 0 and plan.finished(folder, job)
    state = "done" if done else "stopped" if ended.code in STOPPED or ended.code < 0 else "failed"
    message = "" if done else ended.last
    if state == "stopped" and WARNING in ended.signals and "SLURM_JOB_ID" in os.environ:
        idle = idle + 1 if _newest(folder / job.out) == saved else 0
        if idle < IDLE:
            state, message = _requeued()
        else:
            state, message = "failed", f"its time ran out {idle} times without a new checkpoint; ask for more runtime"
    _note(folder, id, state=state, exit=ended.code, began=began, ended=time.time(), message=message, idle=idle)
    if done and all(plan.finished(folder, other) for other in study.of_cell(job.cell)):
        prune(folder / study.of_cell(job.cell)[0].out)
    return 0 if done else ended.code or 1


def _newest(run: Path) -> str | None:
    """The name of the newest checkpoint of a training or transfer."""
    return max((path.name for path in (run / "checkpoints").glob("step-*")), default=None)


def _requeued() -> tuple[str, str]:
    """Put this Slurm job back into the queue: the state and message of the study's job."""
    command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    asked = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if asked.returncode:
        return "stopped", f"Slurm does not requeue it: {(asked.stderr or asked.stdout).strip()}"
    return "waiting", "requeued by Slurm"


def _argv(folder: Path, job: plan.Job, cwd: Path) -> list[str]:
    """The command's arguments: a run folder that was begun is continued. The study's folder is named from where the
    command runs, if it lies there: records hold these words, and need not tell where a home is."""
    shown = folder.relative_to(cwd) if folder.is_relative_to(cwd) else folder
    several = ["--gpus", str(job.gpus)] if job.gpus > 1 else []
    if (folder / job.out / "config.yaml").is_file():
        mixup = " ".join(word.partition("=")[2] for word in job.argv if word.startswith("mixup="))
        code = [f"mixup={name}" for name in plan.CODE.findall(mixup)]  # which a resume must name again
        what = job.argv[:1] if job.argv[0] == "train" else job.argv[:2]
        return [*what, *code, *several, "--resume", str(shown / job.out)]
    left = folder / job.out
    if left.exists() and job.argv[0] in ("train", "transfer"):
        shutil.rmtree(left)  # of a start that died before it had written its config
    return [*plan.words(shown, job), *several, "--out", str(shown / job.out)]


class _End(NamedTuple):
    """How a command ended: its exit code, its last line, the signals that came for it."""

    code: int
    last: str
    signals: list[int]


def _call(command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> _End:
    """Run a command of evalkit in a directory, its output into `log`."""
    signals: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _frame: object) -> None:
        signals.append(number)
        if process is not None:
            process.send_signal(number)

    # before the command starts, which would inherit that Snakemake ignores the warning
    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        with log.open("ab") as out:
            out.write(f"$ evalkit {json.dumps(command[1 + len(PYTHON) :])}\n".encode())
            out.flush()
            environment = os.environ | environment
            process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, env=environment)
            if signals:  # came as it started
                process.send_signal(signals[0])
            code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    lines = log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
    return _End(code, lines[-1] if lines else "", signals)


def _note(folder: Path, id: str, **facts: Any) -> None:
    facts |= {"host": socket.gethostname(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
    text = json.dumps(facts, sort_keys=True) + "\n"
    write_atomic(folder / "jobs" / f"{id}.json", lambda f: f.write(text.encode()))


def prune(run: Path) -> None:
    """Remove the training states of a finished run: its weights stay, it cannot be trained further. A run that was made
    elsewhere keeps them."""
    if run.is_symlink():
        return
    for path in run.glob("checkpoints/*/train_state.pt"):
        path.unlink(missing_ok=True)


def main(folder: Path, id: str) -> int:
    """`run`, with a line for what it cannot write: the study's other jobs go on, and Snakemake prints it.

    Args:
        folder: The study's folder.
        id: Of the job in its plan.
    """
    try:
        return run(folder, id)
    except EvalkitError as e:
        said = str(e)
    except OSError as e:
        said = f"cannot write {e.filename or folder}: {e.strerror or e}"
    print(f"error: job {id}: {said}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
