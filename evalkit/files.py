"""Files that are whole or not there, without importing torch."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import EvalkitError


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write(file)` on a temporary file, fsync it, rename it to `path`: a crash leaves the old file or the new
    one, never half of one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
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


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all of them are on disk under temporary names before the first is renamed, so
    a full disk, a folder without the right to write or a kill leaves the old ones, all of them."""
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, content in files.items():
            if path.is_dir():
                raise IsADirectoryError(0, f"{path} is a folder", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporaries[path], "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
        for folder in {path.parent for path in files}:
            sync_folder(folder)
    except OSError as e:
        raise EvalkitError(
            f"cannot write {path}: {e.strerror or e}; free some space or choose another output folder"
        ) from e
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
