"""A folder that is whole or not there."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import EvalkitError
from ..files import sync_folder

README, ABOUT = "README.md", "export.json"


def tell(folder: Path, **facts: Any) -> None:
    """Write export.json: which evalkit made the folder, and what it says of it.

    Args:
        folder: The export.
        facts: JSON values by name.
    """
    text = json.dumps({"evalkit": __version__, **facts}, indent=1)
    (folder / ABOUT).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name once the block has ended, and is gone where the block raises. Raises
    EvalkitError where there is something already, or where it cannot be written."""
    if out.exists() or out.is_symlink():
        raise EvalkitError(f"{out} is there already; choose another OUT, or remove it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
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
    finally:
        shutil.rmtree(partial, ignore_errors=True)
