"""Every published cell with its study and its command."""

import functools
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import published
from ..published import Published
from . import plan, printed, spec

# What is no cell of a table that somebody trained: results of weights that can be downloaded.
OF_WEIGHTS = "timm results"


class Covered(NamedTuple):
    """A published value and where it can be made.

    Args:
        value: what is printed.
        study: name of the study that has it; empty where none does.
        cells: names of its cells there, one per seed.
        only: what `--only` takes to select them.
        command: the evalkit command that makes the number, as a list of arguments without its --out.
    """

    value: Published
    study: str = ""
    cells: tuple[str, ...] = ()
    only: str = ""
    command: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether it is nowhere although its source says how it was made."""
        return not self.study and not self.value.without_setting


@functools.cache
def _studies() -> tuple[spec.Study, ...]:
    return tuple(spec.load(name) for name in spec.names())


def coverage() -> list[Covered]:
    """Every published cell of the source tables, in their order."""
    found: dict[Published, Covered] = {}
    for study in _studies():
        for cell in study.cells:
            for value, of in study.beside(cell):
                if value not in found:
                    command = () if cell.excluded else tuple(command_of(study, cell, of))
                    found[value] = Covered(value, study.name, (cell.name,), select(study, cell), command)
                elif found[value].study == study.name and found[value].only == select(study, cell):
                    found[value] = found[value]._replace(cells=(*found[value].cells, cell.name))
    return [found.get(v, Covered(v)) for v in published.values() if not v.source.startswith(OF_WEIGHTS)]


def select(study: spec.Study, cell: spec.Cell) -> str:
    """What `--only` takes for this cell in all its seeds; an axis of one value is left out.

    Args:
        study: The cell's study.
        cell: One of its cells.
    """
    chosen = {axis: value for axis, value in cell.values.items() if axis != "seed" and len(study.axes[axis]) > 1}
    return ",".join(f"{axis}={value}" for axis, value in chosen.items())


def command_of(study: spec.Study, cell: spec.Cell, of: str) -> list[str]:
    """The arguments behind `evalkit` that make a number of a cell.

    Args:
        study: The cell's study.
        cell: One of its cells.
        of: What the number is of: "train", "cost" or an evaluation's name.
    """
    if of == printed.COST:
        return ["bench", "step", cell.recipe, *cell.overrides()]
    jobs = plan.jobs_of(cell, cell.overrides(), study.evaluations)
    return next(job.argv for job in jobs if job.id == f"{cell.name}.{of}")


def lines(covered: list[Covered]) -> Iterator[str]:
    """A line for each value, then those that no study has, then the count."""
    for c in covered:
        v = c.value
        what = " ".join(part for part in (v.model, v.decoder, v.method, v.metric, v.value) if part)
        if c.study:
            run = shlex.join(["evalkit", "study", "run", c.study, *(["--only", c.only] if c.only else [])])
            cost = c.command[:1] == ("bench",)
            where = shlex.join(["evalkit", *c.command]) if cost else run
        else:
            where = f"quoted from {v.quoted}, without a setting" if v.without_setting else "not expressible"
        marks = f"{' (quoted)' if v.quoted else ''}{' (disputed)' if v.disputed else ''}"
        yield f"{v.source}, {v.table}: {what}{marks}: {where}"
    made, quoted = [c for c in covered if c.study], [c for c in covered if not c.study and not c.missing]
    missing = [c for c in covered if c.missing]
    yield (
        f"{len(covered)} published cells: {len(made)} in {len({c.study for c in made})} studies, {len(quoted)} quoted"
        f" without a setting, {len(missing)} not expressible"
    )


def as_json(covered: list[Covered]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        c.value._asdict()
        | {"study": c.study or None, "cells": list(c.cells), "only": c.only, "command": list(c.command)}
        for c in covered
    ]
