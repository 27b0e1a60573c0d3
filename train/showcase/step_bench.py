"""How long a training step takes on synthetic images, by method and by part."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from evalkit import data
from evalkit.data.images import ArrayImages
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng

from .. import helpers, loop, session
from ..config import TrainConfig
from ..mixups.base import checked_mix, checked_pick
from ..network import make_network

CLASSES = 1000
PARTS = ("input", "mix", "forward", "backward", "update")


@dataclass(frozen=True)
class Cost:
    """What a step of one method takes.

    Args:
        name: The method, as the table calls it.
        seconds: Of a step: median, least, most.
        relative: To vanilla, the median over the repeats.
        parts: Seconds, with a wait after each part; their sum is more than a step.
        memory: Peak bytes on a GPU.
        parameters: Of the network, the method and its frozen teachers.
    """

    name: str
    seconds: tuple[float, float, float]
    relative: float
    parts: Mapping[str, float]
    memory: int | None
    parameters: int


def bench(cfg: TrainConfig, methods: list[Any], device: torch.device, repeats: int, steps: int = 1) -> list[Cost]:
    """Steps of the recipe's network and optimizer with each method, in turns; vanilla comes first.

    Args:
        cfg: the recipe; its micro-batch is the batch of a step.
        methods: as in the key `mixup`.
        device: Where the steps run.
        repeats: turns of each method.
        steps: in a turn, without a wait between them.

    Raises EvalkitError for a method that does not go with the network.
    """
    images = synthetic(cfg.image_size, cfg.micro_batch, "train"), synthetic(cfg.image_size, cfg.micro_batch, "val")
    names = ["vanilla", *(m for m in methods if m != "vanilla")]
    trained = {}
    for name in names:
        own = replace(cfg, mixup=name, methods={}, batch_size=cfg.micro_batch, accumulate=1, workers=0, augment="none")
        own = replace(own, auto_augment=None, color_jitter=0.0, label=None, distill_teacher=None, epochs=10**6)
        try:
            trained[session.method_name(name)] = _Trained(session.build(own, device, images))
        except EvalkitError as e:
            raise EvalkitError(f"{session.method_name(name)}: {e}") from e
    times: dict[str, list[float]] = {name: [] for name in trained}
    memory: dict[str, int | None] = {}
    for repeat in range(-1, repeats):  # the first round warms up
        for name, one in trained.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)

            def several(one: _Trained = one) -> None:
                for _ in range(steps):
                    one.step()

            seconds = _timed(several, device) / steps
            memory[name] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            if repeat >= 0:
                times[name].append(seconds)
    costs = []
    for name, one in trained.items():
        relative = statistics.median(a / b for a, b in zip(times[name], times["vanilla"]))
        spread = (statistics.median(times[name]), min(times[name]), max(times[name]))
        costs.append(Cost(name, spread, relative, one.parts(), memory[name], one.parameters))
    return costs


def synthetic(size: int, count: int, split: str) -> data.Images:
    """Images of noise, in 1000 classes.

    Args:
        size: Pixels per side.
        count: How many.
        split: Name of the split.
    """
    pixels = derive_rng("synthetic", split).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels, classes = np.arange(count) % CLASSES, [str(c) for c in range(CLASSES)]
    return ArrayImages("synthetic", [f"{split}/{i}" for i in range(count)], labels, classes, pixels)


def flops_per_image(cfg: TrainConfig) -> float:
    """Floating-point operations of a training step, per image, of the network alone: three times the forward pass."""
    # on no device: the CPU's fused attention is not counted
    network = make_network(replace(cfg, init=None), CLASSES).eval().to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, cfg.image_size, cfg.image_size, device="meta"))
    return 3.0 * counter.get_total_flops()


class _Trained:
    """A session, and steps of it on one batch."""

    def __init__(self, s: session.Session):
        self.s, self.context = s, loop.context_maker(s, 10**6)
        session.lay_out(s)
        self.batch = next(loop.batch_iterator(s, 0))

    @property
    def parameters(self) -> int:
        """Of the network and the method, and of the frozen networks that the method asks, classifiers included."""
        asked = [teacher.network for teacher in helpers.teachers(self.s.method, self.s.trainee.distillation)]
        return sum(p.numel() for part in (self.s.trainee, *asked) for p in part.parameters())

    def step(self) -> None:
        """One step as the loop takes it."""
        s = self.s
        batch = replace(self.batch, step=s.step)
        loss = loop.forward(s, s.trainee, self.context(s.step, 0, batch.extras), batch)
        s.scaler.scale(loss).backward()
        loop.update(s, self.context(s.step, None), measured=False)
        s.step += 1

    def parts(self) -> dict[str, float]:
        """Seconds of each part of one step, the second of two."""
        self._parts()
        return self._parts()

    def _parts(self) -> dict[str, float]:
        s, found = self.s, dict.fromkeys(PARTS, 0.0)
        ctx, held = self.context(s.step, 0, self.batch.extras), {}
        s.trainee.train()
        dtype = loop.AMP_DTYPES[s.cfg.amp]

        def inside(work: Callable[[], Any]) -> None:
            with s.batchnorm.micro_batch(), torch.autocast(s.device.type, dtype=dtype, enabled=dtype is not None):
                held["out"] = work()

        def timed(part: str, work: Callable[[], Any]) -> Any:
            found[part] = _timed(lambda: held.update(out=work()), s.device)
            return held["out"]

        x, y = timed("input", lambda: loop.prepare(s, self.batch, ctx))
        method = checked_pick(s.method, ctx)
        with torch.autocast(s.device.type, dtype=dtype, enabled=dtype is not None):
            timed("mix", lambda: checked_mix(method, ctx, x, y, s.network))
        ctx = self.context(s.step, 0, self.batch.extras)  # the same draws again
        whole = _timed(lambda: inside(lambda: s.trainee(ctx, x, y)), s.device)
        found["forward"], loss = max(0.0, whole - found["mix"]), held["out"]
        found["backward"] = _timed(lambda: s.scaler.scale(loss).backward(), s.device)
        found["update"] = _timed(lambda: loop.update(s, self.context(s.step, None), measured=False), s.device)
        s.step += 1
        return found


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device has done `work`."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
