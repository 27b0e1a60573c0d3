"""Lists without repetition."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def each_once(values: Iterable[T]) -> list[T]:
    """The values in the order in which they first come, each once: the keys of a dict keep their order, as those of a
    set do not."""
    return list(dict.fromkeys(values))
