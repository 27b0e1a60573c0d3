"""Data that changed under a name between two commands, or between a run and its resume."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch

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


def other_teacher(folder, how):
    """A run whose teacher became another one under its name is not continued; that of an earlier evalkit is, and it is
    said."""
    teacher = run_folder(folder / "teacher")
    root = splits(folder / "data")
    method = json.dumps({"name": "attentive_cutmix", "teacher": str(teacher)})
    code, line = invoke(training(root, f"mixup={method}", "augment=none"))
    assert code == 0, line
    if how == "other weights":
        shutil.rmtree(teacher)
        torch.manual_seed(1)
        run_folder(teacher)
    else:
        forget(folder / "run", "teachers")
    return heard(["train", "--resume", str(folder / "run")])


def other_maps(folder, how):
    """A run whose maps made before became others is not continued."""
    root, maps = splits(folder / "data"), folder / "maps"
    for image in (root / "train").rglob("*.png"):
        file = maps / f"{image.relative_to(root / 'train')}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, map=np.ones((8, 8)))
    method = json.dumps({"name": "tokenmix", "teacher": "offline", "maps": str(maps)})
    code, line = invoke(training(root, f"mixup={method}", "augment=none"))
    assert code == 0, line
    notes = json.loads((folder / "run" / "results.jsonl").read_text().splitlines()[0])["notes"]
    assert any(note.startswith(f"maps {maps}: content-full:") for note in notes)
    if how == "other values":
        np.savez(maps / "a" / "0.png.npz", map=np.eye(8))
    elif how == "one gone":
        (maps / "a" / "0.png.npz").unlink()
    else:
        forget(folder / "run", "maps")
    return heard(["train", "--resume", str(folder / "run")])


def forget(run, key):
    """As a checkpoint of an earlier evalkit, without a key."""
    for meta in run.glob("checkpoints/*/meta.json"):
        content = json.loads(meta.read_text())
        del content[key]
        meta.write_text(json.dumps(content))


def heard(command):
    """(1, the error), or what was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code, line = invoke(command)
    return (code, line) if code else said.getvalue()


def copied(folder):
    """A copy with other times is the same data."""
    root = folders(folder / "data")
    shutil.copytree(root, folder / "copy" / "data", copy_function=shutil.copyfile)
    os.utime(folder / "copy" / "data" / "a" / "0.png", (1, 1))
    assert data.folder(root).fingerprint == data.folder(folder / "copy" / "data").fingerprint


def packed_again(folder, change):
    """Images that were packed are others under the same names when they are packed again."""
    root = bitmaps(folders(folder / "data"))
    assert invoke(["pack", str(root), str(folder / "out")])[0] == 0
    if change is None:
        (folder / "out" / ".plan").write_text((folder / "out" / ".plan").read_text().splitlines()[0])
    else:
        change(root)
    return heard(["pack", str(root), str(folder / "out")])


def packed_for_resume(folder):
    """A pack of other images in the place of that which a run began with."""
    root = splits(folder / "files")
    for name in ("train", "val"):
        bitmaps(root / name)
    assert invoke(["pack", str(root), str(folder / "data")])[0] == 0
    code, line = invoke([word for word in training(folder / "data", "data=packed") if word != "data=folder"])
    assert code == 0, line
    shutil.rmtree(folder / "data")
    overwrite(root / "train")
    assert invoke(["pack", str(root), str(folder / "data")])[0] == 0
    return invoke(["train", "--resume", str(folder / "run")])


def through_timm(folder):
    """One image of more than are decoded for the fingerprint of a set without files."""
    root = bitmaps(folders(folder / "data", count=80))
    read = lambda: data.load("torch/image_folder", "val", root=root).fingerprint  # noqa: E731
    before = read()
    put(root / "b" / "1.bmp", 999)
    assert read() != before and fingerprint.scheme_of(before) == fingerprint.FULL


def probed(folder):
    """A second transfer of frozen features, on other images, does not use the features of the first."""
    root, run = splits(folder / "data"), run_folder(folder / "run")
    command = ["transfer", "cls", str(run), f"data={root}", "mode=knn", "k=[1]", "device=cpu", "workers=0", "threads=1"]
    command += ["--out", str(folder / "out")]
    assert invoke(command)[0] == 0 and "made before are used" in heard(command)
    put(root / "val" / "b" / "2.png", 999)
    said = heard(command)
    assert said.count("made before are used") == 1  # of the training images
    lines = (folder / "out" / "results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["data"]["fingerprint"] for line in lines}) == len(lines) == 2


def of_old(folder):
    """A run of an earlier evalkit, whose fingerprint is of names alone, goes on with a remark."""
    root = splits(folder / "data")
    assert invoke(training(root))[0] == 0
    for meta in (folder / "run").glob("checkpoints/*/meta.json"):
        content = json.loads(meta.read_text())
        content["data"] = {"name": "data", "fingerprint": "0" * 64}
        meta.write_text(json.dumps(content))
    return heard(["train", "--resume", str(folder / "run")])


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
    Case(
        "other weights of a teacher, before a resume",
        other_teacher,
        says="the weights of the teacher .* are not those that .* began with",
        argument="other weights",
    ),
    *(
        Case(
            f"maps made before, {how}, before a resume",
            other_maps,
            says="the maps in .* are not those that .* began with",
            argument=how,
        )
        for how in ("other values", "one gone")
    ),
    *(
        Case(
            f"a run of an earlier evalkit, which recorded no {what}",
            meet,
            says="is not known",
            fate="said",
            argument="",
        )
        for what, meet in (("teachers", other_teacher), ("maps", other_maps))
    ),
    *(
        Case(
            f"images {name} before they are packed again",
            packed_again,
            says="are not those that .* was packed from: same names, other contents",
            argument=change,
        )
        for name, change in CHANGES.items()
    ),
    Case("a pack of an earlier evalkit, packed again", packed_again, says="not known: an earlier", fate="said"),
    Case(
        "a pack of other images before a resume",
        packed_for_resume,
        says="the training images are not those that .* began with",
    ),
    Case("one image of 160 that timm reads", through_timm, fate="mended"),
    Case("images between two transfers of frozen features", probed, fate="mended"),
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
