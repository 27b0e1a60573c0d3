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


def settings(command: str, what: str, overrides: list[str], recipe: str | None = None) -> tuple[Protocol, Any]:
    """A protocol and its configuration, as `evalkit COMMAND WHAT ... overrides` measures by it.

    Args:
        command: robustness or transfer.
        what: The name of the protocol or task.
        overrides: `key=value` as typed.
        recipe: The recipe that was named; None: the one that the command chooses.
    """
    from .. import config

    if command == "robustness":
        protocol, folder = robustness()[what], "robustness"
        usual = what if what in config.recipes("robustness") else None
    else:
        protocol, folder = transfers()[what], what
        usual = protocol.load().recipe(overrides) if recipe is None else None
    return protocol, config.load(protocol.config, recipe or usual, overrides, folder=folder)


def protocols() -> Protocols:
    """Every protocol, in the order of tables."""
    from ..about import ACCURACY

    return by_name((ACCURACY, *robustness().values(), *transfers().values()))


def outcomes() -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """What the per-sample records of a record say, of any protocol: see `robustness.recorded.outcome_of`."""
    from ..robustness.recorded import outcome_of

    return partial(outcome_of, transfers=transfers())
