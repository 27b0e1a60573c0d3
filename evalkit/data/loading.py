"""Batches for training and evaluation, from worker processes or without them.

What is in a training batch follows from (seed, step, group) alone: resuming, or another number of workers or processes,
changes no byte.
"""

import copy
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import EvalkitError, in_short
from ..runtime import derive_rng
from .batch import Batch
from .crops import Picture
from .decode import encoded, to_image
from .erasing import erase_noise
from .images import BadImage, Images
from .kept import DeviceImages, KeptImages
from .transforms import Sample, TrainTransform
from .workers import checked, shield

Extras = Mapping[str, Callable[[Image.Image, np.random.Generator], Tensor]]


# ---- training


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches; the rest of an epoch's order is left out. Raises EvalkitError if there is not even one.

    Args:
        n: How many images there are.
        batch_size: Images of a batch.
    """
    if n < batch_size:
        raise EvalkitError(f"batch_size={batch_size} is more than the {n} training images; give batch_size={n} or less")
    return n // batch_size


@dataclass(frozen=True, slots=True)
class Order:
    """What decides, with the number of images, which of them each micro-batch of a run holds.

    Args:
        seed: the order of each epoch follows from it.
        batch_size: images of an optimizer step, over all processes.
        micro_batch: images of a forward pass; divides `batch_size`.
        epochs: length of the run.
        repeats: how often in a row each image stands in an epoch's order, whose length stays (repeated augmentation,
            Hoffer et al., CVPR 2020, as in DeiT's sampler).
    """

    seed: int
    batch_size: int
    micro_batch: int
    epochs: float
    repeats: int = 1


def train_batches(
    images: Images,
    transform: TrainTransform,
    order: Order,
    *,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    extras: Extras | None = None,
) -> Iterator[Batch]:
    """The micro-batches of one process from `start_step` to the end of the run, in order. A step's images are split
    into batch_size / micro_batch groups, of which each process gets a block of neighbouring ones.

    Raises EvalkitError for sizes that do not divide, for extras of images that are augmented later, on the device, and,
    from the iterator, for an image that cannot be read.

    Args:
        images: the training set, or what keeps it (kept.keep).
        transform: how an image is augmented.
        order: which image stands where.
        start_step: the first step.
        rank: which of the processes this is.
        world: how many processes there are.
        workers: processes that read and augment.
        extras: made of each image as the batch holds it, after its own draws, with the same generator, and stacked into
            `Batch.extras`; the image's `info` holds its "id" in the data set and its "view" (see `Sample`).
    """
    batch_size, micro_batch = order.batch_size, order.micro_batch
    there = "augment_device" if transform.on_device else "cache" if isinstance(images, DeviceImages) else None
    if extras and there:
        raise EvalkitError(
            f"{there}=device is not possible: this method takes data from the augmented images; use"
            f" {there}={'cpu' if there == 'augment_device' else 'memory'}"
        )
    if batch_size % micro_batch:
        raise EvalkitError(
            f"micro_batch={micro_batch} does not divide batch_size={batch_size}; give one of {_divisors(batch_size)}"
        )
    groups = batch_size // micro_batch
    if groups % world:
        raise EvalkitError(
            f"{world} processes cannot share the {groups} micro-batches of a step; start {_divisors(groups)} processes"
            " or choose a micro_batch that fits"
        )
    plan = _Plan(len(images), order)
    steps = range(start_step, round(order.epochs * plan.per_epoch))
    mine = range(rank * groups // world, (rank + 1) * groups // world)
    keys = ((step, group) for step in steps for group in mine)
    if isinstance(images, DeviceImages):
        images = copy.copy(images)  # without the pixels, which no worker needs
    return _items(_TrainSet(images, transform, plan, extras or {}), keys, workers, pin=True)


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which of `n` images stands where."""

    n: int
    order: Order

    @property
    def per_epoch(self) -> int:
        return steps_per_epoch(self.n, self.order.batch_size)

    def group(self, step: int, group: int) -> tuple[int, np.ndarray, np.ndarray]:
        """(epoch, positions in its order (m,), images there (m,)) of a group.

        Groups take turns through the step's stretch of the order, so that the repeats of an image land in different
        groups, as published.
        """
        epoch, within = divmod(step, self.per_epoch)
        first, size = within * self.order.batch_size, self.order.batch_size
        positions = np.arange(first + group, first + size, size // self.order.micro_batch)
        return epoch, positions, _shuffled(self.n, self.order.seed, epoch)[positions // self.order.repeats]


@functools.lru_cache(maxsize=1)
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """The images of an epoch, shuffled."""
    return derive_rng(seed, "order", epoch).permutation(n)


class _TrainSet(Dataset[Any]):
    """Micro-batch by (step, group). An error for people is returned: raised in a worker, it would arrive as a page of
    traceback."""

    def __init__(self, images: Images, transform: TrainTransform, plan: _Plan, extras: Extras):
        self.images, self.transform, self.plan, self.extras = images, transform, plan, extras

    def __getitem__(self, key: tuple[int, int]) -> Batch | EvalkitError:
        epoch, positions, rows = self.plan.group(*key)
        samples: list[Sample] = []
        extras: dict[str, list[Tensor]] = {name: [] for name in self.extras}
        reading, began = 0.0, time.perf_counter()
        try:
            for position, row in zip(positions.tolist(), rows.tolist()):
                rng = derive_rng(self.plan.order.seed, "sample", epoch, position)
                if isinstance(self.images, DeviceImages):
                    samples.append(self.transform.draws(rng))
                    continue
                picture, seconds = self._picture(row)
                reading += seconds
                sample = self.transform.sample(picture, rng)
                samples.append(sample)
                for name, make in self.extras.items():
                    image = to_image(sample.pixels)
                    image.info = {"id": self.images.ids[row], "view": sample.view}
                    extras[name].append(made(name, make, image, rng))
        except EvalkitError as e:
            return e
        erase = torch.tensor([sample.erase for sample in samples])
        later = np.array([sample.augment for sample in samples], dtype=np.float64).reshape(len(samples), -1, 2)
        return Batch(
            x=torch.stack([sample.pixels for sample in samples]),
            y=torch.from_numpy(self.images.labels[rows]),
            index=torch.from_numpy(rows),
            erase=erase,
            noise=erase_noise(erase, derive_rng(self.plan.order.seed, "erase", *key)),
            offsets=torch.tensor([sample.offset for sample in samples]),
            operations=torch.from_numpy(later[..., 0].astype(np.int64)),
            values=torch.from_numpy(later[..., 1].copy()),
            step=key[0],
            group=key[1],
            extras={name: torch.stack(values) for name, values in extras.items()},
            reading=reading,
            preparing=time.perf_counter() - began - reading,
        )

    def _picture(self, row: int) -> tuple[Picture, float]:
        """An image as it is decoded, and the seconds that it took to read its file."""
        if isinstance(self.images, KeptImages):
            return self.images.picture(row), 0.0
        asked = time.perf_counter()
        data = encoded(self.images, row)
        reading = time.perf_counter() - asked
        return self.images.read(row) if data is None else self.transform.decoded(data, self.images.ids[row]), reading


def made(name: str, make: Callable[..., Tensor], image: Image.Image, rng: np.random.Generator) -> Tensor:
    """What a method takes from an image.

    Args:
        name: The key of `loader_extras`.
        make: Its function.
        image: As the batch holds it.
        rng: For the function's draws.

    Raises EvalkitError where the function fails or gives no tensor.
    """
    try:
        found = make(image, rng)
    except EvalkitError:
        raise
    except Exception as e:
        raise EvalkitError(f"loader_extras['{name}'] of the method failed: {in_short(e)}") from e
    if not isinstance(found, Tensor):
        raise EvalkitError(f"loader_extras['{name}'] of the method must give a tensor, but gave {type(found).__name__}")
    return found


# ---- evaluation


def eval_batches(
    images: Images,
    transform: Callable[[Image.Image], Tensor],
    *,
    batch_size: int = 64,
    workers: int = 0,
    indices: Sequence[int] | np.ndarray | None = None,
    pin: bool = False,
) -> Iterator[tuple[Tensor, Tensor, list[BadImage]]]:
    """(x (m, 3, S, S) uint8, positions (m,) int64, images of this stretch that cannot be read), in order.

    An image that cannot be read is missing from x; a stretch without any readable one has an x of shape (0,). Sets
    `images.noted` as it goes and `images.notes` when the pass ends.

    Args:
        images: The set.
        transform: From an image to a tensor (3, S, S) uint8.
        batch_size: Images of a stretch.
        workers: Processes that read images; 0: this one.
        indices: Positions that are read; None: all.
        pin: Whether x comes in page-locked memory, where a GPU is to fetch it.
    """
    indices = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64)
    keys = (indices[i : i + batch_size] for i in range(0, len(indices), batch_size))
    images.noted = {}
    for x, index, bad, seen in _items(_EvalSet(images, transform), keys, workers, pin):
        images.noted |= seen
        yield x, index, bad
    images.notes = dict(sorted(Counter(note for notes in images.noted.values() for note in notes).items()))


class _EvalSet(Dataset[Any]):
    def __init__(self, images: Images, transform: Callable[[Image.Image], Tensor]):
        self.images, self.transform = images, transform

    def __getitem__(
        self, rows: np.ndarray
    ) -> tuple[Tensor, Tensor, list[BadImage], dict[int, list[str]]] | EvalkitError:
        x, index, bad, notes = [], [], [], {}
        for row in map(int, rows):
            try:
                image = self.images.read(row)
                x.append(self.transform(image))
            except BadImage as e:
                bad.append(e)
                continue
            except EvalkitError as e:
                return EvalkitError(f"{self.images.ids[row]}: {e}")
            index.append(row)
            if found := image.info.get("notes"):
                notes[row] = found
        return (
            torch.stack(x) if x else torch.empty(0, dtype=torch.uint8),
            torch.tensor(index, dtype=torch.int64),
            bad,
            notes,
        )


# ---- both


def _items(dataset: Dataset[Any], keys: Iterator[Any], workers: int, pin: bool = False) -> Iterator[Any]:
    """dataset[key] for each key, in order; raises what comes back as an EvalkitError."""
    loader = DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,  # a key is a whole batch
        collate_fn=_as_is,
        num_workers=workers,
        worker_init_fn=shield,
        pin_memory=pin and torch.cuda.is_available(),
        generator=torch.Generator(),  # it would draw from the global one otherwise
    )
    yield from checked(loader)


def _as_is(item: Any) -> Any:
    return item
