"""The images of mm's datasets in batches: the same numbers for the same (seed, step, place), whatever happened
before."""

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from evalkit.data.workers import checked, shield
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_key, rank, world_size


def seed_everything(*keys: str | int) -> None:
    """Seed every global generator: mm's augmentations, samplers and models draw from nowhere else."""
    key = derive_key(*keys)
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.manual_seed(key % 2**63)


class Places:
    """A batch sampler from step `start` on, its indices as (index, step, place in the global batch).

    Args:
        batches: mm's batch sampler: a list of indices per batch.
        start: The step that comes first.
    """

    def __init__(self, batches: Any, start: int):
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step, batch in enumerate(self.batches):
            if step >= self.start:
                yield [(index, step, slot * world_size() + rank()) for slot, index in enumerate(batch)]


class Items(Dataset[Any]):
    """A dataset that returns the error for an image it cannot give: raised in a worker, it would arrive as a page of
    traceback."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except EvalkitError as e:
            return e
        except Exception as e:
            why = (str(e).strip().splitlines() or ["no message"])[0]
            return EvalkitError(
                f"{self.dataset.get_data_info(key)['img_path']} or its truth cannot be used ({type(e).__name__}:"
                f" {why}); replace it"
            )


class Seeded(Items):
    """A dataset whose augmentation depends on the seed and the place in the run only.

    Args:
        dataset: mm's dataset.
        seed: The seed of the run.
    """

    def __init__(self, dataset: Any, seed: int):
        super().__init__(dataset)
        self.seed = seed

    def __getitem__(self, key: Any) -> Any:
        index, *place = key  # as `Places` gives them
        seed_everything(self.seed, "sample", *place)
        return super().__getitem__(index)


def feed(built: DataLoader[Any], items: Items, **order: Any) -> Iterator[Any]:
    """The batches of some items, made as mm's own loader makes them, in page-locked memory where there is a GPU. Raises
    EvalkitError for an image that cannot be used.

    Args:
        built: mm's loader: its collation, workers and memory are used.
        items: The dataset that is read.
        order: Arguments of a DataLoader that say which items come when.
    """
    return checked(
        DataLoader(
            items,
            num_workers=built.num_workers,
            collate_fn=partial(_collate, built.collate_fn),
            worker_init_fn=begin,
            pin_memory=torch.cuda.is_available(),
            **order,
        )
    )


def _collate(join: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """A batch of the items, or the first error among them."""
    return next((item for item in items if isinstance(item, EvalkitError)), None) or join(items)


LARGE = 1 << 16  # bytes; a pipe holds as much


def begin(worker: int) -> None:
    """What a data worker does first: see `shield`; and its large arrays, masks above all, go to the main process in
    shared memory like its tensors, not through a pipe."""
    shield(worker)
    ForkingPickler.register(np.ndarray, _shared)


def _shared(array: np.ndarray) -> Any:
    if array.nbytes > LARGE and array.dtype.kind in "buif" and array.dtype.isnative:
        with contextlib.suppress(TypeError):  # of a kind that torch does not have
            whole = np.require(array, requirements=["C", "W"])
            return _array, (torch.from_numpy(whole),)
    return array.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.numpy()
    return array
