"""The classes of keys behind the commands, and their keys in `--help`."""

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

from ..keys import Keys, of
from ..protocols import Protocols
from . import described


def train() -> dict[str, type[Keys]]:
    """The keys of `evalkit train`."""
    from ..train.config import TrainConfig

    return {"train": TrainConfig}


def eval() -> dict[str, type[Keys]]:
    """The keys of `evalkit eval`."""
    from ..about import EvalConfig

    return {"eval": EvalConfig}


def transfer() -> dict[str, type[Keys]]:
    """The keys of each transfer."""
    return {f"transfer {name}": protocol.config for name, protocol in described.transfers().items()}


def robustness() -> dict[str, type[Keys]]:
    """The keys of each robustness protocol, and of all together."""
    from ..robustness import AllConfig

    own = {name: protocol.config for name, protocol in described.robustness().items()}
    return {f"robustness {name}": schema for name, schema in {**own, "all": AllConfig}.items()}


def export() -> dict[str, type[Keys]]:
    """The keys of `evalkit export`."""
    from ..export.about import ExportConfig

    return {"export": ExportConfig}


def schemas() -> dict[str, type[Keys]]:
    """Command -> the class of its keys, for every command that takes key=value."""
    return train() | eval() | transfer() | robustness() | export()


def as_key(path: str, option: str | None) -> str:
    """What to write instead of an option that is a key; "" where it is none.

    Args:
        path: The words of the command, such as 'evalkit train'.
        option: What was given, such as '--epochs'.
    """
    name = (option or "").lstrip("-").replace("-", "_")
    verb = path.partition(" ")[2].partition(" ")[0]
    taken = any(name in of(schema) for command, schema in schemas().items() if command.partition(" ")[0] == verb)
    return f" It is a key: write {name}=VALUE." if taken else ""


def with_keys(
    classes: Callable[[], dict[str, type[Keys]]], title: str = "", listed: Callable[[], Protocols] = dict
) -> type[TyperCommand]:
    """A command whose `--help` ends with its keys: meaning, choices, bounds, default.

    Args:
        classes: Command -> the class of its keys, made when help is asked for.
        title: Over the protocols that are listed too.
        listed: The protocols, each with its sentence.
    """

    class Command(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            super().format_options(ctx, formatter)
            if title:
                with formatter.section(title):
                    formatter.write_dl([(protocol.name, protocol.sentence) for protocol in listed().values()])

        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from .. import reference

            super().format_epilog(ctx, formatter)
            for commands, entries in reference.groups(classes()):
                whose = "" if len(commands) == len(classes()) else f" of {reference.takers(commands)}"
                with formatter.section(f"Keys{whose}"):
                    formatter.write_dl([(entry.name, entry.line()) for entry in entries])

    return Command
