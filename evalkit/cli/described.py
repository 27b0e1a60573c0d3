"""What the commands know of protocols: the applications' descriptions, read when a command runs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..protocols import Protocol, Protocols, by_name


def robustness() -> Mapping[str, Protocol]:
    """The robustness protocols by name."""
    from ..robustness import PROTOCOLS

    return PROTOCOLS


def transfers() -> Mapping[str, Protocol]:
    """The transfers by name."""
    from ..downstream import PROTOCOLS

    return PROTOCOLS


def protocols() -> Protocols:
    """Every protocol, in the order of tables."""
    from ..about import ACCURACY

    return by_name((ACCURACY, *robustness().values(), *transfers().values()))


def outcomes() -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """What the per-sample records of a record say, of any protocol: see `robustness.recorded.outcome_of`."""
    from ..robustness.recorded import outcome_of

    return partial(outcome_of, transfers=transfers())
