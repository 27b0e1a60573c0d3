"""What every image contributes to the metrics of a transfer, kept beside its record: two runs are compared by it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evalkit.arrays import read_npz
from evalkit.runtime import write_atomic

FILE = "per_image.npz"


def write(run: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep the arrays, their first axis the images unless the task packs them otherwise.

    Args:
        run: The run folder.
        arrays: Name -> array, "ids" among them.
    """
    write_atomic(run / FILE, lambda f: np.savez_compressed(f, allow_pickle=False, **arrays))


def read(path: Path) -> dict[str, np.ndarray]:
    """What `write` wrote. Raises OSError where it is not there, ValueError or KeyError for what is damaged."""
    arrays = read_npz(path)
    if arrays["ids"].ndim != 1:
        raise ValueError("its ids are no list")
    return arrays


def names(paths: Sequence[str]) -> np.ndarray:
    """Images by their paths below the folder that holds all of them, the same wherever the data lie."""
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return np.array([os.path.relpath(path, shared) for path in paths])
