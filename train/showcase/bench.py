"""How long each method takes to mix a batch, next to copying the batch."""

import ctypes
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalkit.data.loading import made
from evalkit.ordered import each_once
from evalkit.runtime import derive_rng

from ..mixups import Context
from ..mixups.base import checked_mix, checked_pick
from ..mixups.parts import outcome
from . import stand_in

CLASSES = 1000
WARM_UP = 2


def bench(
    names: list[str], *, batch: int, size: int, device: torch.device, repeats: int
) -> list[tuple[str, float, float]]:
    """(name, median ms per batch, ratio to the median of cloning the batch), "clone" first.

    Default presets on float32 images (batch, 3, size, size). Timed are `mix` and the label shares. Networks answer at
    once, so passes through them are not timed, nor what alignmix and mixtoken do within one; but supermix finds its
    masks by passes of a teacher, here a small one. In each of the `repeats` every method has its turn, with draws of
    its own, right after a clone, so that both see the same moods of the machine; the ratio is to the median of all
    clones. Every timed call begins with the freed memory handed back to the system, as in a new process; see
    `release_memory`.

    Args:
        names: The methods.
        batch: Images in a batch.
        size: Pixels per side of an image.
        device: Where the methods run.
        repeats: Turns of every method.
    """
    x = torch.from_numpy(derive_rng("bench").standard_normal((batch, 3, size, size), dtype=np.float32)).to(device)
    y = torch.arange(batch, device=device) % CLASSES
    vit = stand_in.network(size, CLASSES, patch=16 if size >= 64 else 4).to(device)
    nets = {name: stand_in.suited(name, vit) for name in names}
    methods = {name: stand_in.method(name, own) for name, own in nets.items()}
    for own in each_once(nets.values()):
        stand_in.answer_at_once(own, [methods[name] for name in names if nets[name] is own], x)

    def mixer(name: str) -> Callable[[int], object]:
        method, net = methods[name], nets[name]
        extras = {
            extra: views(functools.partial(made, extra, make), batch, size, device)
            for extra, make in method.loader_extras.items()
        }
        # those that mix inside the network do it during the pass
        draws = {"layer": 0} if "layer" in method.settled else None

        def run(repeat: int) -> object:
            ctx = Context.simple(
                CLASSES, derive_rng("bench", name, repeat), extras=extras, mean=net.mean, std=net.std, draws=draws
            )
            picked = checked_pick(method, ctx)
            mixed = checked_mix(picked, ctx, x, y, net)
            weights = picked.relabel(ctx, mixed, y, net(mixed.x))
            outcome.check_weights(picked, weights, y, "relabel", len(mixed.x))
            return weights

        return run

    def clone(repeat: int) -> object:
        return x.clone()

    jobs = {name: mixer(name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in ("clone", *jobs)}
    with torch.no_grad():
        for repeat in range(-WARM_UP, repeats):
            for name, job in jobs.items():
                copying, mixing = timed(clone, repeat, device), timed(job, repeat, device)
                if repeat >= 0:
                    seconds["clone"].append(copying)
                    seconds[name].append(mixing)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [(name, 1000 * median, median / medians["clone"]) for name, median in medians.items()]


def views(make: Callable[..., Tensor], batch: int, size: int, device: torch.device) -> Tensor:
    """What the loader makes of an image, for a whole batch.

    Args:
        make: What the loader makes of one image.
        batch: Images in the batch.
        size: Pixels per side of an image.
        device: Where the result goes.
    """
    image = Image.fromarray(derive_rng("bench").integers(256, size=(size, size, 3), dtype=np.uint8))
    one = make(image, derive_rng("bench"))
    return one[None].repeat(batch, *[1] * one.ndim).to(device)


def release_memory() -> None:
    """Hand freed memory back to the system, where the C library can (glibc).

    By itself it keeps some for the next tensor, depending on what ran before: a clone then takes two milliseconds or
    ten. A new process has none, so large tensors are new pages, whose first touch is part of what they cost.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def timed(job: Callable[[int], object], repeat: int, device: torch.device) -> float:
    """Seconds of one call, until the device is done.

    Args:
        job: What is timed, called with the number of the repeat.
        repeat: That number.
        device: Where it runs.
    """
    release_memory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    job(repeat)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def table(results: list[tuple[str, float, float]]) -> str:
    """The results as aligned lines, quickest first."""
    lines = [f"{'method':18} {'ms/batch':>9} {'x clone':>8}"]
    return "\n".join(
        lines + [f"{name:18} {ms:9.2f} {ratio:8.2f}" for name, ms, ratio in sorted(results, key=lambda row: row[1])]
    )
