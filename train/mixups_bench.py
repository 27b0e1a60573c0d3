"""How long each method takes to mix a batch, next to copying the batch."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from evalkit.runtime import derive_rng

from . import stand_in
from .mixups import Context

CLASSES = 1000
WARM_UP = 2
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def bench(names: list[str], *, batch: int, size: int, device: torch.device, repeats: int) -> list[tuple[str, float, float]]:
    """(name, median ms per batch, ratio to the median of cloning the batch), "clone" first.

    Default presets on float32 images (batch, 3, size, size). Timed are `mix` and the label shares. Networks answer at once, so passes through
    them are not timed, nor what alignmix and mixtoken do within one. The methods take turns within each of the `repeats`, each with its own draws, so that
    all see the same moods of the machine. Freed memory is kept, so that new pages from the system are not part of the time.
    """
    x = torch.from_numpy(derive_rng("bench").standard_normal((batch, 3, size, size), dtype=np.float32)).to(device)
    y = torch.arange(batch, device=device) % CLASSES
    net = stand_in.network(size, CLASSES).to(device)
    nets = {name: stand_in.suited(name, net) for name in names}
    methods = {name: stand_in.method(name, own) for name, own in nets.items()}
    for own in dict.fromkeys(nets.values()):
        stand_in.answer_at_once(own, [methods[name] for name in names if nets[name] is own], x)
    views = torch.rand(batch, 2, 3, size, size, device=device) if "augmix" in names else None

    def mixing(name: str) -> Callable[[int], object]:
        method, net = methods[name], nets[name]

        def run(repeat: int) -> object:
            extras = {"views": views} if method.loader_extras else {}
            draws = {"layer": 0} if name in ("alignmix", "manifold") else None  # the image: in the network they mix during the pass
            ctx = Context.simple(CLASSES, derive_rng("bench", name, repeat), extras=extras, mean=net.mean, std=net.std, draws=draws)
            mixed = method.mix(ctx, x, y, net)
            return method.relabel(ctx, mixed, y, net(mixed.x))

        return run

    jobs = {"clone": lambda repeat: x.clone()} | {name: mixing(name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.no_grad(), kept_memory():
        for repeat in range(-WARM_UP, repeats):
            for name, job in jobs.items():
                taken = timed(job, repeat, device)
                if repeat >= 0:
                    seconds[name].append(taken)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [(name, 1000 * median, median / medians["clone"]) for name, median in medians.items()]


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, the C library keeps freed memory for the next tensor, where it can be told so (glibc), as a GPU's allocator does.

    By itself it takes new pages for some tensors and old ones for others, depending on what ran before: several times slower or quicker.
    """
    libc = ctypes.CDLL(None)
    tunable = hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")
    if tunable:
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        if tunable:  # the defaults
            libc.mallopt(M_MMAP_MAX, 65536)
            libc.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
            libc.malloc_trim(0)


def timed(job: Callable[[int], object], repeat: int, device: torch.device) -> float:
    """Seconds of one call, until the device is done."""
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
    return "\n".join(lines + [f"{name:18} {ms:9.2f} {ratio:8.2f}" for name, ms, ratio in sorted(results, key=lambda row: row[1])])
