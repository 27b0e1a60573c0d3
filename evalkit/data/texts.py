"""Many short texts in two arrays."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


class Texts(Sequence[str]):
    """A list of texts that worker processes share.

    A worker that reads an entry of a Python list writes to its reference count, and so comes to own a copy of the page;
    over an epoch, of the whole list. Arrays are left alone. `distinct`: whether it is known that no two are equal.
    """

    distinct = False

    def __init__(self, texts: Iterable[str] = ()):
        encoded = [text.encode(errors="surrogateescape") for text in texts]
        self.letters = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    @classmethod
    def of_arrays(cls, letters: np.ndarray, ends: np.ndarray) -> "Texts":
        """The texts in UTF-8 `letters` (uint8), one behind the other, that end before `ends` (int64)."""
        found = cls()
        found.letters, found.ends = letters, ends
        return found

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        count = len(self.ends)
        if not -count <= i < count:
            raise IndexError(f"text {i} of {count}")
        i = int(i) % count
        start = int(self.ends[i - 1]) if i else 0
        return self.letters[start : int(self.ends[i])].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        letters, start = self.letters.tobytes(), 0
        for end in self.ends.tolist():
            yield letters[start:end].decode(errors="surrogateescape")
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return np.array_equal(self.ends, other.ends) and np.array_equal(self.letters, other.letters)
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Texts({list(self) if len(self) < 10 else [*self[:9], '...']})"
