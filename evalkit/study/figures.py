"""The figures of a study's report: results with their spread, curves of the trainings, and results against a numeric
axis such as MixPro's scale (its Figure 5)."""

import itertools
import json
from collections import defaultdict
from pathlib import Path

from .. import plots
from ..protocols import Metric, Protocols
from ..report.figures import Drawing
from . import charts
from .gather import SEED, TRAIN, Gathered, Measured, Place, axes, column_name, metrics_of, name_of, row_name
from .numbers import Point, point

LOG = "log.jsonl"
CURVES = {  # key in the log -> title of the panel
    "loss": "training loss (of the mixed batches)",
    "val_top1_raw": "validation top-1",
    "val_loss_raw": "validation loss",
    "progress": "mean progress factor",
}


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
    return [*drawings, *_training(gathered)]


def _values(gathered: Gathered, measurement: str, metric: Metric) -> dict[Place, Point]:
    found = {}
    for place, by_seed in gathered.record_sets(measurement).items():
        values = [v for r in by_seed.values() if (v := r["metrics"].get(metric.name)) is not None]
        if values:
            found[place] = point(values)
    return found


def _of_metric(gathered: Gathered, measurement: str, metric: Metric) -> list[Drawing]:
    values = _values(gathered, measurement, metric)
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


def _training(gathered: Gathered) -> list[Drawing]:
    """Curves of every place, from the logs of its trainings: mean over seeds."""
    curves: dict[str, dict[str, list[tuple[float, Point]]]] = {key: {} for key in CURVES}
    left_out = []
    for place, members in gathered.places.items():
        logs = [log for m in members if (log := read_log(m)) is not None]
        if not logs:
            left_out.append(f"{name_of(place, gathered)}: its {LOG} is missing or damaged.")
        for key in CURVES:
            by_epoch: dict[float, list[float]] = defaultdict(list)
            for epoch, value in itertools.chain(*(log.get(key, []) for log in logs)):
                by_epoch[epoch].append(value)
            if by_epoch:
                curves[key][name_of(place, gathered)] = [(e, point(v)) for e, v in sorted(by_epoch.items())]
    shown = {title: curves[key] for key, title in CURVES.items() if curves[key]}
    if not shown:
        return []
    figure = charts.epochs(shown, [name_of(place, gathered) for place in gathered.places])
    caption = "Means over seeds, as the trainings logged them. The training loss is that of mixed labels, so its height"
    caption += " compares no methods."
    return [Drawing("training", "Training", caption, plots.png(figure), left_out, figure=figure)]


def read_log(m: Measured) -> dict[str, list[tuple[float, float]]] | None:
    """Key -> (epoch, value) of the log of a training; None where it cannot be read."""
    record = m.records.get(TRAIN)
    path = (Path(record["_dir"]) if record else m.folder / TRAIN) / LOG
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        steps = [(line["step"], line["epoch"]) for line in lines if line.get("epoch")]
        per_epoch = steps[-1][0] / steps[-1][1]
        for line in lines:
            for key in CURVES:
                if isinstance(value := line.get(key), int | float):
                    found[key].append((round(line["step"] / per_epoch, 4), float(value)))
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError):
        return None
    return dict(found)


def _drawing(name: str, title: str, caption: str, figure: object, half: bool = False) -> Drawing:
    return Drawing(name, title, caption, plots.png(figure), [], half, figure)  # type: ignore[arg-type]
