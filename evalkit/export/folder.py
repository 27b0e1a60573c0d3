"""A folder that is whole or not there."""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import EvalkitError, in_short
from ..files import locked, sync_folder

README, ABOUT = "README.md", "export.json"


def tell(folder: Path, **facts: Any) -> None:
    """Write export.json: which evalkit made the folder, and what it says of it.

    Args:
        folder: The export.
        facts: JSON values by name.
    """
    text = json.dumps({"evalkit": __version__, **facts}, indent=1)
    (folder / ABOUT).write_text(text, encoding="utf-8")


# how safetensors and torch say that a file could not be written
UNWRITTEN = ("I/O error", "inline_container")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name once the block has ended, and is gone where the block raises; one that a
    killed process left goes as well. Raises EvalkitError where there is something already, where it cannot be written,
    and while another process writes it."""
    if out.exists() or out.is_symlink():
        raise EvalkitError(f"{out} is there already; choose another OUT, or remove it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    lock = None
    try:
        if not out.parent.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
        lock = _begin(partial, out)
        yield partial
        for path in sorted(partial.rglob("*")):
            sync_folder(path)  # of files too
        sync_folder(partial)
        os.rename(partial, out)
        sync_folder(out.parent)
    except OSError as e:
        raise EvalkitError(
            f"cannot write {out}: {e.strerror or e}; free some space or choose another output folder"
        ) from e
    except Exception as e:
        if not any(words in str(e) for words in UNWRITTEN):
            raise
        raise EvalkitError(f"cannot write {out}: {in_short(e)}; free some space or choose another output folder") from e
    finally:
        if lock is not None:
            os.close(lock)
            shutil.rmtree(partial, ignore_errors=True)


def _begin(partial: Path, out: Path) -> int:
    """Make the folder `partial`, locked as long as what is returned is open; those of killed processes go."""
    around = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        locked(around, wait=True)  # so that none is taken for a dead one's before it is locked
        for left in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
            with contextlib.suppress(OSError):
                found = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    if not locked(found):
                        raise EvalkitError(f"another process is writing {out}; wait for it, or choose another OUT")
                    shutil.rmtree(left)
                finally:
                    os.close(found)
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        locked(lock)
        return lock
    finally:
        os.close(around)
