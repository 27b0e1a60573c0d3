"""Own rows beside published values of the same model and protocol, with their sources."""

from collections.abc import Iterable, Sequence

from .. import published
from ..ordered import each_once
from ..protocols import Metric, Protocols
from ..published import Published
from .collect import Group, Record, Row, Run, describe, groups_of
from .tables import NOT_MEASURED, Cell, Table, column_of, estimate, preparations

PRINTED = "Published values as their sources print them."


def beside_published(rows: Sequence[Row], protocols: Protocols) -> list[Table]:
    """For every protocol that was run as published: own rows and the published ones of the same models.

    Args:
        rows: The rows of the tables.
        protocols: All protocols, by name.
    """
    tables: list[Table] = []
    groups = groups_of([run for row in rows for run in row.runs], protocols)
    for group in groups:
        if group.protocol not in protocols or protocols[group.protocol].kind == "transfer":
            continue
        values = values_for(group.protocol, group.data, protocols)
        own = [
            (row, runs)
            for row in rows
            if (runs := [run for run in row.runs if group in run.records and run.records[group]["published"]])
            and any(v.model in model_names(row) for v in values)
        ]
        models = {name for row, _ in own for name in model_names(row)}
        known = [v for v in values if v.model in models]
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
        printed.setdefault((v.method, v.model, v.place), set()).add(v.measured)
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
    by_source: dict[tuple[str, str, str], dict[str, Published]] = {}
    for v in known:
        by_source.setdefault((v.method, v.model, v.place), {})[v.measured] = v
    for (method, model, place), found in by_source.items():
        cells = [Cell(found[c.name].value) if c.name in found else NOT_MEASURED for c in columns]
        lines.append((f"{method}{name_of(model)} ({place}{disputed(found.values())})", cells))
    protocol = protocols[group.protocol]
    if not set(columns) <= set(protocol.columns):
        notes += [f"{c.title}: {c.meaning}." for c in columns]
        notes.append("Numbers of different columns are no comparison: a best or a median is not the last.")
    notes += preparations((row.name, run.records[group]) for row, runs in own for run in runs)
    title = f"{protocol.title} ({where})" + (f", {own[0][0].model}" if one_model else "")
    head = (protocol.title, where, "", len(columns))
    return Table(title, [head], [c.heading() for c in columns], lines, notes, len(by_source))


def values_for(protocol: str, data: str, protocols: Protocols) -> list[Published]:
    """The published values that a protocol measures; of ImageNet where no source prints any of such data, since a
    folder of ImageNet may be called anything. What one source quotes of another stands once.

    Args:
        protocol: Name of the protocol.
        data: Name of the data.
        protocols: All protocols, by name.
    """
    names = {m.name for m in protocols[protocol].metrics}
    known = [v for v in published.values() if v.task == protocol and v.measured in names and v.method]
    sets = {v.data for v in known}
    if len(sets) > 1:
        known = [v for v in known if v.data == (data if data in sets else "imagenet")]
    original = {_what(v) for v in known if not v.quoted}
    return [v for v in known if not (v.quoted and _what(v) in original)]


def _what(v: Published) -> tuple[str, ...]:
    return v.model, v.decoder, v.method, v.measured, v.value


def disputed(values: Iterable[Published]) -> str:
    """The mark behind the place of values that another table or a printed gain contradicts."""
    return ", disputed" if any(v.disputed for v in values) else ""


def assumptions(records: Sequence[Record]) -> tuple[str, list[str]]:
    """What published settings leave open in these records: a mark for the name of a row, and the sentences behind it.
    An entry of `assumed` names the thing before a colon."""
    found = each_once(text for r in records for text in r["assumed"])
    things = ", ".join(each_once(text.partition(":")[0] for text in found))
    return (f", {things} assumed" if found else ""), found


def model_names(row: Row) -> tuple[str, str]:
    """The model with and without timm's tag of its weights: papers name the architecture."""
    return row.model, row.model.split(".")[0]
