"""Descriptions of protocols: what is forgotten cannot be described, and every protocol there is has one that holds."""

import dataclasses
import doctest
import subprocess
import sys

import pytest

from evalkit import protocols
from evalkit.cli.described import protocols as described
from evalkit.keys import key
from evalkit.protocols import Detail, Figure, Metric, Protocol, by_name

METRIC = Metric("top1", "top-1", "high", "share right", column=True)


def protocol(**changes):
    fields = {"name": "toy", "kind": "robustness", "version": 1, "title": "Toy", "short": "toy", "sentence": "A toy."}
    return Protocol(**fields | {"metrics": (METRIC,)} | changes)


def test_doctests():
    assert doctest.testmod(protocols).failed == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, "metric 'top1' needs a title, but got ''"),
        ({"title": None}, "needs a title"),
        ({"name": " "}, "needs a name"),
        ({"meaning": ""}, "needs a meaning"),
        ({"better": ""}, "`better` must be one of 'high', 'low', 'neither', but got ''"),
        ({"better": None}, "`better` must be one of"),
        ({"better": "higher"}, "`better` must be one of"),
        ({"unit": "percent"}, "`unit` must be one of"),
        ({"name": "top*"}, "stands for several"),
        ({"name": "a*b*", "column": False}, "holds one"),
    ],
)
def test_a_metric_without_a_fact_cannot_be_described(change, message):
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        dataclasses.replace(METRIC, **change)


def test_a_metric_has_no_default_direction():
    with pytest.raises(TypeError):
        Metric("top1", "top-1")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, "protocol 'toy' needs a title"),
        ({"short": ""}, "needs a short"),
        ({"sentence": None}, "needs a sentence"),
        ({"version": 0}, "`version` must be an integer of at least 1, but got 0"),
        ({"version": True}, "`version`"),
        ({"kind": "toys"}, "`kind` must be one of"),
        ({"metrics": ()}, "has no column, so no table would show it"),
        ({"metrics": (dataclasses.replace(METRIC, column=False),)}, "has no column"),
        ({"metrics": (METRIC, METRIC)}, "describes the metric 'top1' twice"),
    ],
)
def test_a_protocol_without_a_fact_cannot_be_described(change, message):
    with pytest.raises(ValueError, match=message):
        protocol(**change)


def test_figures_and_details_are_checked_as_well():
    with pytest.raises(ValueError, match="figure 'x': `kind` must be one of 'curves'"):
        Figure("pie", "x", "Pie", "A pie.")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="figure 'x' needs a caption"):
        Figure("curves", "x", "Curves", "")
    with pytest.raises(ValueError, match="detail 'head' needs a title"):
        Detail("head", "")
    with pytest.raises(ValueError, match="two protocols called 'toy'"):
        by_name((protocol(), protocol()))


def test_a_star_describes_every_metric_that_fits_and_the_plain_name_comes_first():
    made = protocol(
        metrics=(METRIC, Metric("top*", "top-*", "low", "others"), Metric("top1_best", "best", "high", "the best"))
    )
    assert made.metric("top1") is METRIC and made.metric("top1_best").title == "best"
    assert (made.metric("top7").name, made.metric("top7").title, made.metric("top7").better) == ("top7", "top-7", "low")
    assert made.find("bottom") is None
    with pytest.raises(ValueError, match="protocol 'toy' does not describe its metric 'bottom'"):
        made.metric("bottom")


def test_an_interval_stays_within_what_the_metric_can_be():
    assert METRIC.within(-0.01, 1.02) == (0.0, 1.0) and METRIC.within(0.2, 0.4) == (0.2, 0.4)
    assert Metric("nll", "NLL", "low", "x", "nat", bound=None).within(-0.1, 1.7) == (0.0, 1.7)
    assert Metric("brier", "Brier", "low", "x", "", bound=2.0).within(1.0, 2.5) == (1.0, 2.0)


def test_how_values_and_headings_are_printed():
    assert [Metric("x", "x", b, "x").heading() for b in ("high", "low", "neither")] == ["x ↑", "x ↓", "x"]
    assert Metric("x", "NLL", "low", "x", "nat").heading() == "NLL [nat] ↓"
    assert [Metric("x", "x", "high", "x", unit).text(0.12345) for unit in ("%", "nat", "")] == [
        "12.3",
        "0.123",
        "0.123",
    ]
    assert Metric("x", "x", "neither", "x", "M").text(44_139_072) == "44.1M"


@pytest.mark.parametrize("name", described())
def test_every_protocol_there_is(name):
    made = described()[name]
    assert made.name == name and made.load() is not None
    assert made.sentence.endswith((".", "?")) and not made.title.endswith(".")
    assert all(key in made.config.__dataclass_fields__ for key in made.needs)
    assert made.detail is None or made.detail.key in made.config.__dataclass_fields__
    assert len({figure.name for figure in made.figures}) == len(made.figures)


def test_what_the_report_can_draw_is_what_a_figure_may_be():
    from typing import get_args

    from evalkit.report.figures import MAKERS

    assert set(MAKERS) == set(get_args(protocols.Drawn))


def test_descriptions_import_no_torch():
    code = "import sys; from evalkit.cli.described import protocols; protocols(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_meaning_has_no_full_stop_of_its_own():
    with pytest.raises(ValueError, match="full stop"):
        Metric("x", "x", "low", "as Hendrycks et al.")
    with pytest.raises(TypeError, match="full stop"):
        key(0, "of the masks.")


def test_a_described_metric_keeps_its_formula_under_the_name_it_stands_for():
    star = Metric("error_*", "error, *", "low", "error under it", formula="E")
    assert protocol(metrics=(METRIC, star)).metric("error_fog").formula == "E"
