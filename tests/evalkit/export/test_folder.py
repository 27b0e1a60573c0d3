"""A folder is whole or not there."""

import json

import pytest

from evalkit.errors import EvalkitError
from evalkit.export.folder import new_folder, tell


def test_the_folder_appears_whole(tmp_path):
    out = tmp_path / "a" / "out"
    with new_folder(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("1")
        tell(folder, form="timm")
        assert not out.exists() and folder.parent == out.parent
    assert (out / "sub" / "x").read_text() == "1" and json.loads((out / "export.json").read_text())["form"] == "timm"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_nothing_is_left_of_one_that_was_refused(tmp_path):
    with pytest.raises(EvalkitError, match="differ"), new_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
        raise EvalkitError("they differ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_stays(kind, tmp_path):
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(EvalkitError, match="out is there already; choose another OUT"), new_folder(out):
        raise AssertionError("not reached")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(EvalkitError, match="cannot write .*/file/out: Not a directory"),
        new_folder(tmp_path / "file" / "out"),
    ):
        raise AssertionError("not reached")
