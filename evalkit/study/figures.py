"""The figures of a study's report: results with their spread, and results against a numeric
axis such as MixPro's scale (its Figure 5)."""

from collections import defaultdict
from pathlib import Path

from .. import plots
from ..protocols import Metric, Protocols
from ..report import training
from ..report.drawing import Drawing
from . import charts
from .gather import SEED, TRAIN, Gathered, Measured, Place, axes, column_name, metrics_of, name_of, row_name
from .numbers import Point, point


def draw(gathered: Gathered, protocols: Protocols) -> list[Drawing]:
    """Every figure that the measurements allow.

    Args:
        gathered: What was measured.
        protocols: All protocols, by name.
    """
    drawings = []
    for measurement in (TRAIN, *(e.name for e in gathered.study.evaluations)):
        sets = gathered.record_sets(measurement)
        records = [r for by_seed in sets.values() for r in by_seed.values()]
        for metric in metrics_of(gathered.study, measurement, records, protocols):
            drawings += _of_metric(gathered, measurement, metric)
    return [*drawings, *_of_batch(gathered)]


def values_of(gathered: Gathered, measurement: str, metric: Metric) -> dict[Place, Point]:
    """The results of a metric.

    Args:
        gathered: the study's measurements.
        measurement: "train" or the name of an evaluation.
        metric: of its protocol.
    """
    found = {}
    for place, by_seed in gathered.record_sets(measurement).items():
        values = [v for r in by_seed.values() if (v := r["metrics"].get(metric.name)) is not None]
        if values:
            found[place] = point(values)
    return found


def _of_metric(gathered: Gathered, measurement: str, metric: Metric) -> list[Drawing]:
    values = values_of(gathered, measurement, metric)
    if not values:
        return []
    of = {e.name: e.what for e in gathered.study.evaluations}
    what = f"{metric.title} ({of.get(measurement, measurement)})"
    rows = [row for row in gathered.rows if any(place.row == row for place in values)]
    panels = {
        column_name(column, gathered): {
            row_name(row, gathered): values[place] for row in rows if (place := Place(row, column)) in values
        }
        for column in gathered.columns
        if any(place.column == column for place in values)
    }
    caption = "Dots: seeds; marks and bars: their mean and standard deviation."
    figure = charts.dots(panels, [row_name(row, gathered) for row in rows], metric.heading(), metric.unit == "%")
    name = f"results-{measurement}-{metric.name}"
    drawings = [_drawing(name, f"{what} by row", caption, figure)]
    for axis, lines in numeric(gathered, values).items():
        figure = charts.against(lines, axis, metric.heading(), metric.unit == "%")
        caption = f"Mean and standard deviation over seeds for every value of {axis}."
        drawings.append(_drawing(f"{name}-by-{axis}", f"{what} by {axis}", caption, figure, half=True))
    return drawings


def numeric(gathered: Gathered, values: dict[Place, Point]) -> dict[str, dict[str, list[tuple[float, Point]]]]:
    """Axis of at least two numbers -> name of what is fixed -> (number, result), ascending.

    Args:
        gathered: What was measured, with the axes of the study.
        values: The result of each place.
    """
    row_axes, column_axes = axes(gathered.study)
    found: dict[str, dict[str, list[tuple[float, Point]]]] = {}
    for axis, options in gathered.study.axes.items():
        if axis == SEED or len(options) < 2 or any(_number(option) is None for option in options):
            continue
        lines: dict[str, list[tuple[float, Point]]] = defaultdict(list)
        for place, result in values.items():
            chosen = dict(zip((*row_axes, *column_axes), (*place.row, *place.column)))
            rest = [v for a, v in chosen.items() if a != axis and len(gathered.study.axes[a]) > 1]
            lines[", ".join(rest)].append((_number(chosen[axis]) or 0.0, result))
        found[axis] = {name: sorted(line) for name, line in lines.items()}
    return found


def _number(option: str) -> float | None:
    try:
        return float(option)
    except ValueError:
        return None


def _of_batch(gathered: Gathered) -> list[Drawing]:
    """The progress factors of one batch at the end of the trainings (MixPro's Figure 2 b), of the first seed."""
    values = {}
    for place, members in gathered.places.items():
        found = [v for m in members if (v := (read_log(m) or {}).get(training.BATCH))]
        if found:
            values[name_of(place, gathered)] = [value for _, value in found[0]]
    if not values:
        return []
    figure = charts.samples(values, "progress factor")
    caption = "Of the samples of one mixed batch in the last step, ascending; of several seeds the first."
    return [_drawing("progress-batch", "Progress factor by sample", caption, figure, half=True)]


def read_log(m: Measured) -> dict[str, list[tuple[float, float]]] | None:
    """Key -> (epoch, value) of the log of a training; None where it cannot be read.

    Args:
        m: A place of the study.
    """
    record = m.records.get(TRAIN)
    return training.read_log((Path(record["_dir"]) if record else m.folder / TRAIN) / training.LOG)


def _drawing(name: str, title: str, caption: str, figure: object, half: bool = False) -> Drawing:
    return Drawing(name, title, caption, plots.png(figure), [], half, figure)  # type: ignore[arg-type]
