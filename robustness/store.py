"""Arrays on disk: a .npz that depends on nothing but its content, how it was made in a .json beside it with the .npz's
sha256."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.arrays import read_npz
from evalkit.protocols import Protocol
from evalkit.runtime import parse_json, sha256_file, write_atomic

from .protocol import PER_SAMPLE, Arrays, Outcome, by_id

# what missing, damaged and foreign files raise
UNREADABLE = (OSError, ValueError, KeyError, TypeError)


def write(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write arrays and what they are; a crash leaves what was there before, or a pair that `read` refuses.

    Args:
        path: The .npz; `about` goes to a .json beside it.
        arrays: Per-sample records by name.
        about: JSON values that the records depend on.
    """
    named: dict[str, Any] = {**arrays}
    write_atomic(path, lambda f: np.savez(f, **named))
    text = json.dumps(about | {"sha256": sha256_file(path)}, indent=1, sort_keys=True)
    write_atomic(path.with_suffix(".json"), lambda f: f.write(text.encode()))


def read(path: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """(arrays, about) as they were written; None where there is nothing, or where it is damaged. Nothing is
    unpickled."""
    try:
        about = parse_json(path.with_suffix(".json").read_text(encoding="utf-8"))
        if about["sha256"] != sha256_file(path):
            return None
        return read_npz(path), about
    except UNREADABLE:
        return None


def evaluated(protocol: Protocol, arrays: Arrays) -> Outcome | None:
    """The numbers of records that were read; None where they are not what the protocol keeps: arrays that lack, or of
    other shapes and types.

    Args:
        protocol: What measured them.
        arrays: As `read` gives them.
    """
    try:
        count = len({*arrays["ids"].tolist()})
        if not count or any(len(arrays[name]) != count for name in PER_SAMPLE if name in arrays):
            return None
        found: Outcome = protocol.load().evaluate(by_id(arrays))
        return found
    except (*UNREADABLE, IndexError, AttributeError, ZeroDivisionError):
        return None
