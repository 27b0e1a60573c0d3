"""Own rows beside published values of the same model and protocol, with their sources."""

import csv
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from ..protocols import Metric, Protocols
from .collect import Group, Record, Row, Run, describe, groups_of
from .tables import NOT_MEASURED, Cell, Table, column_of, estimate, preparations

PRINTED = "Published values as their sources print them."


class Published(NamedTuple):
    """One published value; `value` is in percent (parameters: in millions) with the digits its source prints."""

    table: str  # the protocol
    method: str
    model: str
    metric: str
    value: str
    source: str
    decoder: str = ""  # of a segmentation


def published_values() -> list[Published]:
    """All published values that ship with evalkit (evalkit/published/*.csv)."""
    values = []
    for path in sorted((resources.files("evalkit") / "published").iterdir(), key=lambda p: p.name):
        if path.name.endswith(".csv"):
            with path.open(encoding="utf-8") as f:
                values += [Published(**line) for line in csv.DictReader(f)]
    return values


def beside_published(rows: Sequence[Row], protocols: Protocols) -> list[Table]:
    """For every protocol that was run as published: own rows and the published ones of the same models."""
    values, tables = published_values(), []
    groups = groups_of([run for row in rows for run in row.runs], protocols)
    for group in groups:
        if group.protocol not in protocols or protocols[group.protocol].kind == "transfer":
            continue
        own = [
            (row, runs)
            for row in rows
            if (runs := [run for run in row.runs if group in run.records and run.records[group]["published"]])
            and any(v.table == group.protocol and v.model in model_names(row) for v in values)
        ]
        models = {name for row, _ in own for name in model_names(row)}
        known = [v for v in values if v.table == group.protocol and v.model in models]
        if columns := _columns(group, own, known, protocols):
            tables.append(_table(group, describe(group, groups), own, known, columns, protocols))
    return tables


def _columns(
    group: Group, own: Sequence[tuple[Row, list[Run]]], known: Sequence[Published], protocols: Protocols
) -> list[Metric]:
    """The protocol's columns that somebody published. A source that printed none of them, the median of the last
    evaluations for one, shows what it printed, in a column of that name; a run that has nothing in these shows its own
    columns: a number stands beside its like alone."""
    metrics, main = protocols[group.protocol].metrics, {c.name for c in protocols[group.protocol].columns}
    printed: dict[tuple[str, ...], set[str]] = {}
    for v in known:
        printed.setdefault((v.method, v.model, v.source), set()).add(v.metric)
    shown = {name for names in printed.values() for name in names & main or names}
    for _, runs in own:
        measured = {name for run in runs for name in run.records[group]["metrics"]}
        shown |= set() if measured & shown else measured & main
    return [metric for metric in metrics if metric.name in shown and known]


def _table(
    group: Group,
    where: str,
    own: Sequence[tuple[Row, list[Run]]],
    known: Sequence[Published],
    columns: Sequence[Metric],
    protocols: Protocols,
) -> Table:
    one_model = len({row.model for row, _ in own}) == 1
    name_of = lambda model: "" if one_model else f", {model}"  # noqa: E731
    lines, notes = [], [f"Percent. {PRINTED}"]
    for row, runs in own:
        mark, reasons = assumptions([run.records[group] for run in runs])
        cells = [column_of([estimate(runs, group, c.name)], [len(row.runs)], c)[0] for c in columns]
        lines.append((f"{row.name}{name_of(row.model)} (this report{mark})", cells))
        notes += [f"{row.name}: assumed {reason}." for reason in reasons]
    by_source: dict[tuple[str, str, str], dict[str, str]] = {}
    for v in known:
        by_source.setdefault((v.method, v.model, v.source), {})[v.metric] = v.value
    for (method, model, source), metrics in by_source.items():
        cells = [Cell(metrics[c.name]) if c.name in metrics else NOT_MEASURED for c in columns]
        lines.append((f"{method}{name_of(model)} ({source})", cells))
    protocol = protocols[group.protocol]
    if not set(columns) <= set(protocol.columns):
        notes += [f"{c.title}: {c.meaning}." for c in columns]
        notes.append("Numbers of different columns are no comparison: a best or a median is not the last.")
    notes += preparations((row.name, run.records[group]) for row, runs in own for run in runs)
    title = f"{protocol.title} ({where})" + (f", {own[0][0].model}" if one_model else "")
    head = (protocol.title, where, "", len(columns))
    return Table(title, [head], [c.heading() for c in columns], lines, notes, len(by_source))


def assumptions(records: Sequence[Record]) -> tuple[str, list[str]]:
    """What published settings leave open in these records: a mark for the name of a row, and the sentences behind it.
    An entry of `assumed` names the thing before a colon."""
    found = list(dict.fromkeys(text for r in records for text in r["assumed"]))
    things = ", ".join(dict.fromkeys(text.partition(":")[0] for text in found))
    return (f", {things} assumed" if found else ""), found


def model_names(row: Row) -> tuple[str, str]:
    """The model with and without timm's tag of its weights: papers name the architecture."""
    return row.model, row.model.split(".")[0]
