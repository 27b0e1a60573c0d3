"""The classes of keys behind the commands, and their keys in `--help`."""

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

from ..keys import Keys


def train() -> dict[str, type[Keys]]:
    from ..train.config import TrainConfig

    return {"train": TrainConfig}


def eval() -> dict[str, type[Keys]]:
    from ..accuracy import EvalConfig

    return {"eval": EvalConfig}


def transfer() -> dict[str, type[Keys]]:
    from ..downstream.tasks import TASKS, find

    return {f"transfer {name}": find(name).schema for name in TASKS}


def robustness() -> dict[str, type[Keys]]:
    from ..robustness import CONFIGS, AllConfig

    return {f"robustness {name}": schema for name, schema in {**CONFIGS, "all": AllConfig}.items()}


def schemas() -> dict[str, type[Keys]]:
    """Command -> the class of its keys, for every command that takes key=value."""
    return train() | eval() | transfer() | robustness()


def with_keys(of: Callable[[], dict[str, type[Keys]]]) -> type[TyperCommand]:
    """A command whose `--help` ends with its keys: meaning, choices, bounds, default."""

    class Command(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from .. import reference

            super().format_epilog(ctx, formatter)
            for commands, entries in reference.groups(of()):
                whose = "" if len(commands) == len(of()) else f" of {reference.takers(commands)}"
                with formatter.section(f"Keys{whose}"):
                    formatter.write_dl([(entry.name, entry.line()) for entry in entries])

    return Command
