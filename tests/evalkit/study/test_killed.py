"""A small study that is killed again and again ends with the records of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from evalkit import results
from evalkit.study import plan

STUDY = {
    "recipe": "digits",
    "set": {
        "model": "vit_nano_patch4_32",
        "model_args": {"depth": 1},
        "limit": 600,
        "epochs": 2,
        "batch_size": 20,
        "micro_batch": 20,
        "warmup_epochs": 1,
        "eval_epochs": 2,
        "checkpoint_steps": 2,
        "log_steps": 1,
        "threads": 1,
        "workers": 0,
    },
    "axes": {"method": {"mixup": {"mixup": "mixup"}, "transmix": {"mixup": "transmix"}}, "seed": [0, 1]},
}
KILLS, MORE = 5, 10
# In each training: it waits before its next line while the logs of the study hold as many as the file says.
WAITS = """
import glob, os, sys, time
if "train" in sys.orig_argv and os.environ.get("EVALKIT_TEST_MOST"):
    from evalkit.logger import Logger
    def log(self, *values, log=Logger.log):
        while lines() >= int(open(os.environ["EVALKIT_TEST_MOST"]).read()):
            time.sleep(0.01)
        log(self, *values)
    def lines():
        return sum(open(path, "rb").read().count(b"\\n") for path in glob.glob("cells/*/train/log.jsonl"))
    Logger.log = log
"""


def start(file, folder, most=None):
    """The study in a process group of its own; its trainings write no more lines than the file `most` says."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    if most is not None:
        (file.parent / "site" / "sitecustomize.py").parent.mkdir(exist_ok=True)
        (file.parent / "site" / "sitecustomize.py").write_text(WAITS)
        environment["PYTHONPATH"] = f"{file.parent / 'site'}{os.pathsep}{environment['PYTHONPATH']}"
        environment["EVALKIT_TEST_MOST"] = str(most)
    command = [sys.executable, "-m", "evalkit", "study", "run", str(file), "--out", str(folder), "--jobs", "2"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True)  # fmt: skip


def progress(folder):
    """Lines in the logs of the trainings: how far the study is."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("cells/*/train/log.jsonl"))


def measured(folder):
    """Cell -> metrics and weights of its records."""
    found = {}
    for job in plan.read(folder).jobs:
        records = results.read([folder / job.out])
        found[job.id] = [(r["metrics"], r["checkpoint_sha256"], r["complete"]) for r in records]
    return found


@pytest.mark.slow
def test_killed_at_random(tmp_path):
    pytest.importorskip("snakemake")
    file, rng = tmp_path / "small.yaml", random.Random(0)
    file.write_text(yaml.safe_dump(STUDY))
    whole = start(file, tmp_path / "whole")
    assert whole.wait(1200) == 0, whole.stdout.read().decode()
    folder, most = tmp_path / "killed", tmp_path / "most"
    for _ in range(KILLS):
        wanted = progress(folder) + rng.randint(1, 20)  # of some 240 lines: the next one or much later
        most.write_text(str(wanted + MORE))  # however late this process is
        process = start(file, folder, most)
        while progress(folder) < wanted:
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)  # the command, Snakemake, its jobs, the trainings
        process.wait()
    last = start(file, folder)
    assert last.wait(1200) == 0, last.stdout.read().decode()
    assert measured(folder) == measured(tmp_path / "whole")
    assert all(len(records) == 1 for records in measured(folder).values())  # exactly one per cell
    assert not list(folder.glob("cells/*/train/checkpoints/*/train_state.pt"))  # of finished cells
