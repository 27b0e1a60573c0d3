"""`evalkit report`."""

from pathlib import Path
from typing import Annotated

import typer

from ..text import say
from . import described

EPILOG = """\b
Example:
  evalkit report runs --out report
"""


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="run folders, or folders that hold some")],
    out: Annotated[Path | None, typer.Option(help="folder for the report", show_default="the first DIR")] = None,
) -> int:
    """Tables and figures from the results of runs.

    Markdown, CSV, LaTeX and one self-contained HTML page from every results.jsonl below the folders.
    """
    from ..report import build

    say(*str(build(folders, out, described.protocols())).split("\n"))
    return 0
