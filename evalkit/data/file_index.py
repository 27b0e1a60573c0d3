"""What a look into a folder of images has found, kept on disk: for a million files the look takes seconds on a local
disk and minutes over a network.

It counts while every folder that was read, at any depth, still is the same one with the same times of modification and
of status change: whatever adds, removes or renames a file changes both of its folder's, and no program can set the
second one back. Contents do not count: the index holds names alone, and files are opened when they are needed. Nothing
is kept of a tree that changed within the last seconds, whose next change might bear the same time, nor of one with
links to files, whose target can become a folder without a trace. A digest tells an index that is damaged, which is made
again.
"""

import contextlib
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import read_npz
from ..errors import EvalkitError
from ..files import parse_json, write_atomic
from .scan import Scan
from .texts import Texts

CACHE = "EVALKIT_CACHE"  # environment variable: the folder of what can be made again
FORMAT = 2
SETTLED = 2.0  # seconds without a change after which a tree's times tell the next change apart


def images(scan: Scan, folders: Sequence[str]) -> tuple[Texts, list[int]]:
    """Paths of the images below each of some sub-folders of a scan's root, as `Scan.images` gives them, and how many
    each has; from the index, if there is one that counts.

    Args:
        scan: Asked for its `folders` before, and for nothing else; it ends with the same remarks in both cases.
        folders: The sub-folders.
    """
    path = _path(scan, folders)
    if found := _read(path, scan):
        found[0].distinct = True
        return found
    began, before = time.time(), Counter(scan.passed_over)
    parts = [scan.images(folder) for folder in folders]
    paths, counts = Texts([name for part in parts for name in part]), [len(part) for part in parts]
    paths.distinct = True  # no folder is read twice
    newest = max(max(times[2:]) for times in scan.times.values()) / 1e9
    if not scan.links and newest < began - SETTLED:
        visited = Texts(scan.times)
        arrays: dict[str, Any] = {
            "visited": visited.letters,
            "visited_ends": visited.ends,
            "times": np.array(list(scan.times.values()), np.int64),
            "letters": paths.letters,
            "ends": paths.ends,
            "counts": np.array(counts, np.int64),
            "passed_over": np.frombuffer(json.dumps(scan.passed_over - before).encode(), np.uint8),
        }
        arrays["sha256"] = _digest(arrays)
        with contextlib.suppress(OSError, EvalkitError):  # a home that cannot be written: the next look takes as long
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda file: np.savez(file, **arrays))
    return paths, counts


def _path(scan: Scan, folders: Sequence[str]) -> Path:
    cache = Path(os.environ.get(CACHE) or os.path.expanduser("~/.cache/evalkit"))
    key = json.dumps([FORMAT, str(scan.root.resolve()), list(folders)])
    return cache / "index" / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}.npz"


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of names, types and values."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _read(path: Path, scan: Scan) -> tuple[Texts, list[int]] | None:
    try:
        arrays = read_npz(path)
        if not np.array_equal(arrays.pop("sha256"), _digest(arrays)):  # written in part, or by something else
            return None
        visited = Texts.of_arrays(arrays["visited"], arrays["visited_ends"])
        if any(times != scan.look(inside) for inside, times in zip(visited, map(tuple, arrays["times"].tolist()))):
            return None
        scan.passed_over.update(parse_json(arrays["passed_over"].tobytes()))
        return Texts.of_arrays(arrays["letters"], arrays["ends"]), arrays["counts"].tolist()
    except (OSError, ValueError, KeyError):  # none, or damaged: it is made again
        return None
