"""The batches of a run, how long it waits for them, and what to do about it."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from evalkit.data.batch import Batch

from .config import TrainConfig

WORTH_SAYING = 0.1  # share of the time


@dataclass
class Feed:
    """Hands out batches and counts, since the last `turn`, the time spent waiting for them and what they took to make.

    Args:
        batches: The batches, from the loader.
        waited: Seconds of the loop without a batch.
        reading: Seconds of a worker, of storage.
        preparing: Seconds of a worker, of decoding and augmentation.
        images: Images that were handed out.
        turns: How often `turn` was called.
        advised: Whether a word on slow input was said already.
    """

    batches: Iterator[Batch]
    waited: float = 0.0
    reading: float = 0.0
    preparing: float = 0.0
    images: int = 0
    turns: int = 0
    advised: bool = False

    def __next__(self) -> Batch:
        asked = time.monotonic()
        batch = next(self.batches)
        self.waited += time.monotonic() - asked
        self.reading += batch.reading
        self.preparing += batch.preparing
        self.images += len(batch.y)
        return batch

    def turn(self, cfg: TrainConfig, seconds: float, device: str, processes: int) -> str | None:
        """Count anew after `seconds`. The advice there is to give, once in a run: not for the first stretch, in which
        workers start."""
        advice = self.advice(cfg, seconds, device, processes) if self.turns and not self.advised else None
        self.waited = self.reading = self.preparing = 0.0
        self.images, self.turns, self.advised = 0, self.turns + 1, self.advised or advice is not None
        return advice

    def advice(
        self, cfg: TrainConfig, seconds: float, device: str, processes: int = 1, cores: int | None = None
    ) -> str | None:
        """What would shorten the waiting in the last `seconds`; None where it is not worth a word.

        Args:
            cfg: the recipe.
            seconds: how long the batches since the last turn were made and used.
            device: what waits, in words.
            processes: that share the cores.
            cores: of the machine; None: as many as there are.
        """
        share = self.waited / seconds
        if share < WORTH_SAYING or not self.images:
            return None
        each = (self.reading + self.preparing) / self.images
        wanted = self.images / max(seconds - self.waited, 1e-9)  # images a second, if nothing were waited for
        needed = max(1, math.ceil(1.1 * wanted * each))
        here = max(1, (cores or os.cpu_count() or 1) // processes)
        steps = []
        if cfg.workers < min(needed, here):
            steps.append(f"workers={min(needed, here)}")
        if self.reading > self.preparing:
            steps.append("a faster disk" if cfg.data == "packed" else "evalkit pack, or a faster disk")
        else:
            steps += ["decode=fast"] if cfg.decode == "exact" else []
            if cfg.augment_device == "cpu" and (cfg.auto_augment or cfg.color_jitter):
                steps.append("augment_device=device")
            steps += ["evalkit pack --short-side N"] if cfg.data in ("folder", "packed") else []
        if needed > here and not steps:
            steps.append("more cores")
        if not steps:
            return None
        return (
            f"{device} waits {100 * share:.0f} % of the time for images ({1000 * self.reading / self.images:.1f} ms of"
            f" reading and {1000 * self.preparing / self.images:.1f} ms of decoding and augmentation for each, by"
            f" {cfg.workers} workers; {needed} would keep up, {here} cores are there): {' or '.join(steps)}"
        )
