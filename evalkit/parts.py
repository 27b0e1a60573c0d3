"""A long pass saved piece by piece, so that a pass that was killed goes on where it stopped."""

import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import read_npz
from .runtime import gather_objects, is_main, write_atomic

SECONDS = 10.0  # between two pieces: about as much work is lost


class Parts:
    """Results of samples, arrays whose first axis follows their ids, as files.

    All processes of a run share the folder.

    Args:
        folder: Where they lie.
        kind: Everything that the results depend on: only pieces of the same kind are found again.
    """

    def __init__(self, folder: str | Path, kind: str):
        self.folder, self.kind = Path(folder), kind
        self.last = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays of all pieces, every sample once, the same in every process; None without any. A damaged piece
        counts as not there."""
        return gather_objects(self._load() if is_main() else None)[0]

    def _load(self) -> dict[str, np.ndarray] | None:
        pieces = []
        for path in sorted(self.folder.glob(f"{self.kind}-*.npz")):
            try:
                pieces.append(read_npz(path))
            except (OSError, ValueError):
                continue
        if not pieces:
            return None
        first = np.unique(np.concatenate([piece["ids"] for piece in pieces]), return_index=True)[1]
        return {name: np.concatenate([piece[name] for piece in pieces])[first] for name in pieces[0]}

    def due(self) -> bool:
        """Whether it is time to save a piece."""
        return time.monotonic() - self.last >= SECONDS

    def save(self, ids: Sequence[str], **arrays: np.ndarray) -> None:
        """Write a piece; nothing for no ids."""
        if len(ids):
            path = self.folder / f"{self.kind}-{uuid.uuid4().hex}.npz"
            content: dict[str, Any] = {"ids": np.array(ids), **arrays}
            write_atomic(path, lambda f: np.savez(f, **content))
        self.last = time.monotonic()

    def remove(self) -> None:
        """Delete all pieces: the results are elsewhere, as a whole."""
        if is_main():
            shutil.rmtree(self.folder, ignore_errors=True)
