"""What the commands know of protocols: the applications' descriptions, read when a command runs."""

from collections.abc import Mapping

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
