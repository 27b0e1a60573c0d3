"""What the commands know of protocols: the applications' descriptions, read when a command runs."""

from collections.abc import Callable, Mapping
from typing import Any

from typer.core import TyperCommand

from ..protocols import Protocol, Protocols, by_name


def robustness() -> Mapping[str, Protocol]:
    from ..robustness import PROTOCOLS

    return PROTOCOLS


def transfers() -> Mapping[str, Protocol]:
    from ..downstream import PROTOCOLS

    return PROTOCOLS


def protocols() -> Protocols:
    """Every protocol, in the order of tables."""
    from ..about import ACCURACY

    return by_name((ACCURACY, *robustness().values(), *transfers().values()))


def listing(title: str, read: Callable[[], Mapping[str, Protocol]]) -> type[TyperCommand]:
    """A command whose help lists the protocols that `read` gives, each with its sentence."""

    class Listing(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            super().format_options(ctx, formatter)
            with formatter.section(title):
                formatter.write_dl([(protocol.name, protocol.sentence) for protocol in read().values()])

    return Listing
