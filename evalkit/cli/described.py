"""What the commands know of protocols: the applications' descriptions, read when a command runs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import EvalkitError, unknown
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

    protocol, folder, usual = _chosen(command, what, overrides, recipe)
    return protocol, config.load(protocol.config, usual, overrides, folder=folder)


def _chosen(command: str, what: str, overrides: list[str], recipe: str | None = None) -> tuple[Protocol, str, Any]:
    """A protocol, the folder of its recipes and the one that a command measures by."""
    from .. import config

    known = robustness() if command == "robustness" else transfers()
    if what not in known:
        raise unknown("protocol" if command == "robustness" else "task", what, known)
    if command == "robustness":
        return known[what], command, recipe or (what if what in config.recipes(command) else None)
    return known[what], what, known[what].load().recipe(overrides) if recipe is None else recipe


def lacking(command: str, what: str, source: str, overrides: list[str]) -> str:
    """Why `evalkit COMMAND WHAT SOURCE overrides` could not begin yet, such as for want of data, or "".

    Args:
        command: robustness or transfer.
        what: The name of the protocol or task.
        source: The checkpoint.
        overrides: `key=value` as typed.

    Raises EvalkitError for what no data would mend: an unknown protocol, key or value.
    """
    from .. import config

    protocol, folder, usual = _chosen(command, what, overrides)
    if command == "transfer" and protocol.load().training(source, overrides) is not None:
        return ""  # a training, which says so itself
    config.resolve(protocol.config, usual, overrides, folder=folder)
    try:
        config.load(protocol.config, usual, overrides, folder=folder)
    except EvalkitError as e:
        return str(e)
    return ""


def protocols() -> Protocols:
    """Every protocol, in the order of tables."""
    from ..about import ACCURACY

    return by_name((ACCURACY, *robustness().values(), *transfers().values()))


def outcomes() -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """What the per-sample records of a record say, of any protocol: see `robustness.recorded.outcome_of`."""
    from ..robustness.recorded import outcome_of

    return partial(outcome_of, transfers=transfers())
