"""Data sets that timm reads: those of torchvision and of Hugging Face datasets."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .. import fingerprint
from ..errors import EvalkitError
from .images import BadImage, Images, decode

READERS = ("hfds", "torch")  # with random access
STREAMS = ("hfids", "tfds", "wds")  # without


class ReaderImages(Images):
    """A random-access data set that timm opened.

    Args:
        name: How records name the set.
        split: Name of the split.
        dataset: What timm opened: its items are (image, label).
        labels: (N,) index into `classes`.
        classes: Names of the classes.
    """

    def __init__(self, name: str, split: str, dataset: Any, labels: Sequence[int], classes: Sequence[str]):
        super().__init__(name, [f"{split}/{i:07d}" for i in range(len(labels))], labels, classes)
        self.dataset = dataset

    def read(self, i: int) -> Image.Image:
        reader = getattr(self.dataset, "reader", None)
        if reader is not None:  # timm's own __getitem__ would put the next image in place of one that it cannot read
            return decode(reader[i][0], self.ids[i])
        if (path := self._path(i)) is not None:  # torchvision's loader says nothing of what it does
            return decode(path, self.ids[i])
        try:
            return self.dataset[i][0].convert("RGB")
        except Exception as e:
            raise BadImage(self.ids[i], " ".join(str(e).split())) from e

    def _path(self, i: int) -> str | None:
        """The file of an image in a set of torchvision that is made of files."""
        samples = getattr(self.dataset, "samples", None)
        return str(samples[i][0]) if isinstance(samples, list) else None

    def _content(self) -> tuple[str, str]:
        paths = [self._path(i) for i in range(len(self))]
        return super()._content() if None in paths else fingerprint.of_files([path for path in paths if path])

    def encoded(self, i: int) -> bytes | None:
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            path = self._path(i)
            return None if path is None else Path(path).read_bytes()
        with reader[i][0] as file:
            return file.read()


def timm_images(name: str, split: str, root: str | Path | None = None) -> ReaderImages:
    """A data set that timm reads: torch/NAME (torchvision, already on disk below `root`) or hfds/NAME (Hugging Face
    datasets, cached in `root`).

    Args:
        name: torch/NAME (torchvision, already on disk) or hfds/NAME (Hugging Face datasets, cached).
        split: Name of the split.
        root: The folder where the files are; None: the library's own.

    Raises EvalkitError for readers that only stream: a run could not be resumed exactly.
    """
    prefix = name.partition("/")[0].lower()
    if prefix in STREAMS:
        raise EvalkitError(
            f"data '{name}' can only be streamed in order, which evalkit does not support; use hfds/NAME or an image"
            " folder"
        )
    if prefix == "hfds" and importlib.util.find_spec("datasets") is None:
        raise EvalkitError(f"data '{name}' needs the package datasets; run `pip install datasets`")
    if prefix == "torch" and root is None:
        raise EvalkitError(f"data '{name}' needs the folder it lies in; give data_dir=DIR")
    from timm.data import create_dataset

    try:
        dataset = create_dataset(name, root=None if root is None else str(root), split=split)
    except Exception as e:  # readers fail in many ways: not there, not downloaded, unknown split
        reason = (str(e).strip() or type(e).__name__).splitlines()[0].partition(". You can use download")[0]
        raise EvalkitError(f"cannot open data '{name}', split '{split}': {reason}") from e
    if prefix == "hfds":
        reader = dataset.reader
        labels, classes = list(reader.dataset[reader.label_key]), list(reader.class_to_idx)
    else:
        if not hasattr(dataset, "targets"):
            raise EvalkitError(f"data '{name}' does not list its labels; convert it to an image folder")
        # torchvision's ImageNet has tuples of synonyms as classes and the names of its folders as wnids
        labels, classes = (
            [int(t) for t in dataset.targets],
            [str(c) for c in getattr(dataset, "wnids", dataset.classes)],
        )
    return ReaderImages(name, split, dataset, labels, classes or [str(c) for c in range(max(labels) + 1)])
