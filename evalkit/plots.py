"""Figures of the report, each from plain arrays: Matplotlib's Agg canvas, no global state, colours that colour-blind
readers can tell apart."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from .metrics import PrecisionRecall, ReliabilityBins, RiskCoverage
from .text import plain

# Four of Okabe and Ito's colours, then a violet and a brown that stay apart from them for every kind of colour
# blindness and from white paper; marker and dash change as well, so that grey print and long lists stay readable.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8822EE", "#663311", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
DPI = 160
GREY, LIGHT = "#6b7280", "#d9dce1"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "grid.linewidth": 0.6,
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "text.color": "#111827",
    "axes.labelcolor": "#111827",
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Curve(NamedTuple):
    """One run's line in one panel.

    Args:
        x: (L,) what is varied.
        mean: (L,) the mean over the seeds.
        band: (L,) standard deviation, drawn to both sides where it is finite.
    """

    x: np.ndarray
    mean: np.ndarray
    band: np.ndarray


def line_style(index: int, marker: bool = True) -> dict[str, Any]:
    """Colour, marker and dash of a run, the same in every figure; never the colour alone tells two of them apart.

    Args:
        index: The run's place in the order of runs.
        marker: Whether the line has markers; without, neighbours differ in their dash.
    """
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)] if marker else None,
        "linestyle": DASHES[(index // len(COLOURS) if marker else index) % len(DASHES)],
    }


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, DPI pixels to the inch; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


VECTOR = {  # format -> what keeps a date out of the file
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def vector(figure: Figure, format: str) -> bytes:
    """A figure's file for print; the same figure gives the same bytes.

    Args:
        figure: Matplotlib's.
        format: "svg" or "pdf".
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": "evalkit"}):
        figure.savefig(buffer, format=format, metadata=VECTOR[format])
    return buffer.getvalue()


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws, in the style of all figures here and without leaving it behind."""

    @wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def _percent_axes(ax: Axes, x: str, y: str | None) -> None:
    ax.grid(True)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel(x)
    if y:
        ax.set_ylabel(y)
    ax.tick_params(length=3)


def legend(figure: Figure, labels: dict[str, int], marker: bool = True) -> None:
    """The legend beneath the panels.

    Args:
        figure: Matplotlib's.
        labels: Label -> place among the colours.
        marker: Whether the marker of each line is shown too.
    """
    # a label that starts with "_" would be hidden: hence the space
    handles = [Line2D([], [], label=" " + shown(label, 40), **line_style(i, marker)) for label, i in labels.items()]
    longest = max(len(str(h.get_label())) for h in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 11 / (longest + 8))))
    # the panels keep their size
    figure.set_figheight(figure.get_figheight() + 0.17 * (-(-len(handles) // columns) - 1))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)


def shown(text: str, length: int) -> str:
    """A user's text on one line, with nothing Matplotlib would take for mathematics.

    Args:
        text: The text.
        length: The most characters.
    """
    text = plain(" ".join(text.split()))  # no letter that no SVG may hold
    if len(text) > length:  # in the middle: what tells two runs of one name apart stands at the end
        tail = length // 2
        text = text[: length - 1 - tail] + "\N{HORIZONTAL ELLIPSIS}" + text[-tail:]
    return text.replace("$", r"\$")


@styled
def curves(
    curves: Mapping[str, Mapping[str, Curve]], panels: Mapping[str, tuple[str, str]], order: Mapping[str, int]
) -> Figure:
    """Top-1 accuracy against a level, such as the share of information dropped, one panel per mode.

    Args:
        curves: label -> mode -> Curve, all fractions.
        panels: mode -> title and x axis. Modes nobody measured get no panel.
        order: label -> position among all runs, which fixes colours.
    """
    modes = [m for m in panels if any(m in c for c in curves.values())]
    figure = Figure(figsize=(3.2 * len(modes) + 0.4, 3.5), layout="constrained")
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for ax, mode in zip(axes, modes):
        for label, by_mode in curves.items():
            if mode in by_mode:
                x, mean, band = by_mode[mode]
                style = line_style(order[label])
                ax.plot(x, mean, **style)
                if np.isfinite(band).any():
                    ax.fill_between(
                        x,
                        mean - band,
                        mean + band,
                        where=np.isfinite(band),
                        color=style["color"],
                        alpha=0.18,
                        linewidth=0,
                    )
        title, x_label = panels[mode]
        ax.set_title(title)
        _percent_axes(ax, x_label, "top-1 accuracy" if ax is axes[0] else None)
        ax.set_xticks(np.arange(0, 1.01, 0.2))
        ax.set_xlim(-0.02, max(0.92, *(float(c[mode].x.max()) + 0.02 for c in curves.values() if mode in c)))
    axes[0].set_ylim(0, 1)
    legend(figure, {label: order[label] for label in curves})
    return figure


@styled
def reliability(bins: dict[str, ReliabilityBins], errors: dict[str, float | None], order: dict[str, int]) -> Figure:
    """Accuracy against confidence in bins of equal size, one panel per run, at most four a row.

    The last bin is hollow: the published RMS calibration error leaves it out.

    Args:
        bins: Label of a run -> its bins.
        errors: Label -> RMS calibration error, a fraction or None.
        order: Label -> place among the colours.
    """
    columns = min(4, len(bins))
    rows = -(-len(bins) // columns)
    figure = Figure(figsize=(max(3.2, 2.45 * columns + 0.3), 2.7 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat[len(bins) :]:
        ax.set_visible(False)
    for i, (ax, (label, b)) in enumerate(zip(grid.flat, bins.items())):
        style = line_style(order[label]) | {"linestyle": "-", "markersize": 4.5 if len(b.count) <= 20 else 2.5}
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        if len(b.count) <= 20:
            low, high = np.minimum(b.confidence, b.accuracy), np.maximum(b.confidence, b.accuracy)
            ax.vlines(b.confidence, low, high, color=style["color"], alpha=0.35, linewidth=1.2)
        ax.plot(b.confidence, b.accuracy, **style, linewidth=1.2 if len(b.count) <= 20 else 0.6, markevery=slice(0, -1))
        ax.plot(
            b.confidence[-1:],
            b.accuracy[-1:],
            **style | {"markersize": 4.5},
            markerfacecolor="white",
            markeredgewidth=1.3,
        )
        _percent_axes(ax, "confidence" if i >= len(bins) - columns else "", "accuracy" if i % columns == 0 else None)
        ax.tick_params(labelbottom=i >= len(bins) - columns)
        error = errors.get(label)
        ax.set_title(shown(label, 26) + ("" if error is None else f"\nRMS error {100 * error:.1f} %"))
        ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    return figure


@styled
def risk_coverage(curves: dict[str, Sequence[RiskCoverage]], order: dict[str, int]) -> Figure:
    """Error among the most confident predictions against their share.

    Args:
        curves: Label -> one curve per seed.
        order: Label -> place among the colours.
    """
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for label, runs in curves.items():
        for run in runs:
            ax.plot(
                run.coverage,
                run.risk,
                **line_style(order[label], marker=False),
                linewidth=1.6 if len(runs) == 1 else 1.0,
            )
    _percent_axes(ax, "coverage: share of images answered, most confident first", "risk: error among them")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    legend(figure, {label: order[label] for label in curves}, marker=False)
    return figure


@styled
def precision_recall(curves: dict[str, Sequence[PrecisionRecall]], chance: float, order: dict[str, int]) -> Figure:
    """Precision against recall of detecting out-of-distribution images, as steps.

    Args:
        curves: Label -> one curve per seed.
        chance: Share of the out-of-distribution images among all.
        order: Label -> place among the colours.
    """
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for label, runs in curves.items():
        for run in runs:
            style = line_style(order[label], marker=False)
            ax.plot(
                np.r_[0, run.recall],
                np.r_[run.precision[:1], run.precision],
                **style,
                drawstyle="steps-pre",
                linewidth=1.6 if len(runs) == 1 else 1.0,
            )
    _percent_axes(ax, "recall: out-of-distribution images found", "precision")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.annotate(
        f"chance {100 * chance:.1f} %",
        (1, chance),
        (-3, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=GREY,
        fontsize=8,
    )
    legend(figure, {label: order[label] for label in curves}, marker=False)
    return figure


@styled
def mixed_samples(strips: dict[str, tuple[np.ndarray, list[str]]]) -> Figure:
    """Mixed training images, one row per run, the label shares under each; `strips`: label -> (images (M, H, W, 3)
    uint8, M captions)."""
    columns = max(len(captions) for _, captions in strips.values())
    lines = max((caption.count("\n") + 1 for _, captions in strips.values() for caption in captions), default=1)
    figure = Figure(figsize=(1.22 * columns, (1.7 + 0.15 * lines) * len(strips)), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, hspace=0.04, wspace=0.02)
    rows = figure.subfigures(len(strips), 1, squeeze=False)[:, 0]
    for row, (label, (images, captions)) in zip(rows, strips.items()):
        row.suptitle(shown(label, 60), x=0.008, ha="left", fontsize=10, fontweight="bold")
        axes = row.subplots(1, columns, squeeze=False)[0]
        for ax in axes:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, image, caption in zip(axes, images, captions):
            ax.imshow(image, interpolation="nearest" if max(image.shape[:2]) <= 96 else "antialiased")
            ax.set_xlabel(
                "\n".join(map(plain, caption.split("\n"))).replace("$", r"\$")
                + "\n" * (lines - 1 - caption.count("\n")),
                fontsize=7.5,
                linespacing=1.25,
                labelpad=3,
            )
    return figure
