"""The index of a folder of images: never one that is out of date."""

import os
import shutil
import time

import pytest

from evalkit.data import file_index
from evalkit.data.folders import folder
from evalkit.data.scan import Scan


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two classes, one of them with a folder inside, that nobody has changed for long; the index stays in a folder
    beside it."""
    monkeypatch.setenv(file_index.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(file_index, "SETTLED", -60.0)  # a tree counts as old at once
    for name in ("cat/a.jpg", "cat/deep/b.PNG", "cat/notes.txt", "dog/ü.jpg", "beside.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    return tmp_path / "set"


def looks(monkeypatch):
    """What `Scan.images` is asked for from now on."""
    asked, images = [], Scan.images
    monkeypatch.setattr(Scan, "images", lambda self, *a, **k: (asked.append(a), images(self, *a, **k))[1])
    return asked


def test_the_second_look_reads_no_folder_and_finds_the_same(tree, monkeypatch):
    first, asked = folder(tree), looks(monkeypatch)
    second = folder(tree)
    assert not asked
    assert list(second.ids) == list(first.ids) == ["cat/a.jpg", "cat/deep/b.PNG", "dog/ü.jpg"]
    assert second.labels.tolist() == first.labels.tolist() == [0, 0, 1]
    assert second.remarks == first.remarks and "1 .txt" in second.remarks[0] and "beside" in second.remarks[0]
    assert [c.classes for c in (first, second)] == [["cat", "dog"]] * 2


def _touch_and_reset(tree):
    before = os.stat(tree / "cat" / "deep")
    (tree / "cat" / "deep" / "c.jpg").touch()
    os.utime(tree / "cat" / "deep", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times does


CHANGES = {
    "an image more": lambda tree: (tree / "dog" / "b.jpg").touch(),
    "an image more, times put back": _touch_and_reset,
    "an image less": lambda tree: (tree / "cat" / "deep" / "b.PNG").unlink(),
    "another name": lambda tree: (tree / "cat" / "a.jpg").rename(tree / "cat" / "z.jpg"),
    "an image elsewhere": lambda tree: (tree / "cat" / "a.jpg").rename(tree / "dog" / "a.jpg"),
    "a class more": lambda tree: shutil.copytree(tree / "dog", tree / "emu"),
    "another folder of the name": lambda tree: (
        shutil.move(tree / "dog", tree.parent / "old"),
        shutil.copytree(tree / "cat", tree / "dog"),
    ),
    "what is passed over": lambda tree: (tree / "cat" / "more.txt").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_makes_it_look_again(tree, change, monkeypatch, tmp_path):
    folder(tree)
    CHANGES[change](tree)
    found = folder(tree)
    monkeypatch.setenv(file_index.CACHE, str(tmp_path / "none"))
    alone = folder(tree)
    assert list(found.ids) == list(alone.ids) and found.labels.tolist() == alone.labels.tolist()
    assert found.remarks == alone.remarks


def test_what_may_change_without_a_trace_is_not_kept(tree, monkeypatch, tmp_path):
    monkeypatch.setattr(file_index, "SETTLED", 2.0)
    folder(tree)  # it was made a moment ago
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(file_index.time, "time", lambda now=time.time: now() + 10)
    (tree / "cat" / "link.jpg").symlink_to(tree / "dog" / "ü.jpg")
    folder(tree)
    assert not (tmp_path / "cache").exists()
    (tree / "cat" / "link.jpg").unlink()
    folder(tree)
    [index] = (tmp_path / "cache" / "index").iterdir()
    index.write_bytes(index.read_bytes()[:100])  # damaged: made again
    asked = looks(monkeypatch)
    assert len(folder(tree)) == 3 and len(asked) == 2
    (tmp_path / "cache" / "index").chmod(0o500)
    assert len(folder(tree)) == 3
