"""`evalkit show`."""

from typing import Annotated

import typer

from ..text import say
from . import complete, described

EPILOG = """\b
Examples:
  evalkit show runs/mixpro
  evalkit show runs/seg --json
  evalkit show zoo:mixpro-digits
  evalkit show deit.pth
"""


def show(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="a run or study folder, a folder of results, a checkpoint, zoo:NAME, a weights file or a timm name",
            autocompletion=complete.words,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object: every field of every record")] = False,
) -> int:
    """What a run is, its numbers, its command.

    Of a training, a transfer, a study, a folder of results, a checkpoint of the zoo or of anybody else.
    """
    from .. import show as shown

    protocols = described.protocols()
    found = shown.about(run, protocols)
    if as_json:
        print(shown.as_json(found))
    else:
        say(*shown.lines(found, protocols))
    return 0
