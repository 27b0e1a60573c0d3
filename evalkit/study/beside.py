"""A study's own numbers beside the published ones, each with its reporting form and the difference."""

import statistics

from ..ordered import each_once
from ..protocols import Metric, Protocols
from ..report.beside import PRINTED
from ..report.collect import Record
from ..report.provenance import deviation
from ..report.tables import NOT_MEASURED, Cell, Table
from . import costs
from .gather import TRAIN, Gathered, Measured, Place, name_of
from .printed import COST, Beside
from .tables import signed, text

COLUMNS = ["this study", "published", "difference", "form", "source", "this study is"]


def table(gathered: Gathered, protocols: Protocols) -> Table | None:
    """A line for every published value that one of the study's measurements stands beside; None without any.

    Args:
        gathered: the study's measurements.
        protocols: what the records are of.
    """
    lines, notes = [], [f"Percent unless a value says otherwise. {PRINTED}"]
    for place, members in gathered.places.items():
        for value in each_once(v for m in members for v in gathered.study.beside(m.cell)):
            cells = _of_cost(value, members) if value.of == COST else _of_records(value, gathered, place, protocols)
            if cells is None:
                continue
            v = value.value
            marks = [f"quoted from {v.quoted}" * bool(v.quoted), "disputed" * bool(v.disputed)]
            source = ", ".join(part for part in (v.source, v.table, *marks) if part)
            words = [name_of(place, gathered), v.metric if value.of in (TRAIN, COST) else f"{value.of} {v.metric}"]
            lines.append((", ".join(words), [*cells[:3], Cell(v.form or "n/a"), Cell(source), cells[3]]))
            notes += [f"Disputed, {v.source}, {v.table}, {v.value}: {v.disputed}."] * bool(v.disputed)
    if not lines:
        return None
    title, label = f"{gathered.study.title}: beside published values", f"{gathered.study.name}-published"
    return Table(title, [("", "", "", len(COLUMNS))], COLUMNS, lines, each_once(notes), label=label)


def _of_records(value: Beside, gathered: Gathered, place: Place, protocols: Protocols) -> list[Cell] | None:
    """Own, published, difference, and what the own number is not."""
    records = list(gathered.record_sets(value.of).get(place, {}).values())
    v = value.value
    numbers = [n for r in records if (n := r["metrics"].get(v.measured)) is not None]
    if not numbers or records[0]["protocol"] not in protocols:
        return None
    metric = protocols[records[0]["protocol"]].metric(v.measured)
    spread = text(statistics.stdev(numbers), metric) if len(numbers) > 1 else ""
    mean = statistics.fmean(numbers)
    return [Cell(text(mean, metric), spread), Cell(v.value), _difference(mean, v.value, metric), _state(records)]


def _difference(own: float, printed: str, metric: Metric) -> Cell:
    try:
        published = float(printed)
    except ValueError:
        return NOT_MEASURED
    return Cell(signed(own - published / 100 if metric.unit == "%" else own - published, metric))


def _state(records: list[Record]) -> Cell:
    found = "; ".join(each_once(word for r in records if (word := deviation(r))))
    return Cell(found or "as published")


def _of_cost(value: Beside, members: list[Measured]) -> list[Cell] | None:
    found = costs.costs_of(members[0])
    own = {"parameters": found.parameters, "flops": found.macs, "images_per_second": found.images_per_second}
    number = own[value.value.metric]
    if number is None:
        return None
    scale, unit = {"parameters": (1e6, "M"), "flops": (1e9, "G"), "images_per_second": (1.0, "")}[value.value.metric]
    return [Cell(f"{number / scale:.3g}{unit}"), Cell(value.value.value), NOT_MEASURED, Cell("counted" if unit else "")]
