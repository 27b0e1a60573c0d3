"""A folder is whole or not there."""

import json
import os
import signal
import subprocess
import sys

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


def test_what_a_killed_one_left_goes(tmp_path):
    code = (
        "import os, sys, signal, pathlib; from evalkit.export.folder import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as f:\n"
        "    (f / 'x').write_text('1'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL and [p.name[:5] for p in tmp_path.iterdir()] == [".out."]
    with new_folder(tmp_path / "out") as folder:
        assert [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_at_once(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        os.rename(folder, other := folder.with_name(".out.1.tmp"))  # of another process, as this one sees it
        with (
            pytest.raises(EvalkitError, match="another process is writing .*out; wait for it"),
            new_folder(tmp_path / "out"),
        ):
            raise AssertionError("not reached")
        os.rename(other, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line(tmp_path):
    code = (
        "import resource, sys, pathlib, torch, safetensors.torch; from evalkit.export.folder import new_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from evalkit.errors import EvalkitError\n"
        "x = {'x': torch.zeros(9999)}\n"
        "for write in (torch.save, safetensors.torch.save_file, lambda x, path: path.write_bytes(bytes(9999))):\n"
        "    try:\n"
        "        with new_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "            write(x, folder / 'x')\n"
        "    except EvalkitError as e:\n"
        "        print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all("out: " in line and "free some space" in line for line in lines), done
    assert list(tmp_path.iterdir()) == []
