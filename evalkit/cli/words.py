"""Words of a command line: names and paths, and key=value overrides."""

import re
from typing import Annotated

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


def check_overrides(words: list[str] | None) -> None:
    """Raises EvalkitError for the first word that is not key=value."""
    odd = split(words)[0]
    if odd:
        raise EvalkitError(f"'{odd[0]}' is not key=value; see `evalkit --help`")
