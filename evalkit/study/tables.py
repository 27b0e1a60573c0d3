"""The tables of a study's report: results in the layout of the papers, differences with their significance, and the
study's own values beside the published ones."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import bootstrap
from ..errors import EvalkitError
from ..ordered import each_once
from ..protocols import Metric, Protocols
from ..report.collect import Record
from ..report.tables import MAX_COLUMNS, NOT_DEFINED, NOT_MEASURED, Cell, Estimate, Table, estimate_of
from . import significance
from .gather import TRAIN, Gathered, Outcomes, Place, column_name, metrics_of, protocol_of, row_name
from .significance import Paired

COST = "cost"


@dataclass(frozen=True)
class Difference:
    """One method less the baseline in one metric.

    Args:
        place: of the method.
        measurement: "train" or the name of an evaluation.
        metric: what differs.
        found: over seeds.
        images: 95 % interval over draws of seeds and images; None: no per-sample records.
        adjusted: p after Holm, over the table.
    """

    place: Place
    measurement: str
    metric: Metric
    found: Paired
    images: tuple[float, float] | None
    adjusted: float

    @property
    def verdict(self) -> str:
        return significance.verdict(self.found, self.adjusted, self.metric.better)


def results_tables(gathered: Gathered, measurement: str, protocols: Protocols) -> list[Table]:
    """Rows by columns, mean ± standard deviation over seeds, the best in bold, then the gain over the baseline; in
    tables of at most twelve numbers a row.

    Args:
        gathered: What was measured.
        measurement: "train" or the name of an evaluation.
        protocols: All protocols, by name.
    """
    sets = gathered.record_sets(measurement)
    records = [r for by_seed in sets.values() for r in by_seed.values()]
    metrics = metrics_of(gathered.study, measurement, records, protocols)
    protocol = protocol_of(records, protocols)
    if protocol is None or not metrics:
        return []
    costs = measurement == TRAIN and gathered.baseline is not None
    wide = max(1, MAX_COLUMNS // (len(metrics) + costs))
    columns = [c for c in gathered.columns if any(p.column == c for p in sets)]
    data = records[0]["data"]["name"]
    tables = []
    for start in range(0, len(columns), wide):
        shown = columns[start : start + wide]
        rows = [row for row in gathered.rows if any(Place(row, c) in sets for c in shown)]
        blocks = [_block(gathered, sets, rows, column, metrics, costs) for column in shown]
        lines = [
            (row_name(row, gathered), [cell for block in blocks for cell in block[i]]) for i, row in enumerate(rows)
        ]
        if gathered.baseline is not None and gathered.baseline in rows and len(rows) > 1:
            lines.append((f"gain over {row_name(gathered.baseline, gathered)}", [c for b in blocks for c in b[-1]]))
        span = len(metrics) + costs
        heads = [(column_name(c, gathered) or protocol.title, data, column_name(c, gathered), span) for c in shown]
        titles = [*(m.heading() for m in metrics), *([COST] * costs)]
        title = f"{gathered.study.title}: {_title(gathered, measurement, protocol.title)}"
        label = f"{gathered.study.name}-{measurement}" + (f"-{start // wide + 1}" if len(columns) > wide else "")
        tables.append(Table(title, heads, titles * len(shown), lines, _notes(gathered, records, costs), label=label))
    return tables


def _title(gathered: Gathered, measurement: str, title: str) -> str:
    """The protocol's title, with the evaluation's own name where several are of one protocol."""
    what = {e.name: e.what for e in gathered.study.evaluations}
    twins = [name for name in what if what[name] == what.get(measurement)]
    return f"{title} ({measurement})" if len(twins) > 1 else title


def _block(
    gathered: Gathered,
    sets: dict[Place, dict[str, Record]],
    rows: Sequence[tuple[str, ...]],
    column: tuple[str, ...],
    metrics: Sequence[Metric],
    costs: bool,
) -> list[list[Cell]]:
    """The cells of one column block, a list per row, and one for the gain behind them."""
    lines: list[list[Cell]] = [[] for _ in range(len(rows) + 1)]
    seeds = [len(sets.get(Place(row, column), {})) for row in rows]
    for metric in metrics:
        numbers = [estimate_of(list(sets.get(Place(row, column), {}).values()), metric.name) for row in rows]
        best = _best(numbers, metric)
        for i, number in enumerate(numbers):
            lines[i].append(_cell(number, metric, i == best, max(seeds)))
        base = numbers[rows.index(gathered.baseline)] if gathered.baseline in rows else None
        top = None if best is None else numbers[best]
        defined = base is not None and top is not None and not math.isnan(base.value)
        lines[-1].append(Cell(signed(top.value - base.value, metric)) if defined and top and base else NOT_MEASURED)
    if costs:
        seconds = [_seconds(list(sets.get(Place(row, column), {}).values())) for row in rows]
        base_seconds = seconds[rows.index(gathered.baseline)] if gathered.baseline in rows else math.nan
        for i, value in enumerate(seconds):
            known = math.isfinite(value) and math.isfinite(base_seconds)
            lines[i].append(Cell(f"{value / base_seconds:.2f}x") if known else NOT_MEASURED)
        lines[-1].append(Cell(""))
    return lines


def _seconds(records: Sequence[Record]) -> float:
    known = [r["seconds"] for r in records if r["seconds"]]
    return statistics.fmean(known) if known else math.nan


def _best(numbers: Sequence[Estimate | None], metric: Metric) -> int | None:
    """The row of the best mean."""
    sign = {"high": 1, "low": -1, "neither": 0}[metric.better]
    known = [(sign * e.value, -i) for i, e in enumerate(numbers) if e is not None and not math.isnan(e.value)]
    return -max(known)[1] if sign and len(known) > 1 else None


def _cell(number: Estimate | None, metric: Metric, best: bool, seeds: int) -> Cell:
    if number is None:
        return NOT_MEASURED
    if math.isnan(number.value):
        return NOT_DEFINED
    spread = text(number.spread, metric) if number.seeds > 1 else ""
    return Cell(text(number.value, metric), spread, best, f"{number.seeds} of {seeds} seeds" * (number.seeds < seeds))


def text(value: float, metric: Metric) -> str:
    """A value with two digits behind the point of a percentage, else as its metric prints it.

    Args:
        value: A fraction, or a number in the metric's unit.
        metric: Its description.

    >>> text(0.76832, Metric("top1", "top-1", "high", "share of the images classified right"))
    '76.83'
    """
    return f"{100 * value:.2f}" if metric.unit == "%" else metric.text(value)


def signed(value: float, metric: Metric) -> str:
    """A difference as `text` prints it, with its sign.

    Args:
        value: A difference, a fraction or in the metric's unit.
        metric: Its description.
    """
    return f"{'-' if value < 0 else '+'}{text(abs(value), metric)}"


def _notes(gathered: Gathered, records: Sequence[Record], costs: bool) -> list[str]:
    sizes = sorted({r["n"] for r in records})
    splits = ", ".join(each_once(f"{r['data']['name']} {r['data']['split']}".strip() for r in records))
    images = " to ".join(f"{n:,}" for n in each_once((sizes[0], sizes[-1])))
    counts = sorted({len(v) for v in gathered.record_sets(TRAIN).values()})
    seeds = " to ".join(map(str, each_once((counts[0], counts[-1])))) if counts else "0"
    notes = [
        f"Percent unless a column says otherwise; {images} images of {splits}; {seeds} seeds a row: mean ± standard"
        " deviation over seeds. Bold: the best mean of a column, which alone shows no difference (see the table of"
        " differences)."
    ]
    if costs:
        devices = ", ".join(each_once(str(r["environment"].get("device")) for r in records))
        notes.append(
            f"Cost: mean time of a training relative to the baseline's, on {devices}, by the clock, validation"
            " included: whatever else ran there shows in it."
        )
    return notes


# ---- differences


def differences(gathered: Gathered, measurement: str, protocols: Protocols, outcomes: Outcomes) -> list[Difference]:
    """Every other row less the baseline, in every metric of the table; empty without a baseline.

    Args:
        gathered: What was measured.
        measurement: "train" or the name of an evaluation.
        protocols: All protocols, by name.
        outcomes: What per-sample records say, for differences image by image; see `gather.Outcomes`.
    """
    base, sets = gathered.baseline, gathered.record_sets(measurement)
    if base is None:
        return []
    records = [r for by_seed in sets.values() for r in by_seed.values()]
    metrics = [m for m in metrics_of(gathered.study, measurement, records, protocols) if m.better != "neither"]
    draws = Draws(outcomes)
    made: list[tuple[Place, Metric, Paired, tuple[float, float] | None]] = []
    for place, by_seed in sets.items():
        other = sets.get(Place(base, place.column), {})
        shared = [seed for seed in by_seed if seed in other]
        if place.row == base or not shared:
            continue
        pairs = [(by_seed[seed], other[seed]) for seed in shared]
        resampled = draws.difference(pairs)
        for metric in metrics:
            values = [(a["metrics"].get(metric.name), b["metrics"].get(metric.name)) for a, b in pairs]
            whole = [(a, b) for a, b in values if a is not None and b is not None]
            if not whole:
                continue
            found = significance.paired([a for a, _ in whole], [b for _, b in whole])
            drawn = resampled.get(metric.name)
            images = None if drawn is None else bootstrap.interval(found.difference, drawn)
            made.append((place, metric, found, images))
    # too few seeds decide nothing, so they take no part in the correction either
    adjusted = significance.holm([found.p if not found.why_not else math.nan for _, _, found, _ in made])
    return [Difference(p, measurement, m, f, i, a) for (p, m, f, i), a in zip(made, adjusted)]


class Draws:
    """The metrics of records for every draw of images, made once per record."""

    def __init__(self, outcomes: Outcomes):
        self.outcomes, self.known = outcomes, dict[tuple[str, str], tuple[np.ndarray, bootstrap.Values] | None]()

    def of(self, record: Record) -> tuple[np.ndarray, bootstrap.Values] | None:
        """(ids, metric -> (R,)); None without per-sample records."""
        key = (record["_dir"], record["records"] or "")
        if key not in self.known:
            self.known[key] = self._made(record)
        return self.known[key]

    def _made(self, record: Record) -> tuple[np.ndarray, bootstrap.Values] | None:
        try:
            ids, outcome = self.outcomes(record)
        except EvalkitError:
            return None
        all_of = lambda counts: {m: v for s in outcome.statistics for m, v in s.resampled(counts).items()}  # noqa: E731
        return ids, bootstrap.resample(all_of, ids, outcome.strata)

    def difference(self, pairs: Sequence[tuple[Record, Record]]) -> bootstrap.Values:
        """See `significance.nested`; empty where per-sample records are missing or of different images."""
        sides = [(self.of(a), self.of(b)) for a, b in pairs]
        whole = [(a, b) for a, b in sides if a is not None and b is not None]
        if len(whole) < len(sides) or any(not np.array_equal(whole[0][0][0], s[0]) for pair in whole for s in pair):
            return {}
        return significance.nested([(a[1], b[1]) for a, b in whole])


def differences_table(gathered: Gathered, found: Sequence[Difference], title: str) -> Table | None:
    """The differences of one measurement, a line each.

    Args:
        gathered: What was measured.
        found: The differences of one measurement.
        title: Over the table.
    """
    if not found or gathered.baseline is None:
        return None
    columns = ["difference", "95 % (seeds)", "95 % (seeds, images)", "p", "p (Holm)", ""]
    several = len({d.metric.name for d in found}) > 1
    lines = []
    for d in found:
        words = (
            row_name(d.place.row, gathered),
            column_name(d.place.column, gathered),
            d.metric.title if several else "",
        )
        p = [NOT_DEFINED if math.isnan(v) else Cell(f"{v:.3g}") for v in (d.found.p, d.adjusted)]
        cells = [
            Cell(signed(d.found.difference, d.metric)),
            Cell(span(d.found.interval, d.metric)),
            Cell(span(d.images, d.metric)),
            *p,
            Cell(d.verdict),
        ]
        lines.append((", ".join(w for w in words if w), cells))
    notes = [
        f"Each row less {row_name(gathered.baseline, gathered)}, paired by seed. 95 % (seeds): Student's t over the"
        " differences of the seeds. 95 % (seeds, images): bootstrap of seeds and, within them, of images, drawn once"
        f" for all seeds, {bootstrap.RESAMPLES:,} draws; en dash: no per-sample records. p: paired t test, two-sided;"
        f" Holm's correction over the tests of this table. Fewer than {significance.MIN_SEEDS} seeds decide nothing."
    ]
    label = f"{gathered.study.name}-{found[0].measurement}-differences"
    return Table(f"{title}, differences", [("", "", "", len(columns))], columns, lines, notes, label=label)


def span(interval: tuple[float, float] | None, metric: Metric) -> str:
    """An interval as text.

    Args:
        interval: (low, high), or None where there is none.
        metric: Its description.
    """
    if interval is None or math.isnan(interval[0]):
        return NOT_MEASURED.value
    return f"{signed(interval[0], metric)} to {signed(interval[1], metric)}"
