"""What a study has measured so far, sorted for its tables: rows, columns and the seeds of each place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import results
from ..errors import EvalkitError
from ..ordered import each_once
from ..protocols import Metric, Protocol, Protocols
from ..report.collect import Group, Record, Row, Run, RunKey, group_of
from .spec import Cell, Study

SEED = "seed"  # the axis whose values repeat a training
TRAIN = "train"
OF_FORM = {"last": "top1", "best": "top1_best", "median": "top1_median"}
# what a record is of, field -> in words; data of the same name and other contents are other images
OF_GROUP = {
    "protocol": "protocol",
    "version": "protocol version",
    "data": "data",
    "split": "split",
    "fingerprint": "images",
    "settings": "settings",
}
NAMED = 3  # cells that a remark names
# (ids, what `bootstrap` resamples) of a record, from its per-sample file; handed in by the command line
Outcomes = Callable[[Record], tuple[np.ndarray, Any]]


@dataclass(frozen=True)
class Measured:
    """A training and what was measured of it.

    Args:
        cell: The training.
        records: "train" or the name of an evaluation -> its newest complete record.
        folder: The run folder.
    """

    cell: Cell
    records: dict[str, Record]
    folder: Path

    @property
    def seed(self) -> str:
        return self.cell.values.get(SEED, "")


class Place(NamedTuple):
    """A place of a study's tables.

    Args:
        row: Values of the axes of its row.
        column: Values of the axes of its column.
    """

    row: tuple[str, ...]
    column: tuple[str, ...]


@dataclass(frozen=True)
class Gathered:
    """A study's measurements.

    Args:
        study: what was planned.
        places: place -> its seeds, those without any record left out.
        rows: values of the row axes, in the order of the study.
        columns: values of the column axes.
        left_out: name of a cell that cannot be -> why.
        missing: "cell: measurement" of what has no complete record.
        problems: lines of results that could not be read.
        others: folders of cells that the study does not have, as one that a cell was taken out of.
    """

    study: Study
    places: dict[Place, list[Measured]]
    rows: list[tuple[str, ...]]
    columns: list[tuple[str, ...]]
    left_out: dict[str, str]
    missing: list[str]
    problems: list[str]
    others: list[str]

    @property
    def baseline(self) -> tuple[str, ...] | None:
        """The row that differences and costs are relative to."""
        name = self.study.report.baseline
        return next((row for row in self.rows if name in row), None)

    def record_sets(self, measurement: str) -> dict[Place, dict[str, Record]]:
        """Place -> seed -> record of a measurement, of those that measured the same thing as most."""
        usual = self._usual(measurement)
        found = {
            place: {
                m.seed: r for m in members if (r := m.records.get(measurement)) is not None and group_of(r) == usual
            }
            for place, members in self.places.items()
        }
        return {place: by_seed for place, by_seed in found.items() if by_seed}

    def _usual(self, measurement: str) -> Group | None:
        """What most records of a measurement are of."""
        groups = [group_of(m.records[measurement]) for m in self._members() if measurement in m.records]
        return max(groups, key=groups.count, default=None)

    def _members(self) -> list[Measured]:
        return [m for members in self.places.values() for m in members]

    def odd_ones(self) -> list[str]:
        """ "measurement: why: cells" of what `record_sets` leaves out: it did not measure the same thing as most."""
        found: dict[tuple[str, str], list[str]] = {}
        for m in self._members():
            for measurement, record in m.records.items():
                usual, own = self._usual(measurement), group_of(record)
                if usual is not None and own != usual:
                    words = [OF_GROUP[f] for f in OF_GROUP if getattr(own, f) != getattr(usual, f)]
                    found.setdefault((measurement, f"other {words[0]} than most"), []).append(m.cell.name)
        return [f"{measurement}: {why}: {_some(cells)}" for (measurement, why), cells in found.items()]

    def report_rows(self) -> list[Row]:
        """The rows of a report on runs, by the names of the study."""
        return [
            Row(name_of(place, self), [_run(m) for m in members])
            for place, members in self.places.items()
            if any(m.records for m in members)
        ]


def _some(cells: list[str]) -> str:
    more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
    return ", ".join(cells[:NAMED]) + more


def gather(study: Study, folder: Path) -> Gathered:
    """What lies in the study's folder. Raises EvalkitError where nothing was measured.

    Args:
        study: The study.
        folder: Its folder.
    """
    row_axes, column_axes = axes(study)
    places: dict[Place, list[Measured]] = {}
    left_out, missing, problems = {}, [], []
    for cell in study.cells:
        if cell.excluded is not None:
            left_out[cell.name] = cell.excluded
            continue
        records: dict[str, Record] = {}
        for name in (TRAIN, *(e.name for e in study.evaluations)):
            path = folder / "cells" / cell.name / name / results.FILE
            found, bad = results.scan([path]) if path.is_file() else ([], [])
            problems += bad
            complete = [r for r in results.latest(found) if r["complete"]]
            if complete:  # averaged weights where there are any: those that an evaluation takes
                records[name] = max(complete, key=lambda r: r["weights"] == "ema")
            else:
                missing.append(f"{cell.name}: {name}")
        place = Place(tuple(cell.values[a] for a in row_axes), tuple(cell.values[a] for a in column_axes))
        if records:
            places.setdefault(place, []).append(Measured(cell, records, folder / "cells" / cell.name))
    if not places:
        raise EvalkitError(f"nothing was measured in {folder} yet; run `evalkit study run {study.name} --out {folder}`")
    rows = each_once(tuple(c.values[a] for a in row_axes) for c in study.cells)
    columns = each_once(tuple(c.values[a] for a in column_axes) for c in study.cells)
    rows = [row for row in rows if any(p.row == row for p in places)]
    columns = [column for column in columns if any(p.column == column for p in places)]
    names = {cell.name for cell in study.cells}
    others = sorted(path.name for path in (folder / "cells").glob("*") if path.name not in names)
    return Gathered(study, places, rows, columns, left_out, missing, problems, others)


def axes(study: Study) -> tuple[list[str], list[str]]:
    """The axes of rows and of columns: what the study's report leaves open, but the seed, makes rows too."""
    columns = [a for a in study.report.columns if a != SEED]
    rows = [a for a in study.report.rows if a != SEED]
    rows += [a for a in study.axes if a not in (SEED, *rows, *columns)]
    if not rows:
        rows, columns = columns, []
    return rows, columns


def name_of(place: Place, gathered: Gathered) -> str:
    """The values of a place, without axes of a single value.

    Args:
        place: The place.
        gathered: What was measured, which tells axes of a single value.
    """
    return ", ".join(part for part in (row_name(place.row, gathered), column_name(place.column, gathered)) if part)


def row_name(row: tuple[str, ...], gathered: Gathered) -> str:
    """The values of a row's axes, without axes of a single value.

    Args:
        row: Values of the axes.
        gathered: What was measured.
    """
    return _words(row, gathered.rows) or next(iter(row), gathered.study.title)


def column_name(column: tuple[str, ...], gathered: Gathered) -> str:
    """The values of a column's axes, without axes of a single value.

    Args:
        column: Values of the axes.
        gathered: What was measured.
    """
    return _words(column, gathered.columns)


def _words(values: tuple[str, ...], all_values: Sequence[tuple[str, ...]]) -> str:
    several = [len({v[i] for v in all_values}) > 1 for i in range(len(values))]
    return ", ".join(value for value, shown in zip(values, several) if shown)


def metrics_of(study: Study, measurement: str, records: Iterable[Record], protocols: Protocols) -> list[Metric]:
    """The metrics that the tables show of a measurement: of a protocol its columns, or whatever it has measured where
    that is none of them, as an attack of other strengths.

    Args:
        study: whose report says which number of a training counts.
        measurement: "train" or the name of an evaluation.
        records: What was measured.
        protocols: All protocols, by name.
    """
    records = list(records)
    protocol = protocol_of(records, protocols)
    if protocol is None:
        return []
    measured = each_once(name for r in records for name in r["metrics"])
    if measurement == TRAIN:
        return [metric for metric in [protocol.metric(OF_FORM[study.report.form])] if metric.name in measured]
    shown = [metric for metric in protocol.columns if metric.name in measured]
    return shown or [metric for name in measured if (metric := protocol.find(name)) is not None]


def protocol_of(records: Iterable[Record], protocols: Protocols) -> Protocol | None:
    """What the records are of.

    Args:
        records: Of one measurement.
        protocols: All protocols, by name.
    """
    return next((protocols[r["protocol"]] for r in records if r["protocol"] in protocols), None)


def _run(m: Measured) -> Run:
    first = next(iter(m.records.values()))
    key = RunKey(first["label"], first["model"], first["method"], first["weights"], first["checkpoint_sha256"])
    return Run(key, {group_of(r): r for r in m.records.values()})
