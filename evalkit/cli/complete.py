"""What the shell offers after TAB: recipes, protocols, tasks, keys and their values, checkpoints of the zoo. Nothing
here imports torch: a shell waits for it."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from .. import keys
from . import described, schemas

VARIABLE = "_EVALKIT_COMPLETE"  # set by the scripts of `evalkit --show-completion`
MARKS = "=:"  # bash takes them for the ends of words


def words(ctx: typer.Context, incomplete: str) -> list[str]:
    """What may stand in the place of an unfinished word of a command.

    Args:
        ctx: The command, with what was typed before.
        incomplete: The word as far as it was typed.
    """
    command = ctx.command_path.partition(" ")[2]
    task = ctx.params.get("task") or ctx.params.get("protocol")
    if command in FIRST and (task is None or command not in ("transfer", "robustness")):
        found = list(FIRST[command]())
    else:
        found = _zoo()
    schema = schemas.schemas().get(f"{command} {task}" if task else command)
    known = {} if schema is None else keys.of(schema)
    name, equals, value = incomplete.partition("=")
    if equals:
        return [f"{name}={choice}" for choice in _values(known, name, value)]
    left = [word for word in [*found, *(f"{key}=" for key in known)] if word.startswith(incomplete)]
    if len(left) == 1 and left[0].endswith("="):  # with its default beside it, so that the shell goes on in the word
        left += [f"{left[0]}{text}" for text in _default(schema, left[0][:-1])]
    return left


def recipes(ctx: typer.Context) -> list[str]:
    """Names of recipes for the option --recipe of a command."""
    from ..config import recipes as shipped

    return list(shipped(ctx.params.get("task") or "robustness"))


def _default(schema: Any, name: str) -> list[str]:
    """The default of a key as one word, if it has one and is one."""
    from ..recipe_text import flow

    text = flow(keys.default(schema, name))
    return [text] if " " not in text and "?" not in text else []


def _values(schema: Mapping[str, keys.Key], name: str, value: str) -> list[str]:
    """What a key may be: its choices, a method for `mixup`, a checkpoint of the zoo where one is begun."""
    if name not in schema:
        return []
    found = [*map(str, schema[name].choices), *(_methods() if name == "mixup" else ()), *(_zoo() if value else ())]
    return [choice for choice in found if choice.startswith(value)]


def _zoo() -> list[str]:
    from .. import zoo

    return zoo.specs()


def _methods() -> list[str]:
    """Every mixup has a file of its name, besides that of what they share."""
    spec = find_spec("evalkit.train.mixups")
    assert spec is not None and spec.origin is not None, "installed with evalkit"
    return sorted({path.stem for path in Path(spec.origin).parent.glob("*.py")} - {"__init__", "base"})


def _recipes_of_train() -> list[str]:
    from ..config import recipes as shipped

    return list(shipped("train"))


def _every_recipe() -> list[str]:
    from ..config import recipes as shipped

    return [name for folder in ("train", *described.transfers(), "robustness") for name in shipped(folder)]


def _every_key() -> list[str]:
    return sorted({key for schema in schemas.schemas().values() for key in keys.of(schema)})


def _studies() -> list[str]:
    from ..config import recipes as shipped

    return list(shipped("study"))


FIRST: dict[str, Callable[[], Iterable[str]]] = {
    "train": _recipes_of_train,
    "transfer": described.transfers,
    "robustness": lambda: [*described.robustness(), "all"],
    "mixup list": _methods,
    "recipes show": _every_recipe,
    "recipes diff": _every_recipe,
    "recipes keys": _every_key,
    "study show": _studies,
    "study run": _studies,
    "study report": _studies,
}


# ---- bash, which cuts words where ours go on


def in_bash(complete: Callable[[], Any]) -> None:
    """Let `complete` see the words that bash has cut at `=` and `:` whole, and print of its answers what is still to be
    typed.

    Args:
        complete: Answers on stdout, by COMP_WORDS and COMP_CWORD.
    """
    typed = os.environ.get("COMP_WORDS", "").split("\n")[: int(os.environ.get("COMP_CWORD", 0)) + 1]
    whole = joined(typed)
    os.environ |= {"COMP_WORDS": "\n".join(whole), "COMP_CWORD": str(len(whole) - 1)}
    there = max(whole[-1].rfind(mark) for mark in MARKS) + 1
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            complete()
    finally:
        print("\n".join(line[there:] for line in printed.getvalue().splitlines()))


def joined(typed: list[str]) -> list[str]:
    """Words as they were typed.

    >>> joined(["evalkit", "eval", "zoo", ":", "mix"])
    ['evalkit', 'eval', 'zoo:mix']
    """
    found: list[str] = []
    goes_on = False
    for word in typed:
        mark = bool(word) and set(word) <= set(MARKS)
        if found and (goes_on or mark):
            found[-1] += word
        else:
            found.append(word)
        goes_on = mark
    return found
