"""Files that are whole or not there, without importing torch."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import EvalkitError


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name, fsync it, rename it: a crash leaves the old file or the new one, never half
    of one.

    Args:
        path: The file.
        write: Writes the content to the open file that it is given.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with _opened(path) as f:
            write(f)
            _flush(f)
            os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(e, OSError):
            raise EvalkitError(
                f"cannot write {path}: {e.strerror or e}; free some space or choose another output folder"
            ) from e
        raise


def write_together(files: Mapping[Path, bytes], unfinished: Path) -> bool:
    """Write files that belong together: all of them are on disk under temporary names before the first is renamed, so
    a full disk or a folder without the right to write leaves the old ones, all of them. A kill between two of the
    renames leaves a file that says so to whoever looks there.

    Args:
        files: Path -> content.
        unfinished: The file that is there while they are written.

    Returns whether it was there, from a call that was cut off; raises EvalkitError where a file cannot be written, or
    while another process is at it.
    """
    path, cut_off = unfinished, unfinished.exists()
    names = ", ".join(sorted(path.name for path in files))
    try:
        with contextlib.ExitStack() as opened:
            for path, content in files.items():
                if path.is_dir():
                    raise IsADirectoryError(0, f"{path} is a folder", str(path))
                f = opened.enter_context(_opened(path))
                f.write(content)
                _flush(f)
            path = unfinished
            mark = opened.enter_context(open(unfinished, "ab"))
            if not locked(mark):
                raise EvalkitError(f"another process is writing into {unfinished.parent}; try again when it has ended")
            mark.truncate(0)
            mark.write(f"Some of these may be of an earlier writing; write all of them again: {names}\n".encode())
            _flush(mark)
            sync_folder(unfinished.parent)
            for path in files:
                os.replace(_temporary(path), path)
            for folder in {path.parent for path in files}:
                sync_folder(folder)
            unfinished.unlink()
    except OSError as e:
        raise EvalkitError(
            f"cannot write {path}: {e.strerror or e}; free some space or choose another output folder"
        ) from e
    finally:
        for path in files:
            with contextlib.suppress(OSError):
                _temporary(path).unlink()
    return cut_off


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _opened(path: Path) -> IO[bytes]:
    """The temporary file of `path`, empty, locked while it is open; those of processes that were killed go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), open(left, "rb") as file:
            if locked(file):
                left.unlink()
    file = open(_temporary(path), "wb")  # noqa: SIM115 - the caller closes it
    while locked(file, wait=True) and not _temporary(path).exists():  # taken for a dead one's before it was locked
        file.close()
        file = open(_temporary(path), "wb")  # noqa: SIM115
    return file


def append(file: int, line: bytes, alone: bool = True) -> None:
    """Append a line to a file. Where not all of it fits, none of it stays.

    Args:
        file: The descriptor of the file, opened to append.
        line: With its newline.
        alone: Nobody else appends at this moment.
    """
    size, left = os.fstat(file).st_size, memoryview(line)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        if alone:
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
        raise


def locked(file: IO[bytes] | int, wait: bool = False) -> bool:
    """Whether an open file or folder is now locked by this process; False on a file system without locks as well.

    Args:
        file: The file, or its descriptor.
        wait: Until another process gives it free.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError:
        return False


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text that a file holds. Raises ValueError for what is none, for bytes that are no text, and
    for what is nested deeper than Python goes.

    Args:
        text: The whole content.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
