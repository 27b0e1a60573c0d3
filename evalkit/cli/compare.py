"""`evalkit compare`."""

from pathlib import Path
from typing import Annotated

import typer

from . import complete, described

EPILOG = """\b
Examples:
  evalkit robustness occlusion runs/vanilla runs/mixpro --out results
  evalkit compare results:vanilla results:mixpro
  evalkit compare results:vanilla results:mixpro --protocol occlusion --out comparison
  evalkit compare zoo:mixpro-digits zoo:vanilla-digits
  evalkit compare studies/mine:method=mixpro studies/mine:method=vanilla
"""


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="a folder of results of one model, zoo:NAME, FOLDER:LABEL, or STUDYFOLDER:AXIS=VALUE,..",
            autocompletion=complete.words,
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="the same of the other model", autocompletion=complete.words)],
    protocol: Annotated[
        list[str] | None, typer.Option(help="only this protocol; may be given again", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for compare.json", show_default=False)] = None,
) -> int:
    """Is A better than B?

    Two models on the same images: paired bootstrap and McNemar's exact test on what `evalkit robustness`, `evalkit
    eval` and `evalkit transfer` keep of each image. Two methods of several seeds, of a study or of runs: paired
    by seed. A verdict per metric.
    """
    from ..study import versus

    if versus.is_over_seeds(a) or versus.is_over_seeds(b):
        return versus.compare(a, b, protocol or [], described.protocols(), described.outcomes(), out)
    from ..robustness import compare

    return compare(a, b, protocol or [], out, described.transfers())
