"""`evalkit pack`: image folders into packed splits, see `packed`."""

import functools
import hashlib
import json
import multiprocessing
import signal
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from .. import fingerprint
from ..errors import EvalkitError
from ..runtime import sha256_file, write_atomic
from .decode import as_image, encoded
from .folders import USUAL_SPLITS, folder, split_folder
from .images import Images
from .packed import FORMAT, INDEX, index_arrays, index_of, read_about, read_index
from .texts import Texts

SHARD_IMAGES = 8192
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Encoding:
    """How images are made smaller.

    Args:
        short_side: Pixels of the shorter side, where it is longer.
        quality: Of the JPEGs, 1 to 100.
    """

    short_side: int
    quality: int = 90

    def __str__(self) -> str:
        return f"shorter side {self.short_side} pixels where it was longer, JPEG quality {self.quality}"

    def __call__(self, data: bytes, id: str) -> bytes:
        """The re-encoded file; the same bytes for an image that is small enough."""
        image = as_image(data, id)
        short = min(image.size)
        if short <= self.short_side:
            return data
        width, height = (round(side * self.short_side / short) for side in image.size)
        smaller = BytesIO()
        image.resize((width, height), Image.Resampling.BICUBIC).save(smaller, "JPEG", quality=self.quality)
        return smaller.getvalue()


def pack(source: Path, out: Path, encoding: Encoding | None = None, workers: int = 1) -> Iterator[str]:
    """Pack the splits of `source`, or its class folders, into `out`; yields what happens, line by line.

    Shards that are there and whole stay: a pack that was broken off goes on, one that is complete is verified, one that
    is damaged is mended. What is left out and what re-encoding does silently is said. Only the split "train" is
    re-encoded where there are others: what is measured on them is measured on the original images. Raises EvalkitError
    for images that cannot be read or have changed since, and for an `out` that holds something else.

    Args:
        source: The folder of splits, or of class folders.
        out: The folder of the packed images.
        encoding: How training images are made smaller; None: their files as they are.
        workers: Processes that encode.
    """
    splits = [name for name in USUAL_SPLITS if _is_split(source, name)]
    if splits:
        others = sorted(entry.name for entry in source.iterdir() if entry.is_dir() and entry.name not in splits)
        yield from (f"{name}: not packed, no split by its name" for name in others)
    for name in splits or [""]:
        keep = encoding if name in ("", "train") else None
        if encoding and not keep:
            yield f"{name}: the original bytes, since only train is re-encoded"
        yield from pack_split(folder(source / name, name=source.resolve().name), out / name, keep, workers)


def _is_split(root: Path, name: str) -> bool:
    """Whether root/`name` is a split of its own."""
    return (root / name).is_dir() and split_folder(root, name) == root / name


def pack_split(images: Images, out: Path, encoding: Encoding | None, workers: int) -> Iterator[str]:
    """Pack one set of images.

    Args:
        images: The set.
        out: The folder of its shards.
        encoding: How they are made smaller; None: their files as they are.
        workers: Processes that encode.
    """
    plan = _plan(images, encoding)
    if ((out / INDEX).exists() and read_about(out)["plan"] != plan) or not _same_plan(out, plan):
        raise EvalkitError(f"{out} holds a pack of other images or settings; remove it or give another folder")
    yield from _same_source(out, images)
    if not (out / ".plan").exists():
        write_atomic(out / ".plan", lambda f: f.write(f"{plan}\n{images.fingerprint}\n".encode()))
    notes = [*images.problems, *images.remarks, *(images.survey() if encoding else [])]
    yield from (f"{out}: {note}" for note in notes)
    for left_over in out.glob(".shard-*.tmp"):  # of a process that was killed
        left_over.unlink()
    count = -(-len(images) // SHARD_IMAGES)
    known = {shard["name"]: shard for shard in read_about(out)["shards"]} if (out / INDEX).exists() else {}
    make = functools.partial(_shard, images, out, encoding, known)
    shards: list[dict[str, Any]] = []
    for shard, is_new in _each(make, range(count), workers):
        shards.append(shard)
        yield f"{out / shard['name']}: {shard['images']:,} images, {shard['bytes'] / 1e6:,.1f} MB" + (
            "" if is_new else ", was there and is whole"
        )
    about = {
        "format": FORMAT,
        "name": images.name,
        "images": len(images),
        "classes": images.classes,
        "made": str(encoding) if encoding else None,
        "notes": notes,
        "plan": plan,
        "shards": shards,
    }
    write_atomic(out / INDEX, lambda f: f.write(json.dumps(about, indent=1).encode()))
    total = sum(shard["bytes"] for shard in shards)
    yield f"{out}: {len(images):,} images in {count} shards, {total / 1e6:,.1f} MB" + (
        f"; {encoding}" if encoding else ""
    )


def _plan(images: Images, encoding: Encoding | None) -> str:
    """Identifies what is packed and how."""
    text = json.dumps([FORMAT, SHARD_IMAGES, images.classes, list(images.ids), str(encoding)])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _same_plan(out: Path, plan: str) -> bool:
    """Whether `out` is empty or has been begun by this plan."""
    begun = out / ".plan"
    if not begun.exists():
        return not out.exists() or not any(out.iterdir())
    return begun.read_text(encoding="utf-8", errors="replace").splitlines()[:1] == [plan]


def _same_source(out: Path, images: Images) -> Iterator[str]:
    """Raise EvalkitError where a pack was begun with other contents under the same names; a sentence where that is not
    certain."""
    begun = out / ".plan"
    if not begun.exists():
        return
    noted = begun.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    same = fingerprint.same(noted[0], images.fingerprint) if noted else None
    if same is False:
        raise EvalkitError(
            f"the images are not those that {out} was packed from: same names, other contents; remove it or give"
            " another folder"
        )
    if same is None:
        yield f"{out}: whether the images are those that were packed is not known: an earlier evalkit packed them"
    elif remark := fingerprint.remark(images.fingerprint):
        yield f"{out}: the images are those that were packed, {remark}"


def _each(make: Callable[[int], Any], numbers: Sequence[int], workers: int) -> Iterator[Any]:
    if workers <= 1 or len(numbers) <= 1:
        yield from map(make, numbers)
        return
    # Ctrl-C is for the main process, which ends the others
    with multiprocessing.Pool(min(workers, len(numbers)), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.imap(make, numbers)


def _shard(
    images: Images, out: Path, encoding: Encoding | None, known: dict[str, dict[str, Any]], number: int
) -> tuple[dict[str, Any], bool]:
    """What the index says of a shard, and whether it had to be written."""
    path = out / f"shard-{number:05d}.tar"
    rows = range(number * SHARD_IMAGES, min(len(images), (number + 1) * SHARD_IMAGES))
    if path.exists() and index_of(path).exists():
        digest, index = sha256_file(path), read_index(path) if _readable(path) else None
        expected = known.get(path.name, {}).get("sha256") or (_noted(path) if index is not None else None)
        if index is not None and digest == expected and _is_of(index, images, rows) and _is_in(index, path):
            return _about(path, len(rows), digest), False
    places = np.zeros((len(rows), 3), np.int64)
    digest = hashlib.sha256()

    def write(file: IO[bytes]) -> None:
        offset = 0
        for n, row in enumerate(rows):
            data = encoded(images, row)
            if data is None:
                raise EvalkitError(f"{images.name} does not consist of image files; there is nothing to pack")
            data = encoding(data, images.ids[row]) if encoding else data
            member = tarfile.TarInfo(images.ids[row])  # of no time and owner: the same images give the same bytes
            member.size = len(data)
            header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            places[n] = offset + len(header), len(data), zlib.crc32(data)
            block = header + data + bytes(-len(data) % BLOCK)
            file.write(block)
            digest.update(block)
            offset += len(block)
        file.write(bytes(2 * BLOCK))
        digest.update(bytes(2 * BLOCK))

    write_atomic(path, write)
    arrays: dict[str, Any] = index_arrays([images.ids[row] for row in rows], images.labels[rows], places)
    note = np.frombuffer(digest.hexdigest().encode(), np.uint8)
    write_atomic(index_of(path), lambda file: np.savez(file, sha256=note, **arrays))
    return _about(path, len(rows), digest.hexdigest()), True


def _is_of(index: dict[str, np.ndarray], images: Images, rows: range) -> bool:
    """Whether a shard's index names these images and their labels."""
    ids = Texts.of_arrays(index["letters"], index["ends"])
    return list(ids) == [images.ids[row] for row in rows] and np.array_equal(index["labels"], images.labels[rows])


def _is_in(index: dict[str, np.ndarray], path: Path) -> bool:
    """Whether the images lie in a shard, whose bytes are right, where its index says, and with these checksums."""
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as shard:
        found = [(member.name, member.offset_data, member.size) for member in shard]
    ids, places = Texts.of_arrays(index["letters"], index["ends"]), zip(index["offsets"], index["sizes"])
    if found != [(id, int(offset), int(size)) for id, (offset, size) in zip(ids, places)]:
        return False
    with open(path, "rb") as file:
        for (_, offset, size), noted in zip(found, index["sums"]):
            file.seek(offset)
            if zlib.crc32(file.read(size)) != noted:
                return False
    return True


def _readable(path: Path) -> bool:
    try:
        read_index(path)
    except EvalkitError:
        return False
    return True


def _noted(path: Path) -> str:
    """The sha256 of a shard, as its index has it."""
    with np.load(index_of(path), allow_pickle=False) as file:
        return file["sha256"].tobytes().decode()


def _about(path: Path, images: int, sha256: str) -> dict[str, Any]:
    size, index = path.stat().st_size, sha256_file(index_of(path))
    return {"name": path.name, "images": images, "bytes": size, "sha256": sha256, "index": index}
