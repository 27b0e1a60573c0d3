"""Packed sets and indexes of folders that are damaged, half another's, or made up."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from evalkit.cli import invoke
from evalkit.data import file_index, folders

from .cases import Case
from .make import splits, training

KIND = "Packed sets and indexes of folders, damaged or made up"


def packed(folder, damage):
    """What training on a packed set says whose files were changed."""
    splits(folder / "data")
    with contextlib.redirect_stdout(io.StringIO()):
        code, line = invoke(["pack", str(folder / "data"), str(folder / "packed"), "--workers", "1"])
        assert code == 0, line
        damage(folder / "packed" / "train")
        words = [word for word in training(folder / "packed") if word != "data=folder"]
        code, line = invoke([*words, "data=packed"])
    assert code == 0 or not (folder / "run").exists(), "a run that never began leaves no folder"
    return code, line


def mended(folder, damage):
    """Packing again mends an index that names other images or labels."""
    splits(folder / "data")
    words = ["pack", str(folder / "data"), str(folder / "packed"), "--workers", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert invoke(words)[0] == 0
        whole = (folder / "packed" / "train" / "shard-00000.npz").read_bytes()
        damage(folder / "packed" / "train")
        assert (folder / "packed" / "train" / "shard-00000.npz").read_bytes() != whole
        code, line = invoke(words)
    assert (folder / "packed" / "train" / "shard-00000.npz").read_bytes() == whole
    return code, line


def indexed(folder, damage):
    """A folder is read as it is, whatever stands in the index of its files."""
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setenv(file_index.CACHE, str(folder / "cache"))
        patch.setattr(file_index, "SETTLED", -1.0)
        splits(folder / "data")
        before = folders.folder(folder / "data" / "val")
        (index,) = (folder / "cache" / "index").iterdir()
        damage(index)
        after = folders.folder(folder / "data" / "val")
    assert list(after.ids) == list(before.ids)
    assert after.labels.tolist() == before.labels.tolist() == [0] * 4 + [1] * 4


def about(**changes):
    """pack.json with other values; `...` takes one away."""

    def damage(split: Path):
        path = split / "pack.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return damage


def shard(**changes):
    def damage(split: Path):
        path = split / "pack.json"
        content = json.loads(path.read_text())
        content["shards"][0] |= changes
        content["shards"][0] = {key: value for key, value in content["shards"][0].items() if value is not ...}
        path.write_text(json.dumps(content))

    return damage


def arrays(name, change, noted=False):
    """An index of a shard whose array `name` is another; without the digest of it, as earlier versions packed."""

    def damage(split: Path):
        path = split / "shard-00000.npz"
        content = dict(np.load(path))
        np.savez(path, **(content | {name: change(content[name])}))
        if not noted:
            shard(index=...)(split)

    return damage


def text(content):
    return lambda split: (split / "pack.json").write_bytes(content)


def of_index(name, change):
    def damage(path: Path):
        content = dict(np.load(path))
        np.savez(path, **(content | {name: change(content[name])}))

    return damage


flip, PACK = (lambda a: 1 - a), "run evalkit pack again|pack it again"
ABOUT = {
    "a list": text(b"[1]"),
    "a number": text(b"3"),
    "100,000 brackets": text(b"[" * 100_000),
    "no shards": about(shards=...),
    "an empty list of shards": about(shards=[]),
    "shards that are text": about(shards="x"),
    "shards that are numbers": about(shards=[1]),
    "a shard elsewhere": shard(name="../../../../etc/passwd"),
    "a shard of the system": shard(name="/etc/passwd"),
    "a shard whose name is a number": shard(name=5),
    "a shard without its size": shard(bytes=...),
    "no classes": about(classes=...),
    "one class of two": about(classes=["a"]),
    "a class that stands there twice": about(classes=["a", "a"]),
    "classes that are numbers": about(classes=[1, 2]),
    "classes that are one text": about(classes="ab"),
    "a name that is a number": about(name=5),
    "an encoding that is a list": about(made=[1]),
    "notes that are a number": about(notes=5),
}
INDEX = {
    "labels beyond the classes": arrays("labels", lambda a: a + 7),
    "labels below 0": arrays("labels", lambda a: a - 1),
    "labels that are fractions": arrays("labels", lambda a: a + 0.5),
    "labels that are text": arrays("labels", lambda a: a.astype(str)),
    "too few labels": arrays("labels", lambda a: a[:3]),
    "a label alone": arrays("labels", lambda a: a[0]),
    "offsets below 0": arrays("offsets", lambda a: a - 10**6),
    "offsets beyond the shard": arrays("offsets", lambda a: a + 10**9),
    "images of 10 TB": arrays("sizes", lambda a: a + 10**13),
    "images of fewer than 0 bytes": arrays("sizes", lambda a: -a),
    "names that end before they begin": arrays("ends", lambda a: -a),
    "names out of order": arrays("ends", lambda a: a[::-1]),
    "names beyond their letters": arrays("ends", lambda a: a + 10**6),
    "names at fractions": arrays("ends", lambda a: a * 1.0),
    "letters in a table": arrays("letters", lambda a: a.reshape(1, -1)),
    "names that are all the same": arrays("letters", lambda a: np.full_like(a, 97)),
    "swapped labels, its digest noted": arrays("labels", flip, noted=True),
    "other names, its digest noted": arrays("letters", lambda a: np.where(a == 48, 57, a), noted=True),
}
OF_FOLDER = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "no content": lambda path: path.write_bytes(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "counts below 0": of_index("counts", lambda a: -a),
    "counts that are too large": of_index("counts", lambda a: a + 5),
    "other counts of the same sum": of_index("counts", lambda a: np.array([3, 5])),
    "counts in a table": of_index("counts", lambda a: a.reshape(1, -1)),
    "counts that are text": of_index("counts", lambda a: a.astype(str)),
    "one count": of_index("counts", lambda a: a[0]),
    "other names of images": of_index("letters", lambda a: np.where(a == 48, 57, a)),
    "images of another folder": of_index("letters", lambda a: np.frombuffer(b"../../etc/passwd", np.uint8)),
    "times of no folder": of_index("times", lambda a: a[:0]),
    "times in a row": of_index("times", lambda a: a.ravel()),
    "remarks of 100,000 brackets": of_index("passed_over", lambda a: np.frombuffer(b"[" * 100_000, np.uint8)),
    "remarks that are a number": of_index("passed_over", lambda a: np.frombuffer(b"5", np.uint8)),
    "remarks that count text": of_index("passed_over", lambda a: np.frombuffer(b'{"a": "x"}', np.uint8)),
}

CASES = [
    *(Case(f"pack.json of {name}", packed, PACK, argument=damage) for name, damage in ABOUT.items()),
    *(Case(f"a shard's index with {name}", packed, PACK, argument=damage) for name, damage in INDEX.items()),
    Case("a shard's index with swapped labels, packed again", mended, fate="mended", argument=arrays("labels", flip)),
    Case(
        "a shard's index with other names, packed again",
        mended,
        fate="mended",
        argument=arrays("letters", lambda a: np.where(a == 48, 57, a)),
    ),
    *(
        Case(f"an index of a folder with {name}", indexed, fate="mended", argument=damage)
        for name, damage in OF_FOLDER.items()
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
