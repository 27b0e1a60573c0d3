"""Colours that colour-blind readers can tell apart, by simulation, and text that can be read on its ground.

The simulation is that of Machado, Oliveira and Fernandes (IEEE TVCG 2009) at full severity, on linear RGB; distances
are those of CIELAB under D65.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from evalkit import metrics, plots, report

SEES = {
    "as most do": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = [0.95047, 1.0, 1.08883]
PAGE = (Path(report.__file__).parent / "page.html.j2").read_text(encoding="utf-8")


def linear(colour: str) -> np.ndarray:
    """#rrggbb or #rgb as linear RGB."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    v = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB as CIELAB."""
    v = np.array(XYZ) @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distances(colours, sees) -> dict[tuple[str, str], float]:
    """CIELAB distance of every two colours as somebody sees them."""
    seen = {c: lab(np.array(sees) @ linear(c)) for c in colours}
    return {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(colours, 2)}


def contrast(a: str, b: str) -> float:
    """The ratio of WCAG 2."""
    one, other = sorted((np.array(XYZ[1]) @ linear(c) for c in (a, b)), reverse=True)
    return (one + 0.05) / (other + 0.05)


@pytest.mark.parametrize("sees", SEES)
def test_every_two_colours_of_lines_stay_apart(sees):
    found = distances(plots.COLOURS, SEES[sees])
    assert min(found.values()) > 15, min(found, key=found.get)


def test_lines_stand_out_from_the_paper_and_share_no_marker():
    assert all(contrast(c, "#ffffff") >= 3 for c in plots.COLOURS)
    styles = [plots.line_style(i) for i in range(len(plots.COLOURS))]
    assert len({s["marker"] for s in styles}) == len(styles)
    assert plots.line_style(0)["linestyle"] != plots.line_style(len(styles))["linestyle"]


def test_the_simulation_is_right():
    """Grey stays grey for everybody; red and green of one lightness fall together for those who lack a cone for them
    and stay apart for the others; a wrong palette is found out."""
    for matrix in SEES.values():
        assert np.allclose(np.array(matrix) @ [0.3, 0.3, 0.3], 0.3, atol=1e-6)
    assert np.allclose(lab(linear("#ffffff")), [100, 0, 0], atol=0.02)
    assert np.allclose(lab(linear("#ff0000")), [53.24, 80.09, 67.20], atol=0.03)
    pair = ("#D55E00", "#8C6D00")  # told apart by most, not by a protanope
    apart = {sees: distances(pair, matrix)[pair] for sees, matrix in SEES.items()}
    assert apart["as most do"] > 40 and apart["protanopia"] < 5 and apart["deuteranopia"] < 15 < apart["tritanopia"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_of_the_reports_page_can_be_read(theme):
    light, dark = re.findall(r":root \{([^}]*)\}", PAGE)
    known = dict(re.findall(r"--(\w+): (#\w+)", light)) | (
        dict(re.findall(r"--(\w+): (#\w+)", dark)) if theme == "dark" else {}
    )
    for text, ground in itertools.product(("ink", "soft", "warn", "link"), ("paper", "shade")):
        assert contrast(known[text], known[ground]) >= 4.5, (text, ground)
    assert contrast(known["ink"], known["mark"]) >= 4.5 and contrast(known["warn"], known["mark"]) >= 4.5


def test_curves_without_markers_differ_in_more_than_colour():
    run = metrics.risk_coverage([0.9, 0.5, 0.1], [1, 0, 1])
    order = {name: i for i, name in enumerate("abcdefg")}
    (ax,) = plots.risk_coverage({name: [run] for name in order}, order).axes
    shown = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert len(set(shown)) == 7 and all(a[1] != b[1] for a, b in itertools.pairwise(shown))
