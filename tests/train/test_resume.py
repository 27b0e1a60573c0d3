"""Kill a run anywhere, resume it with other worker and process counts: the final bytes must be those of the
uninterrupted run."""

import functools
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evalkit import checkpoint

from .. import forked, held

# Every part with state takes part: stochastic depth, augmentation, a random choice of methods, EMA, batch norm,
# clipping, Adam moments. one has a parameter, idle in other steps
METHODS = "[mixup, {name: mixpro, scale: 2}, {name: mixpro, preset: learnable, scale: 2}, transmix]"
VIT = ["model=vit_nano_patch4_32", "model_args={drop_path_rate: 0.1, depth: 2}", f"mixup={{choice: {METHODS}}}"]
RESNET = ["model=resnet10_cifar", "mixup=cutmix", "opt=momentum", "lr=0.05", "schedule=step", "decay_epochs=[1]"]
# Parameters, batch-norm statistics and draws of the methods' own.
LEARNED = {
    "automix-resnet": [*RESNET, "mixup={name: automix, switch_off: 0.5, block_min_lr: 0.01}"],
    "samix-vit": [*VIT, "mixup={choice: [mixup, {name: samix, preset: vit, norm: bn, head_one_mix: true}]}"],
    "adautomix-resnet": [*RESNET, "mixup={name: adautomix, images: 3, switch_off: 0.5}"],
}
# Passes in evaluation mode between those that train, a head of the method's own that some steps leave out, features
# mixed before the head.
CLEAN_PASS = [*VIT[:2], "mixup={choice: [mixup, smmix, {name: tokenmix, teacher: self}, saliency_grafting]}"]
# Attention of all blocks, tokens that merge, a loss on top of another method.
OTHERS = [*VIT[:2], "mixup={choice: [tl_align, mergemix, {name: decouplemix, method: cutmix}]}"]
POOLED = [*RESNET[:1], "mixup={choice: [alignmix, snapmix, puzzlemix]}", *RESNET[2:]]
# A teacher's say on top of another method.
DISTILLED = ["model=deit_tiny_distilled_patch16_224", "mixup=transmix", "distill_type=hard"]
DISTILLED += ["model_args={img_size: 32, patch_size: 8, embed_dim: 24, depth: 1, num_heads: 2, drop_path_rate: 0.1}"]
COMMON = [
    "epochs=3",
    "batch_size=64",
    "micro_batch=32",
    "augment=pad-crop",
    "ema=0.9",
    "clip_grad=1.0",
    "threads=1",
    "workers=0",
    "checkpoint_steps=4",
    "log_steps=1",
    "eval_epochs=2",
    "device=cpu",
]


PROGRAM = [sys.executable, "-m", "evalkit"]


def command(run: Path, *extra: str, resume: bool = False, processes: int = 1) -> list[str]:
    start = ["--resume", str(run)] if resume else ["digits", *COMMON, "--out", str(run)]
    several = ["--gpus", str(processes)] if processes > 1 else []
    return [*PROGRAM, "train", *start, *several, *extra]


def finish(*args: str) -> None:
    """Run a command to its end, in a process of its own."""
    done = subprocess.run(args, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def in_fork(folder: Path, args: list[str], most: int | None = None) -> forked.Command:
    """Start a command in a fork, which waits for good after so many step lines; what it says goes to a file in the
    folder."""
    assert args[: len(PROGRAM)] == PROGRAM
    prepare = None if most is None else functools.partial(forked.hold, most)
    return forked.Command(args[len(PROGRAM) :], folder / f"said-{time.monotonic_ns()}.txt", prepare)


def finish_in_fork(folder: Path, args: list[str]) -> None:
    """Run a command to its end, in a fork."""
    running = in_fork(folder, args)
    assert running.wait() == 0, running.text()


def digest(run: Path) -> list[tuple[str, str]]:
    """Every tensor's bytes and every number of the final weights, averaged weights and training state (the pickle
    itself also tells which Python objects were shared, which a resume changes)."""
    folder = (run / "last").resolve()
    sums = checkpoint.verify(folder)["sha256"]
    return [(k, v) for k, v in sums.items() if k.endswith("safetensors")] + list(
        leaves("", checkpoint.load_state(folder))
    )


def leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, torch.Tensor):
        yield path, hashlib.sha256(value.numpy().tobytes()).hexdigest()
    elif isinstance(value, dict | list | tuple):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(f"{path}/{key}", child)
    else:
        yield path, repr(value)


def kill_at(folder: Path, args: list[str], lines: int, pause: float) -> None:
    """Start `args` in a fork, wait for that many step lines and `pause` seconds more, then SIGKILL all its processes:
    two lines later at most, however slow this process is."""
    running = in_fork(folder, args, lines + 2)
    assert running.until(lines, "step "), running.text()
    time.sleep(pause)
    assert running.kill(), running.text()


@pytest.mark.slow
def test_two_processes_equal_one_process_with_two_micro_batches(tmp_path):
    cases = {"vit": VIT, "resnet": RESNET, "clean": CLEAN_PASS, "others": OTHERS, "pooled": POOLED, **LEARNED}
    cases["distilled"] = [*DISTILLED, f"distill_teacher={tmp_path / 'vit1'}"]
    for name, model in cases.items():
        finish_in_fork(tmp_path, command(tmp_path / f"{name}1", *model, "epochs=1"))
        finish_in_fork(tmp_path, command(tmp_path / f"{name}2", *model, "epochs=1", processes=2))
        assert digest(tmp_path / f"{name}1") == digest(tmp_path / f"{name}2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One epoch of the ViT without a disturbance, in a process of its own."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(*command(run, *VIT, "epochs=1"))
    return run


@pytest.mark.slow
def test_worker_count_changes_nothing(whole, tmp_path):
    finish_in_fork(tmp_path, command(tmp_path / "run", *VIT, "epochs=1", "workers=2"))
    assert digest(tmp_path / "run") == digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kills"), [(VIT, 9), (RESNET, 6)], ids=["vit", "resnet"])
def test_random_kills(tmp_path, model, kills):
    """SIGKILL in mid-step, mid-write and mid-epoch; resumed with 0 or 2 workers and 1 or 2 processes."""
    model = [*model, "epochs=4"]
    finish(*command(tmp_path / "whole", *model))
    run, rng, fresh = tmp_path / "killed", random.Random(5), True
    for _ in range(kills):  # each life is nine steps long at most, the run 84
        processes = rng.choice([1, 1, 2])
        args = command(
            run, *(model if fresh else []), f"workers={rng.choice([0, 2])}", resume=not fresh, processes=processes
        )
        kill_at(tmp_path, args, rng.randint(1, 7), rng.random() * 0.1)
        fresh = not (run / "config.yaml").exists()
    finish_in_fork(tmp_path, command(run, resume=True))
    assert digest(run) == digest(tmp_path / "whole")
    steps = [
        json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if "loss" in json.loads(line)
    ]
    assert steps == list(range(1, steps[-1] + 1))  # no step twice, none missing


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 2), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on(whole, tmp_path, number, code):
    words = command(tmp_path / "run", *VIT, "epochs=1", "checkpoint_steps=1000")[len(PROGRAM) :]
    ended, text = held.stop(words, number, 5, tmp_path / "go")
    assert ended == code and "continue with: evalkit train --resume" in text
    finish_in_fork(tmp_path, command(tmp_path / "run", resume=True))
    assert digest(tmp_path / "run") == digest(whole)
