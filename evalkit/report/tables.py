"""Tables as plain data: the summary of all runs, with a column for every metric that its protocol calls one."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..ordered import each_once
from ..protocols import Metric, Protocols
from .collect import Group, Record, Row, Run, describe, groups_of

MAX_COLUMNS = 12  # of numbers in one table; more are split over several tables
SUMMARISED = ("accuracy", "robustness")  # kinds of protocols; transfers have tables of their own


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Args:
        value: The number as text, in percent or its unit.
        spread: What follows it after +-, or "".
        best: Whether it is set in bold.
        remark: What is short of it, or "".
    """

    value: str
    spread: str = ""
    best: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Args:
        title: Over it.
        heads: (title, data set, both in a word, number of columns) above the column titles.
        columns: Titles of the columns.
        rows: A name and one Cell per column.
        notes: Beneath it, one sentence each.
        quoted: How many of the last rows are published values.
        label: What LaTeX refers to it by.
    """

    title: str
    heads: list[tuple[str, str, str, int]]
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    quoted: int = 0
    label: str = ""


class Estimate(NamedTuple):
    """A row's number in a column.

    Args:
        value: A fraction, or in the metric's unit; NaN: not defined.
        error: The standard error used to compare rows, or NaN.
        spread: What the table prints after +-, or NaN.
        seeds: Runs behind it.
        incomplete: Whether images were missing.
    """

    value: float
    error: float
    spread: float
    seeds: int
    incomplete: bool


NOT_MEASURED = Cell("\N{EN DASH}")
NOT_DEFINED = Cell("n/a")


def summary(rows: Sequence[Row], protocols: Protocols) -> list[Table]:
    """Accuracy and robustness of every row, one block of columns per protocol and data set, at most MAX_COLUMNS numbers
    to a table.

    Args:
        rows: The runs.
        protocols: All protocols, by name.
    """
    runs = [run for row in rows for run in row.runs]
    shown = {name: p for name, p in protocols.items() if p.kind in SUMMARISED}
    groups = [g for g in groups_of(runs, protocols) if g.protocol in shown]
    pages: list[list[Group]] = [[]]
    for group in groups:
        if pages[-1] and sum(len(shown[g.protocol].columns) for g in [*pages[-1], group]) > MAX_COLUMNS:
            pages.append([])
        pages[-1].append(group)
    return [_summary_page(rows, page, groups, shown) for page in pages if page]


def _summary_page(rows: Sequence[Row], page: list[Group], groups: list[Group], protocols: Protocols) -> Table:
    shown = [row for row in rows if any(g in run.records for run in row.runs for g in page)]
    columns = [(g, c) for g in page for c in protocols[g.protocol].columns]
    cells = [_column(shown, group, column) for group, column in columns]
    return Table(
        title="Accuracy and robustness",
        heads=[_head(g, groups, protocols) for g in page],
        columns=[c.heading() for _, c in columns],
        rows=[(row.name, [column[i] for column in cells]) for i, row in enumerate(shown)],
        notes=_notes(shown, page, protocols),
    )


def _head(group: Group, groups: list[Group], protocols: Protocols) -> tuple[str, str, str, int]:
    protocol, where = protocols[group.protocol], describe(group, groups)
    alone = sum(g.protocol == group.protocol for g in groups) == 1
    return protocol.title, where, protocol.short if alone else f"{protocol.short} ({where})", len(protocol.columns)


def _column(rows: Sequence[Row], group: Group, column: Metric) -> list[Cell]:
    return column_of([estimate(row.runs, group, column.name) for row in rows], [len(row.runs) for row in rows], column)


def column_of(estimates: Sequence[Estimate | None], seeds: Sequence[int], column: Metric) -> list[Cell]:
    """The cells of a column.

    Args:
        estimates: The number of each row.
        seeds: How many seeds each should have.
        column: The metric.
    """
    best = best_of(estimates, column)
    return [_cell(e, i == best, n, column) for i, (e, n) in enumerate(zip(estimates, seeds))]


def _cell(e: Estimate | None, best: bool, seeds: int, column: Metric) -> Cell:
    if e is None:
        return NOT_MEASURED
    if math.isnan(e.value):
        return NOT_DEFINED
    if column.better == "neither":
        return Cell(column.text(e.value))
    remark = ", ".join([f"{e.seeds} of {seeds} seeds"] * (e.seeds < seeds) + ["incomplete"] * e.incomplete)
    return Cell(column.text(e.value), "" if math.isnan(e.spread) else column.text(e.spread), best, remark)


def estimate(runs: Sequence[Run], group: Group, metric: str) -> Estimate | None:
    """The number of one row: a run's own with its standard error, or the mean over seeds with their standard deviation.
    Incomplete records count only where there is no complete one. None where nobody measured it; value NaN where it is
    not defined.

    Args:
        runs: The runs of the row.
        group: What the column is of.
        metric: Name of the metric.
    """
    return estimate_of([run.records[group] for run in runs if group in run.records], metric)


def estimate_of(records: Sequence[Record], metric: str) -> Estimate | None:
    """The number that records which differ in the seed alone make; see `estimate`.

    Args:
        records: Of one row; they differ in the seed alone.
        metric: Name of the metric.
    """
    records = [r for r in records if r["complete"]] or records[:1]
    if not records:
        return None
    values = [r["metrics"].get(metric) for r in records]
    incomplete = not records[0]["complete"]
    if all(metric not in r["metrics"] for r in records):
        return None
    if any(v is None for v in values):
        return Estimate(math.nan, math.nan, math.nan, len(values), incomplete)
    if len(values) == 1:
        error = records[0]["standard_errors"].get(metric, math.nan)
        return Estimate(values[0], error, error, 1, incomplete)
    spread = statistics.stdev(values)
    return Estimate(statistics.fmean(values), spread / math.sqrt(len(values)), spread, len(values), incomplete)


def best_of(estimates: Sequence[Estimate | None], column: Metric) -> int | None:
    """Index of the value that is better than every other by more than the standard error of the difference, sqrt(se1^2
    + se2^2); None where no value is, where there is nothing to compare with, where a standard error is unknown or no
    side is better. Incomplete values take no part.

    Args:
        estimates: The number of each row.
        column: The metric, which says which side is better.
    """
    if column.better == "neither":
        return None
    sign = -1 if column.better == "low" else 1
    known = [(i, e) for i, e in enumerate(estimates) if e is not None and not e.incomplete and not math.isnan(e.value)]
    if len(known) < 2:
        return None
    first, top = max(known, key=lambda pair: sign * pair[1].value)
    # False where an error is NaN
    clear = all(sign * (top.value - e.value) > math.hypot(top.error, e.error) for i, e in known if i != first)
    return first if clear else None


def _notes(rows: Sequence[Row], page: Sequence[Group], protocols: Protocols) -> list[str]:
    records = [run.records[g] for row in rows for run in row.runs for g in page if g in run.records]
    sets = []
    for group in page:
        sizes = sorted({run.records[group]["n"] for row in rows for run in row.runs if group in run.records})
        protocol = protocols[group.protocol]
        letter = f" ({protocol.short})" if len(protocol.short) == 1 else ""
        sets.append(
            f"{protocol.title.split(',')[0]}{letter}:"
            f" {' to '.join(f'{n:,}' for n in {sizes[0]: 0, sizes[-1]: 0})} images of {group.data}"
        )
    shown = [protocols[name] for name in each_once(g.protocol for g in page)]
    percent = all(c.unit == "%" for p in shown for c in p.columns)
    notes = [
        f"{'All values' if percent else 'Values'} in percent{'' if percent else ' unless their column says otherwise'};"
        f" arrows point to the better direction. {'; '.join(sets)}."
    ]
    notes += spread_notes([len(row.runs) for row in rows])
    notes += preparations(
        (row.name, run.records[g]) for row in rows for run in row.runs for g in page if g in run.records
    )
    notes += [f"{p.title}: {p.sentence}" for p in shown]
    # a dict keeps the first of equal notes in its place, which a set does not
    notes += each_once(f"{c.title}: {c.meaning}." for p in shown for c in p.columns)
    if any(not r["complete"] for r in records):
        notes.append(
            "Incomplete: not all images were evaluated or the run was not finished; not a final number and never"
            " compared."
        )
    undefined = {
        f"{c.title} ({g.data})": r["undefined"][c.name]
        for g, r in _pairs(rows, page)
        for c in protocols[g.protocol].columns
        if c.name in r["undefined"]
    }
    notes += [f"n/a: {name}: {reason}." for name, reason in undefined.items()]
    return notes


def preparations(named: Iterable[tuple[str, Record]]) -> list[str]:
    """A sentence for every data set whose images were not prepared alike in all of the records, each with the name of
    its row."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, record in named:
        data = record["data"]
        ways = found.setdefault((data["name"], data["fingerprint"]), {})
        ways.setdefault(data.get("prepared") or "not recorded", []).append(name)
    return [
        f"The images of {data} were not prepared alike, which moves numbers too: "
        + "; ".join(f"{way}: {', '.join(each_once(names))}" for way, names in ways.items())
        + "."
        for (data, _), ways in found.items()
        if len(ways) > 1
    ]


def spread_notes(seeds: Sequence[int]) -> list[str]:
    """What ± and bold type say, and which variance they leave out, in a table whose rows have so many seeds each."""
    one, several = min(seeds, default=1) == 1, max(seeds, default=1) > 1
    spread = []
    if one:
        spread.append(
            f"{'In rows of one seed ' if several else ''}± is the standard error over images: how far other images of"
            " the same kind would move a number. It leaves out how far training again with another seed would, which"
            " can be further: such a row speaks of its checkpoint, not of its method, and so does its bold type."
        )
    if several:
        spread.append(
            f"{'In rows' if one else 'Rows are means'} of several seeds{', means,' if one else ':'} ± is the standard"
            " deviation over seeds; it leaves out the choice of images, the same for all."
        )
    return [
        " ".join(spread),
        "Bold: better than every other row by more than the standard error of the difference (which ignores that the"
        " rows saw the same images, so it is cautious). A column without bold has no clear winner, or its records hold"
        " no standard error.",
    ]


def _pairs(rows: Sequence[Row], page: Sequence[Group]) -> Iterable[tuple[Group, Record]]:
    return ((g, run.records[g]) for row in rows for run in row.runs for g in page if g in run.records)
