"""`evalkit zoo list`."""

import typer

from ..text import say

app = typer.Typer(help="Small checkpoints that come with evalkit, given as zoo:NAME.", rich_markup_mode=None)


@app.command(
    "list",
    epilog="""\b
Examples:
  evalkit zoo list
  evalkit show zoo:mixpro-digits                  its card: recipe, data, numbers, commands
  evalkit robustness occlusion zoo:mixpro-digits
""",
)
def zoo_list() -> int:
    """Every checkpoint: network, mixup, data, accuracy."""
    from .. import zoo

    say(*zoo.table())
    return 0
