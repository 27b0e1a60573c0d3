"""A study on a real Slurm, started for it: jobs that end before their training does leave what undisturbed ones do."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import yaml

from evalkit.study import engine, plan, spec

from . import slurm

STUDY = {
    "title": "Two methods, two seeds",
    "recipe": "digits",
    "set": {"threads": 1, "epochs": 2, "eval_epochs": 2, "checkpoint_steps": 5, "log_steps": 1},
    "axes": {"method": {"vanilla": {}, "mixup": {"mixup": "mixup"}}, "seed": [0, 1]},
}
LONG = 30  # minutes, more than any of the trainings takes
RESOURCES = ["slurm_partition=main", "slurm_account=none", f"runtime={LONG}", "gpu=0", "mem_mb=0"]
RESOURCES += ["slurm_extra=--signal=USR1@120"]
ALONE = "import sys, pathlib; from evalkit.study import engine; sys.exit(engine.run(pathlib.Path(sys.argv[1]), jobs=2))"
# In the first life of a training on the cluster: having a checkpoint, it waits for the signal of its end.
WAITS = """
import os, sys, time
if "SLURM_JOB_ID" in os.environ and "train" in sys.orig_argv and "--resume" not in sys.orig_argv:
    from evalkit.guard import Guard
    from evalkit.logger import Logger
    came = []
    def receive(self, number, frame, receive=Guard._receive):
        came.append(number)
        receive(self, number, frame)
    def log(self, step, *values, log=Logger.log):
        log(self, step, *values)
        while step > 5 and not came:
            time.sleep(0.05)
    Guard._receive, Logger.log = receive, log
"""
PROFILE = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 5}


@pytest.fixture(scope="module")
def cluster():
    if why := slurm.obstacle():
        pytest.skip(why)
    pytest.importorskip("snakemake_executor_plugin_slurm")
    with tempfile.TemporaryDirectory(prefix="evalkit-slurm-") as folder, slurm.running(Path(folder)) as environment:
        yield environment


class Nuisance(threading.Thread):
    """Does something to the Slurm job of a training as soon as that has a checkpoint: puts it back into the queue,
    cancels it, or lets its time run out. No requeued job waits the two minutes that are usual."""

    def __init__(self, folder: Path, todo: dict[str, str]):
        super().__init__(daemon=True)
        self.folder, self.todo, self.ended = folder, todo, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(1.0):
            for id in list(self.todo):
                if not list((self.folder / plan.read(self.folder).job(id).out / "checkpoints").glob("step-*")):
                    continue
                number = json.loads((self.folder / "jobs" / f"{id}.json").read_text())["slurm_job"]
                passed = _call("squeue", "-h", "-j", number, "-O", "TimeUsed").strip()  # minutes:seconds
                minutes = int(passed.split(":")[-2])
                words = {
                    "requeue": ["scontrol", "requeue", number],
                    "cancel": ["scancel", number],
                    # in whole minutes: one to two are left, and the warning, due two before the end, comes at once
                    "time": ["scontrol", "update", f"JobId={number}", f"TimeLimit={minutes + 2}"],
                }
                _call(*words[self.todo.pop(id)])
            for number in _call("squeue", "-h", "-t", "PENDING", "-o", "%i").split():
                _call("scontrol", "update", f"JobId={number}", f"TimeLimit={LONG}", "StartTime=now")


def _call(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_jobs_that_end_early_are_requeued_and_leave_the_same_records(cluster, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    study = spec.load(tmp_path / "mine.yaml")
    made = plan.make(study, study.cells)
    alone, disturbed = tmp_path / "alone", tmp_path / "disturbed"
    for folder in (alone, disturbed):
        plan.start(folder, made, study)
    undisturbed = subprocess.Popen([sys.executable, "-c", ALONE, alone])

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WAITS)
    path = [str(tmp_path / "site"), *(p for p in sys.path if p)]
    for name, value in {**cluster, "PYTHONPATH": os.pathsep.join(path)}.items():
        monkeypatch.setenv(name, value)
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text(yaml.safe_dump(PROFILE))
    ids = [job.id for job in made.jobs]
    nuisance = Nuisance(disturbed, dict(zip(ids, ("requeue", "cancel", "time", "time"), strict=True)))
    nuisance.start()
    try:
        assert engine.run(disturbed, jobs=4, slurm=RESOURCES, profile=profile) != 0  # one was cancelled
        states = [plan.state(disturbed, job)["state"] for job in made.jobs]
        assert states == ["done", "stopped", "done", "done"]
        assert engine.run(disturbed, jobs=4, slurm=RESOURCES, profile=profile) == 0
    finally:
        nuisance.ended.set()
        nuisance.join()
        undisturbed_code = undisturbed.wait()
    assert undisturbed_code == 0
    logs = [(disturbed / "jobs" / f"{id}.log").read_text() for id in ids]
    ends = [re.findall(r"stopped by (\w+) at step", log) for log in logs]
    assert not nuisance.todo and ends == [["SIGTERM"], ["SIGTERM"], ["SIGUSR1"], ["SIGUSR1"]]
    for job in made.jobs:
        assert _records(disturbed / job.out) == _records(alone / job.out)


def _records(run: Path) -> list[dict]:
    """What a run has left, in which the weights are named by their sha256."""
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 1
    return [{k: v for k, v in line.items() if k not in ("seconds", "environment")} for line in lines]
