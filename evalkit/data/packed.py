"""Image files packed into a few large ones: uncompressed tar shards, each with an index beside it.

A split is a folder of `shard-00000.tar`, ... with members CLASS/NAME as they lay in the folder that was packed, so that
tar, and what reads tar files (timm's ReaderImageInTar, webdataset), reads them too; `shard-00000.npz` says where in it
each image lies, and with which checksum; `pack.json`, written last, names shards, classes and settings.
"""

import functools
import hashlib
import os
import re
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import fingerprint
from ..arrays import read_npz
from ..errors import EvalkitError, suggest
from ..files import parse_json, sha256_file
from .images import BadImage, Content, Images, decode
from .texts import Texts

INDEX, FORMAT = "pack.json", 1
ARRAYS = ("letters", "ends", "labels", "offsets", "sizes", "sums")  # of a shard's index
SHARD = re.compile(r"shard-\d{5,}\.tar")
MENDS = "run evalkit pack again, which mends it"


class PackedImages(Images):
    """The images of a packed split, read from its shards in any order.

    `made`: how they were re-encoded, None for the original bytes. Raises EvalkitError for a pack that is not whole.
    """

    def __init__(self, root: Path):
        about = read_about(root)
        self.shards = [str(root / shard["name"]) for shard in about["shards"]]
        for path, shard in zip(self.shards, about["shards"]):
            found = os.path.getsize(path) if os.path.exists(path) else None
            if found != shard["bytes"]:
                raise EvalkitError(f"{path} {'is missing' if found is None else 'is damaged'}; {MENDS}")
            if shard.get("index") not in (None, _sum(index_of(Path(path)))):
                raise EvalkitError(f"cannot read {index_of(Path(path))} (it is missing or damaged); {MENDS}")
        parts = [read_index(Path(path)) for path in self.shards]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in ARRAYS if name != "ends"}
        lengths = np.concatenate([np.diff(part["ends"], prepend=0) for part in parts])
        self.shard = np.repeat(np.arange(len(parts)), [len(part["labels"]) for part in parts])
        self.offsets, self.sizes, self.sums = arrays["offsets"], arrays["sizes"], arrays["sums"]
        ids = Texts.of_arrays(arrays["letters"], np.cumsum(lengths))
        if arrays["labels"].max() >= len(about["classes"]) or len({*ids}) < len(ids):
            raise EvalkitError(f"{root / INDEX} and its shards do not belong together; {MENDS}")
        super().__init__(about["name"], ids, arrays["labels"], about["classes"])
        self.root, self.made = str(root), about["made"]
        if self.made:
            self.remarks.append(f"{root.name} of {self.name} is packed, its images re-encoded: {self.made}")
        self.remarks += [f"as they were packed: {note}" for note in about.get("notes", [])]
        self._files: dict[int, int] = {}

    def read(self, i: int) -> Image.Image:
        return decode(BytesIO(self.encoded(i)), self.ids[i])

    def encoded(self, i: int) -> bytes:
        shard, size = int(self.shard[i]), int(self.sizes[i])
        if shard not in self._files:
            self._files[shard] = os.open(self.shards[shard], os.O_RDONLY)
        data = os.pread(self._files[shard], size, int(self.offsets[i]))
        if len(data) != size or zlib.crc32(data) != self.sums[i]:
            raise BadImage(self.ids[i], f"{self.shards[shard]} is damaged there; {MENDS}")
        return data

    def content(self, i: int) -> Content:
        return int(self.sizes[i]), functools.partial(self._digest, i)

    def _content(self) -> tuple[str, str]:
        """Of original bytes the one that the folder had which was packed."""
        order = self.by_id()
        sizes = [int(self.sizes[i]) for i in order]
        scheme, digest = fingerprint.of_contents(sizes, lambda k: self._digest(order[k]))
        return scheme, digest + (self.made or "")

    def _digest(self, i: int) -> str:
        try:
            return hashlib.sha256(self.encoded(i)).hexdigest()
        except BadImage:
            return "damaged"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # a worker opens its own


def packed(root: str | Path, split: str) -> PackedImages:
    """The images of a packed split. Raises EvalkitError.

    Args:
        root: The folder that was packed into, or that of one split.
        split: Name of the split.
    """
    root = Path(root)
    others = [path.parent.name for path in sorted(root.glob(f"*/{INDEX}"))]
    if others and not (root / split).is_dir():
        raise EvalkitError(f"{root} has no packed split '{split}'.{suggest(split, others)}")
    return PackedImages(root / split if (root / split).is_dir() else root)


def read_about(root: Path) -> dict[str, Any]:
    """What the index of a packed split says of it. Raises EvalkitError."""
    try:
        about = parse_json((root / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        advice = (
            "its packing has not ended; run evalkit pack again"
            if any(root.glob("shard-*"))
            else ("give the folder that evalkit pack has written")
        )
        raise EvalkitError(f"{root} holds no {INDEX}: {advice}") from None
    except ValueError as e:
        raise EvalkitError(f"{root / INDEX} is damaged ({e}); {MENDS}") from e
    if isinstance(about, dict) and about.get("format") != FORMAT:
        raise EvalkitError(f"{root} was packed by another version of evalkit; pack it again into another folder")
    if not _is_about(about):
        raise EvalkitError(f"{root / INDEX} is damaged; {MENDS}")
    return about


def _is_about(about: Any) -> bool:
    """Whether the content of a pack.json is what `evalkit pack` writes."""
    try:
        shards, classes = about["shards"], about["classes"]
        texts = [about["name"], about["plan"], about["made"] or "", *classes, *about.get("notes", [])]
        return (
            isinstance(classes, list)
            and len({*classes}) == len(classes) > 0 < len(shards)
            and all(isinstance(text, str) for text in texts)
            and all(SHARD.fullmatch(s["name"]) and isinstance(s["bytes"], int) for s in shards)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _sum(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def index_of(shard: Path) -> Path:
    """The index beside a shard."""
    return shard.with_suffix(".npz")


def read_index(shard: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard's index. Raises EvalkitError."""
    try:
        arrays = {name: array for name, array in read_npz(index_of(shard)).items() if name in ARRAYS}
        if (problem := _problem(arrays, os.path.getsize(shard))) is not None:
            raise ValueError(problem)
        return arrays
    except Exception as e:  # missing, cut short, something else
        reason = " ".join(str(e).split())
        raise EvalkitError(f"cannot read {index_of(shard)} ({reason}); {MENDS}") from e


def _problem(arrays: dict[str, np.ndarray], size: int) -> str | None:
    """What is wrong with a shard's index of which nothing is known but the shard's bytes; None for nothing."""
    if {*arrays} != {*ARRAYS} or any(a.ndim != 1 or a.dtype.kind not in "iu" for a in arrays.values()):
        return "its arrays are not those of an index"
    letters, ends, labels, offsets, sizes, _ = (arrays[name] for name in ARRAYS)
    if len({len(arrays[name]) for name in ARRAYS[1:]}) > 1 or len(ends) == 0:
        return "its arrays differ in length"
    inside = (offsets >= 0) & (sizes >= 0) & (offsets <= size) & (sizes <= size - offsets)
    texts = letters.dtype == np.uint8 and ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == len(letters)
    if not texts or not inside.all() or labels.min() < 0:
        return "it names what cannot be in its shard"
    return None


def index_arrays(ids: Sequence[str], labels: Sequence[int] | np.ndarray, places: np.ndarray) -> dict[str, np.ndarray]:
    """A shard's index.

    Args:
        ids: Of its images.
        labels: Index of each one's class.
        places: Offset, size and checksum of each, (N, 3).
    """
    texts, places = Texts(ids), places.reshape(-1, 3)
    rows = [texts.letters, texts.ends, np.asarray(labels, np.int64), *places.T]
    return dict(zip(ARRAYS, rows))
