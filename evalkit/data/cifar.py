"""CIFAR-10 and CIFAR-100 as their author distributes them: the Python version, pickles that are read without running
anything in them, and the binary version."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EvalkitError
from .images import ArrayImages

SIDE = 32
ROW = 3 * SIDE * SIDE  # bytes of an image: its red plane, green plane and blue plane
MAX_BYTES = 500_000_000  # of a file; the largest is CIFAR-100's training file of 155 MB
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
FOLDERS = {10: ("cifar-10-batches-py", "cifar-10-batches-bin"), 100: ("cifar-100-python", "cifar-100-binary")}


def cifar(classes: int, root: str | Path, split: str) -> ArrayImages:
    """The images of CIFAR-10 or CIFAR-100 below `root`, which is the folder of its files or the one that holds it.

    Args:
        classes: 10 or 100 (fine labels).
        root: Folder that the archive unpacks to, of the Python or the binary version, or its parent.
        split: "train" or "test".

    Raises EvalkitError where the files are not there or not what they should be.
    """
    name, folder, binary = f"cifar{classes}", Path(root), False
    for inside in (folder, *(folder / f for f in FOLDERS[classes])):
        if (inside / ("batches.meta" if classes == 10 else "meta")).is_file():
            folder = inside
            break
        if (inside / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")).is_file():
            folder, binary = inside, True
            break
    else:
        meta = "batches.meta(.txt)" if classes == 10 else "meta or fine_label_names.txt"
        raise EvalkitError(
            f"{root} does not hold CIFAR-{classes}: neither it nor {' or '.join(FOLDERS[classes])} in it has {meta};"
            " unpack the Python or binary archive there"
        )
    files = BATCHES[split] if classes == 10 else [split]
    read: Callable[[Path, int], tuple[np.ndarray, np.ndarray]] = _binary if binary else _python
    parts = [read(folder / (f"{file}.bin" if binary else file), classes) for file in files]
    labels = np.concatenate([p[1] for p in parts])
    names = _names(folder, classes, binary)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise EvalkitError(
            f"{folder}: a label of {split} is none of the {len(names)} classes; unpack the archive again"
        )
    pixels = np.concatenate([p[0] for p in parts]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return ArrayImages(name, [f"{split}/{i:05d}" for i in range(len(labels))], labels, names, pixels.copy())


def _names(folder: Path, classes: int, binary: bool) -> list[str]:
    if binary:
        text = _bytes(folder / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")).decode(
            "ascii", "replace"
        )
        names: Any = text.split()
    else:
        names = _dict(folder / ("batches.meta" if classes == 10 else "meta")).get(
            "label_names" if classes == 10 else "fine_label_names"
        )
        names = [_text(n) for n in names] if isinstance(names, list) else []
    if len(names) != classes or len(set(names)) != classes:
        raise EvalkitError(f"{folder} names {len(names)} classes instead of {classes}; unpack the archive again")
    return list(names)


def _python(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixels (N, 3072) uint8, labels (N,)) of a file of the Python version."""
    content = _dict(path)
    data, labels = content.get("data"), content.get("labels" if classes == 10 else "fine_labels")
    pixels = data.array() if isinstance(data, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != ROW or not isinstance(labels, list):
        raise EvalkitError(f"{path} does not hold CIFAR images and labels; unpack the archive again")
    if len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise EvalkitError(f"{path} has {len(pixels)} images and {len(labels)} labels; unpack the archive again")
    return pixels, np.array(labels, np.int64)


def _binary(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of the binary version: rows of a label (CIFAR-100: the coarse one, then the fine one) and the pixels."""
    data, before = np.frombuffer(_bytes(path), np.uint8), 1 if classes == 10 else 2
    if not len(data) or len(data) % (before + ROW):
        raise EvalkitError(f"{path} does not hold whole images of {before + ROW} bytes; unpack the archive again")
    rows = data.reshape(-1, before + ROW)
    return rows[:, before:], rows[:, before - 1].astype(np.int64)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EvalkitError(f"{path} is larger than any file of CIFAR; unpack the archive again")
        return path.read_bytes()
    except OSError as e:
        raise EvalkitError(f"cannot read {path}: {e.strerror}; unpack the archive again") from e


# ---- pickles, without running anything


class _Array:
    """What stands in a pickle for a NumPy array: its parts, of which `array` makes one. Nothing of NumPy is called by
    the pickle itself."""

    def __init__(self, *_: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray | None:
        """The array of bytes, None where it is of another kind."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, fortran, data = self.state
        if isinstance(data, str):  # as Python 2 wrote it
            data = data.encode("latin1", "replace")
        sizes = isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and n >= 0 for n in shape)
        if not sizes or not isinstance(kind, _Kind) or kind.name not in ("u1", "|u1", "uint8"):
            return None
        if not isinstance(data, bytes) or len(data) != shape[0] * shape[1]:
            return None
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran is True else "C")


class _Kind:
    """What stands for a NumPy dtype."""

    def __init__(self, name: Any = None, *_: Any):
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        pass


def _latin1(text: Any, *_: Any) -> bytes:
    """What Python 3 writes for bytes in an old protocol."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError("bytes that are no text")
    return text.encode("latin1")


NAMES: dict[tuple[str, str], Any] = {
    **{(m, "_reconstruct"): _Array for m in ("numpy.core.multiarray", "numpy._core.multiarray")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _latin1,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in NAMES:
            return NAMES[module, name]
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which no file of CIFAR does")


def _dict(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as text. Raises EvalkitError for anything but lists, texts, numbers and an
    array of bytes."""
    try:
        content = _Reader(io.BytesIO(_bytes(path)), encoding="latin1").load()
    except EvalkitError:
        raise
    except Exception as e:  # what a broken or hostile pickle leads to
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise EvalkitError(f"cannot read {path}: {reason}; unpack the archive again") from e
    if not isinstance(content, dict):
        raise EvalkitError(f"{path} is no file of CIFAR; unpack the archive again")
    return {_text(k): v for k, v in content.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
