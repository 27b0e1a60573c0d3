"""Data that changed under a name between two commands, or between a run and its resume."""

import contextlib
import io
import json
import os
import shutil

import pytest

from evalkit import data, fingerprint
from evalkit.cli import invoke

from .cases import Case
from .make import folders, put, run_folder, splits, training

KIND = "Data that changed under a name"


def swap(root):
    """Two images of the same size in bytes change places."""
    a, b = (root / "a" / f"{i}.bmp" for i in (0, 1))
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)


def overwrite(root):
    put(root / "b" / "2.bmp", 999)


def truncate(root):
    (root / "b" / "3.bmp").write_bytes((root / "b" / "3.bmp").read_bytes() + b"\0")


CHANGES = {"overwritten": overwrite, "swapped": swap, "one byte longer": truncate}


def bitmaps(root):
    for path in sorted(root.rglob("*.png")):
        put(path.with_suffix(".bmp"), int(path.stem) + 10 * ord(path.parent.name) + 9000 * (root.name == "val"))
        path.unlink()
    return root


def twice(folder, change):
    """A second robustness command on other contents measures them; on the same ones it records nothing again."""
    root, run = bitmaps(folders(folder / "data")), run_folder(folder / "run")
    command = ["robustness", "fgsm", str(run), "--data", str(root), "device=cpu", "workers=0", "eps=[2]"]
    command += ["--out", str(folder / "out")]
    read = lambda: (folder / "out" / "results.jsonl").read_text().splitlines()  # noqa: E731
    assert invoke(command)[0] == 0 and invoke(command)[0] == 0 and len(read()) == 1
    change(root)
    assert invoke(command)[0] == 0 and len(read()) == 2
    assert len({json.loads(line)["data"]["fingerprint"] for line in read()}) == 2


def resumed(folder, change):
    """(which split, how): the run is not continued on other images."""
    split, spoil = change
    root = splits(folder / "data")
    for name in ("train", "val"):
        bitmaps(root / name)
    code, line = invoke(training(root))
    assert code == 0, line
    spoil(root / split)
    return invoke(["train", "--resume", str(folder / "run")])


def copied(folder):
    """A copy with other times is the same data."""
    root = folders(folder / "data")
    shutil.copytree(root, folder / "copy" / "data", copy_function=shutil.copyfile)
    os.utime(folder / "copy" / "data" / "a" / "0.png", (1, 1))
    assert data.folder(root).fingerprint == data.folder(folder / "copy" / "data").fingerprint


def of_old(folder):
    """A run of an earlier evalkit, whose fingerprint is of names alone, goes on with a remark."""
    root = splits(folder / "data")
    assert invoke(training(root))[0] == 0
    for meta in (folder / "run").glob("checkpoints/*/meta.json"):
        content = json.loads(meta.read_text())
        content["data"] = {"name": "data", "fingerprint": "0" * 64}
        meta.write_text(json.dumps(content))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert invoke(["train", "--resume", str(folder / "run")])[0] == 0
    return said.getvalue()


CASES = [
    *(
        Case(f"{name} between two robustness commands", twice, fate="mended", argument=change)
        for name, change in CHANGES.items()
    ),
    *(
        Case(
            f"{split} images {name} before a resume",
            resumed,
            says=f"the {what} images are not those that .* began with",
            argument=(split, change),
        )
        for split, what in (("train", "training"), ("val", "validation"))
        for name, change in CHANGES.items()
    ),
    Case("a copy with other modification times", copied, fate="mended"),
    Case("a run whose fingerprint is of names alone", of_old, says="not known", fate="said"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_large_sets_are_known_by_sizes_and_a_fixed_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "FULL_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "SAMPLED", 2)
    paths = [tmp_path / str(i) for i in range(8)]
    for path in paths:
        path.write_bytes(b"x" * 400)
    read = lambda: fingerprint.of_files(list(map(str, paths)))  # noqa: E731
    before = read()
    assert before[0] == fingerprint.SAMPLE and fingerprint.sample(8, 2) == [0, 4]
    paths[1].write_bytes(b"y" * 400)
    assert read() == before  # of the same size and not in the sample: why "used again" says how much was compared
    paths[1].write_bytes(b"y" * 401)
    assert read() != before
    paths[1].write_bytes(b"x" * 400)
    paths[4].write_bytes(b"y" * 400)
    assert read() != before


def test_which_fingerprints_can_be_compared():
    full, other, sample = "content-full:aa", "content-full:bb", "content-sample:cc"
    assert fingerprint.same(full, full) is True and fingerprint.same(full, other) is False
    assert fingerprint.same("aa", full) is True  # an embedded set in a record of evalkit 0.1.0
    assert fingerprint.same("dd", full) is None and fingerprint.same(sample, full) is None
    assert fingerprint.remark(full) is None and "the contents of 1,024" in fingerprint.remark(sample)
    assert "names alone" in fingerprint.remark("dd") and fingerprint.short(sample) == "cc"
    assert fingerprint.combined({"a": full, "b": sample}).startswith("content-sample:")
