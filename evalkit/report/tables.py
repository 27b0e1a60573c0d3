"""Tables as plain data: the summary of all runs, and the runs beside published values of the same model and
protocol."""

import csv
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import NamedTuple

from .collect import Group, Record, Row, Run, describe, groups_of

MAX_COLUMNS = 12  # of numbers in one table; more are split over several tables


class Column(NamedTuple):
    metric: str
    title: str
    lower_is_better: bool = False


COLUMNS: dict[str, tuple[Column, ...]] = {
    "accuracy": (Column("top1", "top-1"),),
    "imagenet-val": (
        Column("top1", "top-1"),
        Column("real_top1", "ReaL top-1"),
        Column("rms_calibration_error", "RMS cal. error", True),
    ),
    "occlusion": (
        Column("auc_random", "random"),
        Column("auc_salient", "salient"),
        Column("auc_nonsalient", "non-salient"),
    ),
    "imagenet-a": (
        Column("top1", "top-1"),
        Column("rms_calibration_error", "RMS cal. error", True),
        Column("aurra", "AURRA"),
    ),
    "imagenet-o": (Column("aupr", "AUPR"), Column("auroc", "AUROC"), Column("fpr95_hendrycks", "FPR95", True)),
    "imagenet-r": (Column("top1", "top-1"), Column("rms_calibration_error", "RMS cal. error", True)),
    "imagenet-sketch": (Column("top1", "top-1"), Column("rms_calibration_error", "RMS cal. error", True)),
    "imagenet-v2": (Column("top1", "top-1"), Column("rms_calibration_error", "RMS cal. error", True)),
    "imagenet-c": (Column("mce", "mCE", True), Column("mean_error", "mean error", True)),
    "fgsm": (Column("top1_eps_2", "eps 2/255"), Column("top1_eps_8", "eps 8/255")),
    "pgd": (Column("top1_eps_2", "eps 2/255"), Column("top1_eps_8", "eps 8/255")),
}
TITLES = {
    "accuracy": "Clean accuracy",
    "occlusion": "Occlusion, area under the curve",
    "imagenet-a": "ImageNet-A protocol",
    "imagenet-o": "ImageNet-O protocol",
    "imagenet-r": "ImageNet-R protocol",
    "imagenet-sketch": "ImageNet-Sketch protocol",
    "imagenet-v2": "ImageNetV2 protocol",
    "imagenet-val": "ImageNet val protocol",
    "imagenet-c": "ImageNet-C protocol",
    "fgsm": "FGSM, top-1",
    "pgd": "PGD, top-1",
    "seg": "Semantic segmentation",
    "det": "Object detection and instance segmentation",
}
SHORT = {
    **{
        "accuracy": "clean",
        "occlusion": "occlusion",
        "imagenet-a": "A",
        "imagenet-o": "O",
        "imagenet-r": "R",
        "imagenet-sketch": "Sketch",
    },
    **{"imagenet-v2": "V2", "imagenet-val": "val", "imagenet-c": "C", "fgsm": "FGSM", "pgd": "PGD"},
}
EXPLAINED = {
    "occlusion": (
        "Occlusion: mean top-1 accuracy over 0 to 90 % of the image information dropped (area under the curve divided"
        " by its width; this summary is evalkit's own, papers show the curves)."
    ),
    "imagenet-a": (
        "RMS cal. error: root mean square gap between confidence and accuracy, the most confident bin left out as in"
        " the published code. AURRA: mean accuracy among the k most confident predictions over all k."
    ),
    "imagenet-o": (
        "AUPR, AUROC, FPR95: out-of-distribution images are the positive class; FPR95 by the convention of Hendrycks"
        " et al."
    ),
    "imagenet-val": "ReaL: share of the images with a reassessed label whose prediction is one of them.",
    "imagenet-c": (
        "mCE: error under 15 corruptions, each divided by AlexNet's (100 is as bad as AlexNet); mean error: the same"
        " without dividing."
    ),
    "fgsm": "FGSM: every pixel moves by eps along the sign of the loss gradient.",
    "pgd": "PGD: gradient steps within eps of the image, from a random start.",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table, percent in `value` and `spread`; `remark` says what is short of it."""

    value: str
    spread: str = ""
    best: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """`heads`: (title, data set, both in a word, number of columns) above the column titles; each row a name and one
    Cell per column, the last `quoted` of them published values."""

    title: str
    heads: list[tuple[str, str, str, int]]
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    quoted: int = 0


class Estimate(NamedTuple):
    """A row's number in a column: `error` is the standard error used to compare rows, `spread` what the table prints,
    both fractions or NaN."""

    value: float
    error: float
    spread: float
    seeds: int
    incomplete: bool


NOT_MEASURED = Cell("\N{EN DASH}")
NOT_DEFINED = Cell("n/a")


def summary(rows: Sequence[Row]) -> list[Table]:
    """Accuracy and robustness of every row, one block of columns per protocol and data set, at most MAX_COLUMNS numbers
    to a table."""
    runs = [run for row in rows for run in row.runs]
    groups = [g for g in groups_of(runs, COLUMNS) if g.protocol in COLUMNS]
    pages: list[list[Group]] = [[]]
    for group in groups:
        if pages[-1] and sum(len(COLUMNS[g.protocol]) for g in [*pages[-1], group]) > MAX_COLUMNS:
            pages.append([])
        pages[-1].append(group)
    return [_summary_page(rows, page, groups) for page in pages if page]


def _summary_page(rows: Sequence[Row], page: list[Group], groups: list[Group]) -> Table:
    shown = [row for row in rows if any(g in run.records for run in row.runs for g in page)]
    columns = [(g, c) for g in page for c in COLUMNS[g.protocol]]
    cells = [_column(shown, group, column) for group, column in columns]
    return Table(
        title="Accuracy and robustness",
        heads=[
            (TITLES[g.protocol], describe(g, groups), _short_head(g, groups), len(COLUMNS[g.protocol])) for g in page
        ],
        columns=[arrow(c) for _, c in columns],
        rows=[(row.name, [column[i] for column in cells]) for i, row in enumerate(shown)],
        notes=_notes(shown, page),
    )


def _short_head(group: Group, groups: list[Group]) -> str:
    alone = sum(g.protocol == group.protocol for g in groups) == 1
    return SHORT[group.protocol] if alone else f"{SHORT[group.protocol]} ({describe(group, groups)})"


def _column(rows: Sequence[Row], group: Group, column: Column) -> list[Cell]:
    return column_of(
        [estimate(row.runs, group, column.metric) for row in rows], [len(row.runs) for row in rows], column
    )


def column_of(estimates: Sequence[Estimate | None], seeds: Sequence[int], column: Column) -> list[Cell]:
    """The cells of a column from the number of each row and how many seeds each should have."""
    best = best_of(estimates, column.lower_is_better)
    return [_cell(e, i == best, n) for i, (e, n) in enumerate(zip(estimates, seeds))]


def _cell(e: Estimate | None, best: bool, seeds: int) -> Cell:
    if e is None:
        return NOT_MEASURED
    if math.isnan(e.value):
        return NOT_DEFINED
    remark = ", ".join([f"{e.seeds} of {seeds} seeds"] * (e.seeds < seeds) + ["incomplete"] * e.incomplete)
    return Cell(percent(e.value), "" if math.isnan(e.spread) else percent(e.spread), best, remark)


def estimate(runs: Sequence[Run], group: Group, metric: str) -> Estimate | None:
    """The number of one row: a run's own with its standard error, or the mean over seeds with their standard deviation.
    Incomplete records count only where there is no complete one. None where nobody measured it; value NaN where it is
    not defined."""
    return estimate_of([run.records[group] for run in runs if group in run.records], metric)


def estimate_of(records: Sequence[Record], metric: str) -> Estimate | None:
    """The number that records which differ in the seed alone make; see `estimate`."""
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


def best_of(estimates: Sequence[Estimate | None], lower_is_better: bool) -> int | None:
    """Index of the value that is better than every other by more than the standard error of the difference, sqrt(se1^2
    + se2^2); None where no value is, where there is nothing to compare with, or where a standard error is unknown.
    Incomplete values take no part."""
    sign = -1 if lower_is_better else 1
    known = [(i, e) for i, e in enumerate(estimates) if e is not None and not e.incomplete and not math.isnan(e.value)]
    if len(known) < 2:
        return None
    first, top = max(known, key=lambda pair: sign * pair[1].value)
    # False where an error is NaN
    clear = all(sign * (top.value - e.value) > math.hypot(top.error, e.error) for i, e in known if i != first)
    return first if clear else None


def _notes(rows: Sequence[Row], page: Sequence[Group]) -> list[str]:
    records = [run.records[g] for row in rows for run in row.runs for g in page if g in run.records]
    sets = []
    for group in page:
        sizes = sorted({run.records[group]["n"] for row in rows for run in row.runs if group in run.records})
        letter = f" ({SHORT[group.protocol]})" if len(SHORT[group.protocol]) == 1 else ""
        sets.append(
            f"{TITLES[group.protocol].split(',')[0]}{letter}:"
            f" {' to '.join(f'{n:,}' for n in {sizes[0]: 0, sizes[-1]: 0})} images of {group.data}"
        )
    notes = [f"All values in percent; arrows point to the better direction. {'; '.join(sets)}."]
    notes.append(
        "± is the standard error over images"
        + (
            "; for rows of several seeds the mean and the standard deviation over seeds."
            if any(len(row.runs) > 1 for row in rows)
            else "."
        )
        + " Bold: better than every other row by more than the standard error of the difference (which ignores that the"
        " rows saw the same images, so it is cautious). A column without bold has no clear winner, or its records"
        " hold no standard error."
    )
    notes += [EXPLAINED[p] for p in dict.fromkeys(g.protocol for g in page) if p in EXPLAINED]
    if any(not r["complete"] for r in records):
        notes.append(
            "Incomplete: not all images were evaluated or the run was not finished; not a final number and never"
            " compared."
        )
    undefined = {
        f"{c.title} ({g.data})": r["undefined"][c.metric]
        for g, r in _pairs(rows, page)
        for c in COLUMNS[g.protocol]
        if c.metric in r["undefined"]
    }
    notes += [f"n/a: {name}: {reason}." for name, reason in undefined.items()]
    return notes


def _pairs(rows: Sequence[Row], page: Sequence[Group]) -> Iterable[tuple[Group, Record]]:
    return ((g, run.records[g]) for row in rows for run in row.runs for g in page if g in run.records)


def arrow(column: Column) -> str:
    return f"{column.title} {'↓' if column.lower_is_better else '↑'}"


def percent(value: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{100 * value:.1f}"


# ---- beside published values


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
            with path.open(encoding="utf-8", newline="") as f:
                values += [Published(**line) for line in csv.DictReader(f)]
    return values


def is_demonstration(record: Record) -> bool:
    """Whether the data is one of the embedded sets, which demonstrate a protocol and are no benchmark."""
    return re.fullmatch(r"digits(-\w+)*", record["data"]["name"]) is not None


def is_published_protocol(record: Record) -> bool:
    """Whether published values may stand beside this record: the real data set, whole, by the published protocol. For
    clean accuracy that is all 50,000 ImageNet validation images."""
    if is_demonstration(record) or not record["complete"]:
        return False
    return record["n"] == 50_000 if record["protocol"] == "accuracy" else record["published_protocol"]


def beside_published(rows: Sequence[Row]) -> list[Table]:
    """For every protocol that was run as published: own rows and the published ones of the same models, with their
    sources."""
    values, tables = published_values(), []
    groups = groups_of([run for row in rows for run in row.runs], COLUMNS)
    for group in groups:
        own = [
            row
            for row in rows
            if any(group in run.records and is_published_protocol(run.records[group]) for run in row.runs)
        ]
        own = [row for row in own if any(v.table == group.protocol and v.model in model_names(row) for v in values)]
        models = {name for row in own for name in model_names(row)}
        known = [v for v in values if v.table == group.protocol and v.model in models]
        columns = [c for c in COLUMNS.get(group.protocol, ()) if any(v.metric == c.metric for v in known)]
        if not columns:
            continue
        name_of = (lambda model: "") if len({row.model for row in own}) == 1 else (lambda model: f", {model}")
        lines = [
            (f"{row.name}{name_of(row.model)} (this report)", [_column([row], group, c)[0] for c in columns])
            for row in own
        ]
        by_source: dict[tuple[str, str, str], dict[str, str]] = {}
        for v in known:
            by_source.setdefault((v.method, v.model, v.source), {})[v.metric] = v.value
        for (method, model, source), metrics in by_source.items():
            cells = [Cell(metrics[c.metric]) if c.metric in metrics else NOT_MEASURED for c in columns]
            lines.append((f"{method}{name_of(model)} ({source})", cells))
        where = describe(group, groups)
        title = f"{TITLES[group.protocol]} ({where})" + ("" if name_of("x") else f", {own[0].model}")
        notes = ["Percent. Published values as their sources print them."]
        tables.append(
            Table(
                title,
                [(TITLES[group.protocol], where, "", len(columns))],
                [arrow(c) for c in columns],
                lines,
                notes,
                len(by_source),
            )
        )
    return tables


def model_names(row: Row) -> tuple[str, str]:
    """The model with and without timm's tag of its weights: papers name the architecture."""
    return row.model, row.model.split(".")[0]
