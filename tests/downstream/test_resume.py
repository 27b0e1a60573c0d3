"""Kill a transfer anywhere and resume it: the weights are those of the run that was never killed, and no result is
written too early."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from evalkit import config, results
from evalkit.logger import Logger

from .. import forked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed"),
]
STEPS = 24
# Stochastic depth, dropout, random crops, colours and flips take part, and so do the moments of Adam.
RECIPE = [
    *(
        "crop=32",
        "stride=32",
        "flip=0.5",
        f"steps={STEPS}",
        "warmup_steps=4",
        "batch_size=4",
        "head=segmenter",
        "head_dropout=0.1",
        "drop_path=0.1",
    ),
    *(
        "photometric=true",
        "workers=1",
        "mm.model.decode_head.num_layers=1",
        "log_steps=1",
        "checkpoint_steps=5",
        "threads=1",
        "device=cpu",
    ),
]


PROGRAM = [sys.executable, "-m", "evalkit"]


def command(run: Path, *words: str, processes: int = 1) -> list[str]:
    several = ["--gpus", str(processes)] if processes > 1 else []
    out = ["--out", str(run)] if "--resume" not in words else []
    return [*PROGRAM, "transfer", "seg", *words, *several, *out]


def start(run: Path, weights: Path, shapes: Path, *words: str, processes: int = 1) -> list[str]:
    return command(
        run, str(weights), "--recipe", "digits-scenes", f"data={shapes}", *RECIPE, *words, processes=processes
    )


def in_fork(folder: Path, args: list[str], prepare: Callable[[], None] | None = None) -> forked.Command:
    """Start a command in a fork; what it says goes to a file in the folder."""
    assert args[: len(PROGRAM)] == PROGRAM
    forked.SERVER.set_forkserver_preload([*forked.IMPORTED, "tests.downstream.preloaded"])
    return forked.Command(args[len(PROGRAM) :], folder / f"said-{time.monotonic_ns()}.txt", prepare)


def finish(folder: Path, args: list[str]) -> str:
    running = in_fork(folder, args)
    assert running.wait() == 0, running.text()
    return running.text()


def stop(args: list[str], number: int, at: int, folder: Path) -> tuple[int, str]:
    """Send a signal to the process group within the step after `at`, however late this process is; exit code and
    output."""
    go = folder / f"go-{at}"
    running = in_fork(folder, args, partial(forked.hold_at, at + 1, go))
    assert running.until(1, f"step {at}/"), running.text()
    time.sleep(0.05)  # anywhere in the next step
    os.killpg(running.process.pid, number)
    go.touch()
    return running.wait(), running.text()


def final(run: Path) -> dict:
    return torch.load(run / f"checkpoints/step-{STEPS:09d}.pth", weights_only=True)


def column(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if "loss" in line]  # the others are measurements


@pytest.fixture(scope="module")
def whole(weights, shapes, tmp_path_factory) -> Path:
    """In a process of its own: the others run in forks."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = subprocess.run(start(run, weights, shapes), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = final(run), final(whole)
    assert all(torch.equal(ours["state_dict"][k], v) for k, v in theirs["state_dict"].items())
    assert ours["param_schedulers"] == theirs["param_schedulers"] and ours["meta"]["iter"] == STEPS
    assert column(run, "step") == list(range(1, STEPS + 1))
    assert column(run, "lr") == column(whole, "lr") and column(run, "loss") == column(whole, "loss")
    assert results.read([run])[0]["metrics"] == results.read([whole])[0]["metrics"]


def test_killed_twice_it_ends_as_if_it_never_was(weights, shapes, whole, tmp_path):
    run = tmp_path / "run"
    assert stop(start(run, weights, shapes), signal.SIGKILL, 8, tmp_path)[0] == -signal.SIGKILL
    assert not (run / results.FILE).exists()
    assert stop(command(run, "--resume", str(run), "workers=2"), signal.SIGKILL, 13, tmp_path)[0] == -signal.SIGKILL
    assert not (run / results.FILE).exists()
    assert "at step 10" in finish(tmp_path, command(run, "--resume", str(run)))
    assert_same(run, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 2), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on(weights, shapes, whole, tmp_path, number, code):
    run = tmp_path / "run"
    ended, text = stop(start(run, weights, shapes), number, 7, tmp_path)
    assert (
        ended == code
        and f"continue with: evalkit transfer seg --resume {run}" in text
        and not (run / results.FILE).exists()
    )
    finish(tmp_path, command(run, "--resume", str(run)))
    assert_same(run, whole)


def test_the_checkpoint_it_came_from_may_be_gone(weights, shapes, whole, tmp_path):
    copy = tmp_path / "weights"
    shutil.copytree(weights, copy, symlinks=True)
    run = tmp_path / "run"
    assert stop(start(run, copy, shapes), signal.SIGKILL, 8, tmp_path)[0] == -signal.SIGKILL
    shutil.rmtree(copy)
    finish(tmp_path, command(run, "--resume", str(run)))
    assert_same(run, whole)


def test_two_processes_learn_what_one_learns(weights, shapes, tmp_path):
    """The same images and augmentation in each step; only the order of summation differs."""
    plain = ["drop_path=0", "head_dropout=0", "opt=sgd"]
    one, two = tmp_path / "one", tmp_path / "two"
    finish(tmp_path, start(one, weights, shapes, *plain))
    finish(tmp_path, start(two, weights, shapes, *plain, processes=2))
    a, b = final(one)["state_dict"], final(two)["state_dict"]
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)
    assert results.read([two])[0]["metrics"]["miou"] == pytest.approx(
        results.read([one])[0]["metrics"]["miou"], abs=0.01
    )
    assert results.read([two])[0]["environment"]["processes"] == 2


def test_two_processes_measure_the_network_they_saved(shapes, tmp_path):
    """Each process sees other images, hence other statistics for batch normalisation; an odd number of images is
    shared, and none counts twice."""
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(shapes, data)
    for kind in ("images", "masks"):
        (data / kind / "val/003.png").unlink()
    words = [
        "resnet10_cifar",
        "--recipe",
        "digits-scenes",
        f"data={data}",
        *(word for word in RECIPE[:-6] if not word.startswith("head_dropout")),  # of the Segmenter head
        "device=cpu",
        "init=random",
        "head=linear",
        "drop_path=0",
    ]
    words += ["batch_size=2", "steps=100", "lr=0.01"]
    finish(tmp_path, command(run, *words, processes=2))
    (run / results.FILE).rename(run / "two.jsonl")
    finish(tmp_path, command(run, "--resume", str(run)))
    (two,), (one,) = results.read([run / "two.jsonl"]), results.read([run / results.FILE])
    assert two["environment"]["processes"] == 2 and one["environment"]["processes"] == 1 and two["n"] == 3
    assert two["metrics"] == one["metrics"] and two["series"] == one["series"]


class Killed(BaseException):
    """The end of a process, without its cost."""


@pytest.mark.parametrize("accumulated", [2, 5])  # 24 steps: twelve changes of the weights; four, and one of the rest
def test_gathered_gradients_are_those_of_the_run_that_was_never_killed(
    weights, shapes, tmp_path, monkeypatch, accumulated
):
    """Killed in the middle of gathering, between two checkpoints and just after one: the same bytes."""
    from evalkit.downstream import seg
    from evalkit.downstream.run import transfer

    deaths: set[int] = set()

    def dying(self, step, *values, log=Logger.log):
        log(self, step, *values)
        if step in deaths:
            deaths.remove(step)
            raise Killed

    monkeypatch.setattr(Logger, "log", dying)
    words = [*RECIPE, f"data={shapes}", "workers=0", f"mm.optim_wrapper.accumulative_counts={accumulated}"]
    cfg = config.load(seg.SegConfig, "digits-scenes", words, folder="seg")
    assert transfer(seg.TASK, str(weights), cfg, tmp_path / "whole") == 0
    run = tmp_path / "run"
    deaths |= {7, 13, 21}
    with pytest.raises(Killed):
        transfer(seg.TASK, str(weights), cfg, run)
    for _ in range(2):
        with pytest.raises(Killed):
            transfer(seg.TASK, None, None, resume=run)
    assert transfer(seg.TASK, None, None, resume=run) == 0
    assert_same(run, tmp_path / "whole")
    last = [folder / f"checkpoints/step-{STEPS:09d}.pth" for folder in (run, tmp_path / "whole")]
    assert last[0].read_bytes() == last[1].read_bytes()
