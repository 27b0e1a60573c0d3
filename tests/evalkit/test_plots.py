"""evalkit.plots: what is drawn is the data, in stable colours, without touching Matplotlib's global state."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from evalkit import metrics, plots
from evalkit.robustness import PROTOCOLS

PANELS = PROTOCOLS["occlusion"].figures[0].panels
ORDER = {"a": 0, "b": 1, "c": 2}


def open_png(figure):
    return Image.open(io.BytesIO(plots.png(figure)))


def curve(y):
    return plots.Curve(np.array([0, 0.5, 0.9]), np.array(y), np.array([np.nan, 0.1, 0.1]))


def test_occlusion_draws_each_mode_once_with_its_values_and_band():
    curves = {
        "b": {"random": curve([0.9, 0.5, 0.2])},
        "c": {"random": curve([0.8, 0.4, 0.1]), "salient": curve([0.8, 0.3, 0.1])},
    }
    figure = plots.curves(curves, PANELS, ORDER)
    random, salient = figure.axes
    assert [random.get_title(), salient.get_title()] == ["Random patches", "Salient patches first"]
    assert [line.get_ydata().tolist() for line in random.lines] == [[0.9, 0.5, 0.2], [0.8, 0.4, 0.1]]
    assert [line.get_color() for line in random.lines] == [plots.COLOURS[1], plots.COLOURS[2]]
    assert [line.get_color() for line in salient.lines] == [plots.COLOURS[2]]
    band = random.collections[0].get_paths()[0].vertices
    # 0.2 - 0.1 to 0.5 + 0.1, nothing at the NaN
    assert band[:, 1].min() == pytest.approx(0.1) and band[:, 1].max() == pytest.approx(0.6)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [" b", " c"]
    assert open_png(figure).size[0] > 1000


def test_reliability_shows_every_bin_and_the_last_one_hollow():
    rng = np.random.default_rng(0)
    confidence = rng.random(400)
    bins = {name: metrics.reliability_bins(confidence, rng.random(400) < confidence) for name in ("a", "b")}
    figure = plots.reliability(bins, {"a": 0.1234, "b": None}, ORDER)
    panel = figure.axes[0]
    _, all_bins, last = panel.lines
    assert (
        all_bins.get_xdata().tolist() == bins["a"].confidence.tolist()
        and all_bins.get_ydata().tolist() == bins["a"].accuracy.tolist()
    )
    assert last.get_markerfacecolor() == "white" and last.get_xdata()[0] == bins["a"].confidence[-1]
    assert [ax.get_title() for ax in figure.axes] == ["a\nRMS error 12.3 %", "b"]


def test_risk_coverage_and_precision_recall_draw_one_line_per_seed():
    run = metrics.risk_coverage([0.9, 0.5, 0.1], [1, 0, 1])
    ax = plots.risk_coverage({"a": [run, run], "c": [run]}, ORDER).axes[0]
    assert [line.get_color() for line in ax.lines] == [plots.COLOURS[0]] * 2 + [plots.COLOURS[2]]
    assert ax.lines[0].get_ydata().tolist() == run.risk.tolist()
    detection = metrics.precision_recall([3.0, 1.0], [2.0, 0.0])
    ax = plots.precision_recall({"b": [detection]}, 0.5, ORDER).axes[0]
    chance, line = ax.lines
    assert chance.get_ydata()[0] == 0.5 and line.get_drawstyle() == "steps-pre"
    area = np.sum(np.diff(line.get_xdata()) * line.get_ydata()[1:])  # under steps that rise before the point
    assert area == pytest.approx(metrics.aupr([3.0, 1.0], [2.0, 0.0]))


def test_mixed_samples_puts_the_shares_under_each_image():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    figure = plots.mixed_samples({"a": (images, ["7: 60 %\n3: 40 %", "1: 100 %", "x"]), "b": (images[:2], ["1", "2"])})
    assert np.array_equal(figure.axes[1].images[0].get_array(), images[1])
    assert figure.axes[0].get_xlabel() == "7: 60 %\n3: 40 %" and figure.axes[1].get_xlabel().strip() == "1: 100 %"
    assert open_png(figure).size[0] > 400


def test_labels_of_any_kind_and_number_can_be_drawn():
    labels = ["_hidden", "$x_{$", "a\nb" * 60, "ü", *map(str, range(20))]
    order = {label: i for i, label in enumerate(labels)}
    styles = {tuple(plots.line_style(i).values()) for i in range(len(labels))}
    assert len(styles) == len(labels)
    figure = plots.curves({label: {"random": curve([0.9, 0.5, 0.2])} for label in labels}, PANELS, order)
    assert len(figure.legends[0].get_texts()) == len(labels)
    open_png(figure)
    open_png(plots.mixed_samples({"$a_{$": (np.zeros((1, 4, 4, 3), np.uint8), ["$\\frac$: 3 %"])}))


def test_same_figure_same_bytes_and_no_global_state():
    import sys

    before = dict(matplotlib.rcParams)
    draw = lambda: plots.png(plots.curves({"a": {"random": curve([0.9, 0.5, 0.2])}}, PANELS, ORDER))  # noqa: E731
    assert draw() == draw()
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_long_label_keeps_what_tells_it_from_another():
    names = [f"vanilla (vit_nano_patch4_32, checkpoint {sha})" for sha in ("40a3db15", "b44cec5a")]
    cut = [plots.shown(name, 26) for name in names]
    assert cut[0] != cut[1] and all(
        len(c) == 26 and c.startswith("vanilla") and "\N{HORIZONTAL ELLIPSIS}" in c for c in cut
    )
    assert plots.shown("short", 26) == "short"
