"""Charts of a study from plain numbers, in the style of the other figures."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .. import plots
from .numbers import Point

Line = Sequence[tuple[float, Point]]  # (x, result), ascending


@plots.styled
def dots(panels: Mapping[str, Mapping[str, Point]], rows: Sequence[str], label: str, percent: bool) -> Figure:
    """Results by row: every seed as a dot, mean and standard deviation as a mark with a bar.

    Args:
        panels: title -> row -> result.
        rows: all of them, from top to bottom.
        label: of the axis.
        percent: whether results are fractions.
    """
    figure = Figure(figsize=(0.4 + 3.4 * len(panels), 1.0 + 0.27 * len(rows)), layout="constrained")
    for ax, (title, results) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items()):
        for i, row in enumerate(rows):
            if row not in results:
                continue
            found, colour = results[row], plots.line_style(i)["color"]
            ax.plot(found.values, [i] * len(found.values), "o", color=colour, alpha=0.35, markersize=3.5)
            error = 0.0 if math.isnan(found.spread) else found.spread
            ax.errorbar([found.mean], [i], xerr=[error], color=colour, marker="D", capsize=2.5, markersize=4)
        ax.set_title(plots.shown(title, 40))
        ax.set_yticks(range(len(rows)), [plots.shown(row, 40) for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(True, axis="x")
        ax.set_xlabel(label)
        _percent(ax, "x", percent)
    return figure


@plots.styled
def against(lines: Mapping[str, Line], axis: str, label: str, percent: bool) -> Figure:
    """Results against a numeric axis, a line for every name.

    Args:
        lines: name -> (value of the axis, result), ascending.
        axis: what it is called.
        label: of the results.
        percent: whether results are fractions.
    """
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, (_, line) in enumerate(lines.items()):
        x, means = [x for x, _ in line], [found.mean for _, found in line]
        errors = [0.0 if math.isnan(found.spread) else found.spread for _, found in line]
        ax.errorbar(x, means, yerr=errors, capsize=2.5, **plots.line_style(i))
    ax.grid(True)
    ax.set_xlabel(plots.shown(axis, 60))
    ax.set_ylabel(label)
    _percent(ax, "y", percent)
    if any(lines):
        plots.legend(figure, {name: i for i, name in enumerate(lines)})
    return figure


@plots.styled
def samples(values: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Values of the samples of a batch, ascending, a line for every name.

    Args:
        values: name -> values.
        label: what they are.
    """
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for i, own in enumerate(values.values()):
        ax.plot(range(1, len(own) + 1), sorted(own), **plots.line_style(i))
    ax.grid(True)
    ax.set(xlabel="sample of the batch, ascending", ylabel=label, ylim=(0, 1))
    plots.legend(figure, {name: i for i, name in enumerate(values)})
    return figure


def _percent(ax: Axes, which: str, wanted: bool) -> None:
    if wanted:
        (ax.xaxis if which == "x" else ax.yaxis).set_major_formatter(PercentFormatter(1.0, decimals=None))
