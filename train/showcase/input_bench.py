"""How many training images a second this machine makes of a recipe's files."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from evalkit import data
from evalkit.data.batch import Batch
from evalkit.data.loading import Order, train_batches
from evalkit.data.transforms import TrainTransform

from ..config import TrainConfig


@dataclass(frozen=True)
class Rate:
    """How fast training images come.

    Args:
        name: What was measured, in words.
        images: Images per second: median, least and most over the repeats.
        reading: Share of the time that reading from storage took; None: not measured.
    """

    name: str
    images: tuple[float, float, float]
    reading: float | None = None

    def __str__(self) -> str:
        median, low, high = self.images
        share = "" if self.reading is None else f", {100 * self.reading:.0f} % of it reading"
        return f"{self.name:44s} {median:8.1f} images/s ({low:.1f} to {high:.1f}){share}"


def bench(cfg: TrainConfig, batch: int, repeats: int) -> Iterator[Rate]:
    """One core with each way of decoding and augmenting, in turns; then the recipe as it is, with its workers.

    Args:
        cfg: The recipe, whose data and augmentation are measured.
        batch: Images that are decoded at a time.
        repeats: Turns of each way.
    """
    images = data.load(cfg.data, cfg.train_split, root=cfg.data_dir)
    ways = [("exact", "cpu"), ("fast", "cpu")] + [("fast", "device")] * bool(cfg.auto_augment or cfg.color_jitter)
    batch = min(batch, len(images))
    feeds: dict[str, Iterator[Batch]] = {}
    for decode, where in ways:
        way = replace(cfg, decode=decode, augment_device=where)
        feeds[f"one core, decode={decode} augment_device={where}"] = _batches(images, way, batch, workers=0)
    rates: dict[str, list[float]] = {name: [] for name in feeds}
    reading: dict[str, list[float]] = {name: [] for name in feeds}
    for repeat in range(-1, repeats):  # the first round warms up
        for name, feed in feeds.items():
            began = time.process_time()
            made = next(feed)
            if repeat >= 0:
                rates[name].append(batch / (time.process_time() - began))
                reading[name].append(made.reading / (made.reading + made.preparing))
    for name, values in rates.items():
        yield Rate(name, _spread(values), statistics.median(reading[name]))
    if cfg.workers:
        where = "cpu" if cfg.augment_device == "auto" else cfg.augment_device
        feed, values = _batches(images, replace(cfg, augment_device=where), batch, cfg.workers), []
        for _ in range(2 * cfg.workers):  # those that were made while the workers started
            next(feed)
        for _ in range(repeats):
            began = time.perf_counter()
            for _ in range(cfg.workers):
                next(feed)
            values.append(cfg.workers * batch / (time.perf_counter() - began))
        yield Rate(f"{cfg.workers} workers, decode={cfg.decode} augment_device={where}", _spread(values))


def _batches(images: data.Images, cfg: TrainConfig, batch: int, workers: int) -> Iterator[Batch]:
    return train_batches(images, TrainTransform(cfg), Order(cfg.seed, batch, batch, epochs=10**9), workers=workers)


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)
