"""Files that belong together, killed before each of their renames; what a killed writer leaves is cleared away."""

import os
import signal
from pathlib import Path

import pytest

from evalkit import files
from evalkit.errors import EvalkitError

NAMES = ["a.csv", "b.md", "figures/c.png"]


def write(folder: Path, content: bytes) -> bool:
    return files.write_together({folder / name: content for name in NAMES}, folder / "unfinished.txt")


def there(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


def killed_before(rename: int, work) -> None:
    """Run `work` in a process that dies at its rename of that number; the last number is beyond all of them."""
    pid = os.fork()
    if pid == 0:
        try:
            replace, left = os.replace, [rename]

            def strike(*args):
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                replace(*args)

            os.replace = strike
            work()
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("rename", range(len(NAMES)))
def test_a_kill_between_two_renames_is_told(tmp_path, rename):
    assert not write(tmp_path, b"old")
    killed_before(rename, lambda: write(tmp_path, b"new"))
    assert there(tmp_path) == [b"new"] * rename + [b"old"] * (len(NAMES) - rename)
    assert (tmp_path / "unfinished.txt").read_text() == (
        "Some of these may be of an earlier writing; write all of them again: a.csv, b.md, c.png\n"
    )
    assert write(tmp_path, b"again") and there(tmp_path) == [b"again"] * len(NAMES)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == NAMES
    assert not write(tmp_path, b"more")


def test_what_cannot_be_written_leaves_the_old_ones(tmp_path):
    write(tmp_path, b"old")
    (tmp_path / "d").mkdir()
    with pytest.raises(EvalkitError, match="d is a folder"):
        files.write_together({tmp_path / "a.csv": b"new", tmp_path / "d": b"new"}, tmp_path / "unfinished.txt")
    assert there(tmp_path) == [b"old"] * 3 and not (tmp_path / "unfinished.txt").exists()


def test_one_writing_at_a_time(tmp_path):
    with open(tmp_path / "unfinished.txt", "wb") as mark:
        assert files.locked(mark)
        with pytest.raises(EvalkitError, match="another process is writing into .*; try again when it has ended"):
            write(tmp_path, b"new")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["unfinished.txt"]


def test_what_a_killed_writer_left_goes_and_what_a_live_one_holds_stays(tmp_path):
    left, held = tmp_path / ".a[1].csv.77.tmp", tmp_path / ".a[1].csv.78.tmp"
    left.write_bytes(b"half")
    with open(held, "wb") as file:
        assert files.locked(file)
        files.write_atomic(tmp_path / "a[1].csv", lambda f: f.write(b"whole"))
    assert not left.exists() and held.exists() and (tmp_path / "a[1].csv").read_bytes() == b"whole"
