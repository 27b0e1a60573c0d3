"""Curves of trainings against epochs, as each wrote them into its log.jsonl."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .. import plots
from ..files import parse_json
from .collect import Row

LOG = "log.jsonl"
CURVES = {  # key in the log -> title of the panel
    "loss": "training loss (of the mixed batches)",
    "val_top1_raw": "validation top-1",
    "val_loss_raw": "validation loss",
    "progress": "mean progress factor",
}
SPEED = "images_per_second"
BATCH = "progress_batch"  # the progress factor of each sample of one batch
CAPTION = (
    "As the trainings logged them; of several seeds, the mean. The training loss is that of mixed labels, so its height"
    " compares no methods."
)
Line = Sequence[tuple[float, float]]  # (epoch, value), ascending


def read_log(path: Path) -> dict[str, list[tuple[float, float]]] | None:
    """Key of CURVES, SPEED or BATCH -> (epoch, value) of a training's log; None where it cannot be read.

    Args:
        path: The file.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    try:
        lines = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        steps = [(line["step"], line["epoch"]) for line in lines if line.get("epoch")]
        per_epoch = steps[-1][0] / steps[-1][1]
        for line in lines:
            for key in (*CURVES, SPEED):
                if isinstance(value := line.get(key), int | float):
                    found[key].append((round(line["step"] / per_epoch, 4), float(value)))
            found[BATCH] += [(line["step"] / per_epoch, float(v)) for v in line.get(BATCH) or []]
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError, AttributeError):
        return None
    return dict(found)


def mean_lines(logs: Sequence[Mapping[str, Line]]) -> dict[str, Line]:
    """Key -> mean over the logs that have a value at an epoch.

    Args:
        logs: What `read_log` gave, one per seed.
    """
    found: dict[str, Line] = {}
    for key in CURVES:
        by_epoch: dict[float, list[float]] = defaultdict(list)
        for epoch, value in itertools.chain(*(log.get(key, ()) for log in logs)):
            by_epoch[epoch].append(value)
        if by_epoch:
            found[key] = [(epoch, statistics.fmean(values)) for epoch, values in sorted(by_epoch.items())]
    return found


def curves(rows: Sequence[Row]) -> tuple[Figure | None, list[str]]:
    """The figure of every row whose training is among the records, or None, and a sentence for each that is left out.

    Args:
        rows: All rows, in the order that fixes colours.
    """
    panels: dict[str, dict[str, Line]] = {title: {} for title in CURVES.values()}
    left_out = []
    for row in rows:
        trainings = [t for run in row.runs if (t := run.training) is not None]
        logs = [log for t in trainings if (log := read_log(Path(t["_dir"]) / LOG)) is not None]
        if trainings and not logs:
            left_out.append(f"{row.name}: its {LOG} is missing or damaged.")
        for key, line in mean_lines(logs).items():
            panels[CURVES[key]][row.name] = line
    panels = {title: lines for title, lines in panels.items() if lines}
    return (epochs(panels, [row.name for row in rows]) if panels else None), left_out


@plots.styled
def epochs(panels: Mapping[str, Mapping[str, Line]], order: Sequence[str]) -> Figure:
    """Lines against epochs, one panel per title.

    Args:
        panels: Title -> name -> (epoch, value).
        order: All names, in the order that fixes colours.
    """
    figure = Figure(figsize=(3.3 * len(panels) + 0.4, 3.5), layout="constrained")
    for ax, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for name, line in lines.items():
            every = -(-len(line) // 20)  # markers of a long line would cover it
            style = plots.line_style(order.index(name)) | {"markevery": every}
            ax.plot([x for x, _ in line], [value for _, value in line], **style)
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(True)
        if "top-1" in title:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    shown = [name for name in order if any(name in lines for lines in panels.values())]
    plots.legend(figure, {name: order.index(name) for name in shown})
    return figure
