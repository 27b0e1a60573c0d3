"""`evalkit recipes list | show | diff | keys`."""

from typing import Annotated

import typer

from ..errors import EvalkitError
from ..text import say
from . import complete, described
from .words import Overrides, check_overrides

app = typer.Typer(help="The recipes that come with evalkit.", rich_markup_mode=None)


@app.command("list")
def recipes_list() -> int:
    """The name and the first line of every recipe."""
    from .. import recipe_text

    folders = ("train", *described.transfers(), "robustness")
    # a transfer may need no recipe
    print(*filter(None, (recipe_text.listing(folder) for folder in folders)), sep="\n")
    return 0


@app.command("show")
def recipes_show(
    recipe: Annotated[str, typer.Argument(help="name or YAML file", autocompletion=complete.words)],
    overrides: Overrides = None,
) -> int:
    """A recipe with every key written out and the source of each disputed value; the output is a recipe itself."""
    check_overrides(overrides)
    from .. import recipe_text

    schema, folder = _schema(recipe)
    say(*recipe_text.show(schema, recipe, overrides or [], folder).split("\n"))
    return 0


@app.command(
    "diff",
    epilog="""\b
Examples:
  evalkit recipes diff transmix transmix-as-run
  evalkit recipes diff digits-photo runs/mine/config.yaml
""",
)
def recipes_diff(
    a: Annotated[str, typer.Argument(metavar="A", help="name or YAML file", autocompletion=complete.words)],
    b: Annotated[str, typer.Argument(metavar="B", help="name or YAML file", autocompletion=complete.words)],
) -> int:
    """The values in which two recipes differ, with the source of each."""
    from .. import recipe_text

    if (schema := _schema(a)) != _schema(b):
        raise EvalkitError(f"'{a}' and '{b}' are recipes for different commands, so they have no keys to compare")
    say(*(recipe_text.diff(schema[0], a, b, schema[1]) or "no difference").split("\n"))
    return 0


@app.command(
    "keys",
    epilog="""\b
Examples:
  evalkit recipes keys
  evalkit recipes keys mix_draws
""",
)
def recipes_keys(
    key: Annotated[
        str | None, typer.Argument(help="only this one, at length", show_default=False, autocompletion=complete.words)
    ] = None,
) -> int:
    """What every key means, its choices, bounds and default, and which commands take it."""
    from .. import reference
    from .schemas import schemas

    print(reference.listing(schemas()) if key is None else reference.page(schemas(), key))
    return 0


def _schema(recipe: str) -> tuple[type, str]:
    """The dataclass a recipe fills, and the folder it lies in; a file is a recipe for `evalkit train`."""
    from ..config import base_name, recipes

    if recipe in (shipped := recipes("robustness")):
        protocol = recipe if recipe in described.robustness() else base_name(shipped[recipe])
        return described.robustness()[protocol].config, "robustness"
    for folder, transfer in described.transfers().items():
        if recipe in recipes(folder):
            return transfer.config, folder
    from ..train.config import TrainConfig

    return TrainConfig, "train"
