"""A study file: axes of trainings, the evaluations that each trained model goes through, and how it is reported."""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import config
from ..errors import EvalkitError, unknown
from ..recipe_text import flow
from . import printed

FOLDER = "study"
# key of a study file -> the type of its value, in words
KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "title": ((str,), "text; put it into quotes"),
    "recipe": ((str,), "a recipe's name or file"),
    "set": ((dict,), "a mapping of keys of a recipe to values"),
    "axes": ((dict,), "a mapping such as {method: [mixup, cutmix], seed: [0, 1]}"),
    "where": ((list,), "a list of mappings"),
    "except": ((list,), "a list of mappings"),
    "cells": ((str,), "'all' or 'published'"),
    "evaluate": ((list,), "a list such as [{robustness: occlusion}]"),
    "report": ((dict,), "a mapping such as {rows: method}"),
    "published": ((dict, list), "a mapping with a source, or a list of them"),
}
EVALUATIONS = ("robustness", "transfer")
FORMS = ("last", "best", "median")
MOST = 10_000  # cells; a graph of more jobs takes Snakemake hours before the first begins
Keys = dict[str, Any]  # of a recipe; a dotted one reaches into a mapping


@dataclass(frozen=True)
class Evaluation:
    """One measurement of every trained model.

    Args:
        name: of its folder and of its column.
        command: "robustness" or "transfer".
        what: the protocol or the task.
        keys: settings of that command.
    """

    name: str
    command: str
    what: str
    keys: Keys


@dataclass(frozen=True)
class Report:
    """How the study's numbers are shown.

    Args:
        form: which training number counts: "last", "best" (over the evaluations of a run) or "median" (of the last n).
        rows: axes whose values make the rows of a table.
        columns: axes whose values stand side by side.
        baseline: the row that differences and costs are relative to.
    """

    form: str = "last"
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    baseline: str | None = None


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Args:
        values: Axis -> value.
        recipe: The recipe that it trains by.
        keys: Key -> value in place of the recipe's.
        excluded: Why this combination is left out.
        weights: What the evaluations take in place of a training's; the keys are theirs then.
    """

    values: dict[str, str]
    recipe: str
    keys: Keys
    excluded: str | None = None
    weights: str | None = None

    @property
    def name(self) -> str:
        """Of its folder: the values in the order of the axes."""
        return "-".join(slug(value, axis) for axis, value in self.values.items())

    def overrides(self) -> list[str]:
        """The keys as words of a command line, each a list element of its own: no shell ever reads them."""
        return [f"{key}={flow(value)}" for key, value in self.keys.items()]


@dataclass(frozen=True)
class Study:
    """A study file, read and checked.

    Args:
        name: As its file is called.
        title: A line that says what it compares.
        cells: Every training.
        axes: Axis -> its values, in order.
        evaluations: What is measured of every training.
        report: What its report shows.
        published: Which published values it stands for.
    """

    name: str
    title: str
    cells: list[Cell]
    axes: dict[str, list[str]]
    evaluations: list[Evaluation]
    report: Report
    published: list[printed.Entry]  # which published values it stands for

    def beside(self, cell: Cell) -> list[printed.Beside]:
        """The published values of a cell, each with what makes the number beside it."""
        return printed.beside(self.published, cell.values, self.evaluations)


def names() -> list[str]:
    """The studies that come with evalkit."""
    return list(config.recipes(FOLDER))


def load(study: str | Path) -> Study:
    """The study of a name or of a YAML file; raises EvalkitError for what it cannot mean, naming the closest word."""
    path = config.find(study, FOLDER)
    values = config.read(path, FOLDER)
    for key, value in values.items():
        if key not in KEYS:
            raise EvalkitError(f"{path.name}: {unknown('key', str(key), KEYS)}")
        kinds, words = KEYS[key]
        if value is not None and not isinstance(value, kinds):
            raise EvalkitError(f"{path.name}: `{key}` must be {words}; but it is {value!r}")
    axes = _axes(path, values.get("axes"))
    where = _rules(path, "where", values.get("where"), axes, ("set",))
    left_out = _rules(path, "except", values.get("except"), axes, ("why",))
    shared = _keys(path, "set", values.get("set") or {})
    evaluations = _evaluations(path, values.get("evaluate"))
    entries = printed.read(path.name, values.get("published"), {axis: list(options) for axis, options in axes.items()})
    if values.get("cells") not in (None, "all", "published"):
        raise EvalkitError(f"{path.name}: cells: {unknown('choice', str(values['cells']), ('all', 'published'))}")
    if (count := math.prod(map(len, axes.values()))) > MOST:
        product = " x ".join(f"{len(options):,} of {axis}" for axis, options in axes.items())
        raise EvalkitError(
            f"{path.name}: its axes make {count:,} cells ({product}), and a study has {MOST:,} at most; give fewer"
            " values, or make several studies of it"
        )
    cells = []
    for combination in itertools.product(*(options.items() for options in axes.values())):
        chosen = dict(zip(axes, (name for name, _ in combination)))
        if values.get("cells") == "published" and not printed.beside(entries, chosen, evaluations):
            continue
        keys: Keys = dict(shared)
        recipe, weights = values.get("recipe"), None
        for _, own in combination:
            keys, recipe, weights = _merged(keys, own), own.get("recipe", recipe), own.get("weights", weights)
        for rule in where:
            if _applies(rule, chosen):
                keys, recipe = _merged(keys, rule["set"]), rule["set"].get("recipe", recipe)
        if not isinstance(recipe, str) and not weights:
            raise EvalkitError(f"{path.name}: which recipe? Give `recipe: NAME`, or one in every value of an axis")
        why = next((rule["why"] for rule in left_out if _applies(rule, chosen)), None)
        cells.append(Cell(chosen, recipe or "", keys, why, weights))
    names = Counter(cell.name for cell in cells)
    if twice := next((n for n, count in names.items() if count > 1), None):
        raise EvalkitError(f"{path.name}: two cells would be called '{twice}'; rename a value of an axis")
    return Study(
        name=path.stem,
        title=values.get("title") or path.stem,
        cells=cells,
        axes={axis: list(options) for axis, options in axes.items()},
        evaluations=evaluations,
        report=_report(path, values.get("report"), axes),
        published=entries,
    )


def select(study: Study, only: str | None) -> list[Cell]:
    """The cells that a choice leaves. Raises EvalkitError for an axis or a value that the study does not have.

    Args:
        study: The study.
        only: `axis=value,axis=value`; a value counts whatever its case, several are joined by '|'. None: all cells.
    """
    wanted: dict[str, set[str]] = {}
    for word in (only or "").split(","):
        if not word.strip():
            continue
        axis, equals, text = (part.strip() for part in word.partition("="))
        if not equals or axis not in study.axes:
            raise unknown("axis of this study", axis, study.axes)
        known = {value.lower(): value for value in study.axes[axis]}
        for value in text.split("|"):
            if value.strip().lower() not in known:
                raise unknown(f"value of {axis}", value.strip(), study.axes[axis])
            wanted.setdefault(axis, set()).add(known[value.strip().lower()])
    return [c for c in study.cells if all(c.values[axis] in values for axis, values in wanted.items())]


# ---- parts of the file


def _axes(path: Path, given: Any) -> dict[str, dict[str, Keys]]:
    """Axis -> value's name -> the keys that it sets. A plain list holds values of the key that the axis is called."""
    if not given:
        raise EvalkitError(f"{path.name}: `axes` must be {KEYS['axes'][1]}")
    axes: dict[str, dict[str, Keys]] = {}
    for axis, options in given.items():
        if isinstance(options, list):
            axes[axis] = {_name(option): {axis: option} for option in options}
        elif isinstance(options, dict):
            axes[axis] = {_name(k): _keys(path, f"axes.{axis}.{k}", v or {}) for k, v in options.items()}
        if not axes.get(axis):
            raise EvalkitError(f"{path.name}: axis '{axis}' must list its values, or map names to recipe keys")
        if len(axes[axis]) < len(options):
            raise EvalkitError(f"{path.name}: axis '{axis}' names a value twice")
    return axes


def _rules(path: Path, key: str, given: Any, axes: Mapping[str, Any], extra: tuple[str]) -> list[dict[str, Any]]:
    """Rules of `where` and `except`: values of some axes, and what holds for them."""
    if given is None:
        return []
    if not all(isinstance(rule, dict) for rule in given):
        raise EvalkitError(f"{path.name}: `{key}` must be {KEYS[key][1]}")
    for rule in given:
        for word, value in rule.items():
            if word in extra:
                continue
            if word not in axes:
                raise EvalkitError(f"{path.name}: {key}: {unknown('axis', str(word), [*axes, *extra])}")
            for option in value if isinstance(value, list) else [value]:
                if _name(option) not in axes[word]:
                    raise EvalkitError(f"{path.name}: {key}: {unknown(f'value of {word}', _name(option), axes[word])}")
        for word in extra:
            if word not in rule:
                raise EvalkitError(f"{path.name}: each rule of `{key}` needs `{word}`")
        _text(path, f"{key}.why", rule.get("why"))
        if "set" in rule:
            _keys(path, f"{key}.set", rule["set"])
    return given


def _text(path: Path, where: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise EvalkitError(f"{path.name}: `{where}` must be text, but YAML reads {value!r} there; put it into quotes")


def _applies(rule: Mapping[str, Any], chosen: Mapping[str, str]) -> bool:
    """Whether the rule's values are those of a cell; axes that it does not name match any."""
    return all(
        chosen[axis] in {_name(v) for v in (value if isinstance(value, list) else [value])}
        for axis, value in rule.items()
        if axis in chosen
    )


def _evaluations(path: Path, given: Any) -> list[Evaluation]:
    found = []
    for entry in given or []:
        command = next((c for c in EVALUATIONS if isinstance(entry, dict) and c in entry), None)
        if command is None:
            raise EvalkitError(
                f"{path.name}: an evaluation is {{robustness: PROTOCOL}} or {{transfer: TASK}}: {entry!r}"
            )
        for word in entry:
            if word not in (command, "name", "set"):
                raise EvalkitError(
                    f"{path.name}: {unknown('key of an evaluation', str(word), (command, 'name', 'set'))}"
                )
        for word in (command, "name"):
            _text(path, f"evaluate.{word}", entry.get(word))
        what = entry[command]
        keys = _keys(path, "evaluate.set", entry.get("set") or {})
        found.append(Evaluation(slug(entry.get("name", what)), command, what, keys))
    names = [e.name for e in found]
    if twice := next((n for n in names if names.count(n) > 1 or n == "train"), None):
        raise EvalkitError(f"{path.name}: two evaluations are called '{twice}'; give one another `name`")
    return found


def _report(path: Path, given: Any, axes: Mapping[str, Any]) -> Report:
    given = given or {}
    options = Report.__dataclass_fields__
    for key in given:
        if key not in options:
            raise EvalkitError(f"{path.name}: report: {unknown('key', str(key), options)}")
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        for word in value if isinstance(value, list) and key in ("rows", "columns") else [value]:
            _text(path, f"report.{key}", word)
    as_list = {k: [v] if isinstance(v, str) else v for k, v in given.items() if k in ("rows", "columns")}
    report = Report(**{**given, **as_list})
    if report.form not in FORMS:
        raise EvalkitError(f"{path.name}: report: {unknown('form', str(report.form), FORMS)}")
    for axis in (*report.rows, *report.columns):
        if axis not in axes:
            raise EvalkitError(f"{path.name}: report: {unknown('axis', str(axis), axes)}")
    if report.baseline is not None and not any(report.baseline in axes[axis] for axis in report.rows):
        raise EvalkitError(f"{path.name}: report: baseline '{report.baseline}' is no value of a row's axis")
    return report


def _keys(path: Path, where: str, given: Any) -> Keys:
    if not isinstance(given, dict) or not all(isinstance(k, str) for k in given):
        raise EvalkitError(f"{path.name}: `{where}` must map keys of a recipe to values, but got {given!r}")
    return dict(given)


def _merged(keys: Keys, own: Mapping[str, Any]) -> Keys:
    """`keys` with those of `own` over them. A whole mapping replaces what was set within it before."""
    merged = {k: v for k, v in keys.items() if not any(k.startswith(f"{new}.") for new in own)}
    return merged | {k: v for k, v in own.items() if k not in ("recipe", "weights")}


def _name(option: Any) -> str:
    return option if isinstance(option, str) else flow(option)


def slug(text: str, axis: str = "") -> str:
    """A text as part of a file name that no other text has.

    Args:
        text: The text.
        axis: Name of its axis, which a number keeps.
    """
    clean = "".join(c if (c.isascii() and c.isalnum()) or c in "._+-" else "_" for c in text).strip("._-")[:40]
    if clean != text:
        clean = f"{clean}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{axis}{clean}" if clean.replace(".", "").isdigit() else clean
