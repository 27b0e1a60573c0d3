"""Words of a command line: names and paths, and key=value overrides."""

import re
from typing import Annotated, Any

import typer

from ..errors import EvalkitError
from . import complete

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="settings to change", show_default=False, autocompletion=complete.words),
]


KEY_VALUE = re.compile(r"^[\w.-]+=")  # 'runs/lr=0.1' is a path


def split(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Command-line words -> (names and paths, key=value overrides)."""
    words = words or []
    return [w for w in words if not KEY_VALUE.match(w)], [w for w in words if KEY_VALUE.match(w)]


def check_once(command: Any, argv: list[str]) -> None:
    """Raises EvalkitError for an option of one value that stands there twice: the parser takes the last one silently.

    Args:
        command: The parser of the whole program.
        argv: Its command line.
    """
    for word in argv:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    single = [p for p in command.params if not (getattr(p, "multiple", True) or getattr(p, "is_flag", True))]
    words = [word.partition("=")[0] for word in argv[: argv.index("--") if "--" in argv else None]]
    for option in single:
        if sum(word in option.opts for word in words) > 1:
            raise EvalkitError(f"{option.opts[0]} is given more than once; give the one that is meant")


def check_overrides(words: list[str] | None) -> None:
    """Raises EvalkitError for the first word that is not key=value."""
    odd = split(words)[0]
    if odd:
        raise EvalkitError(f"'{odd[0]}' is not key=value; see `evalkit --help`")
