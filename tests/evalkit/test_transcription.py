"""The published values that ship, against a second transcription of all cells of the source tables, made independently.

The transcription (tests/evalkit/transcription) has a row per cell: source, table, setting, what was measured on which
data, model, decoder, method, alpha, metric, reporting form, value, and whether the source quotes it or sources (or the
gains that they print) disagree about it.
"""

import csv
from collections import Counter
from pathlib import Path

import pytest

from evalkit import published

CELLS = [
    row
    for path in sorted((Path(__file__).parent / "transcription").glob("*.csv"))
    for row in csv.DictReader(path.open(encoding="utf-8"))
]
WHAT = ("source", "table", "setting", "task", "data", "model", "decoder", "method", "metric")


def key(row):
    """Which cell a row is; both name OpenMixup's DeiT setting and a missing setting in their own way."""
    setting = row["setting"] if row["table"] not in ("DeiT", "Table 12") else "openmixup-deit"
    borrowed = row["source"].startswith("TransMix") and row["model"] == "resnet50"
    return tuple("" if k == "setting" and borrowed else setting if k == "setting" else row[k] for k in WHAT)


SHIPPED = {key(v._asdict()): v for v in published.values() if not v.source.startswith("timm")}
SECOND = {key(row): row for row in CELLS}
# What the text of MixPro says about a figure that has no numbers, which the transcription of tables leaves out.
IN_THE_TEXT = {k for k in SHIPPED if k[1] == "Figure 5"}


def test_both_have_the_same_cells():
    assert set(SHIPPED) - IN_THE_TEXT == set(SECOND) and len(SECOND) == len(CELLS) == 730


def test_every_value_and_form_is_that_of_the_second_transcription():
    differing = [
        (k, v.value, SECOND[k]["value"], v.form, SECOND[k]["form"])
        for k, v in SHIPPED.items()
        if k not in IN_THE_TEXT and (v.value, v.form) != (SECOND[k]["value"], SECOND[k]["form"])
    ]
    assert differing == []


def test_alphas_agree_where_both_sources_of_them_do():
    """They differ where table and text of OpenMixup's page do (ResNet-18), which the note says, and where AutoMix's
    appendix names no alpha (AttentiveMix, TransMix)."""
    for k, v in SHIPPED.items():
        if k not in IN_THE_TEXT and v.alpha != SECOND[k]["alpha"]:
            silent = v.table == "Table 12" and v.method in ("AttentiveMix", "TransMix") and not v.alpha
            assert silent or (v.model == "resnet18" and f"alpha {SECOND[k]['alpha']}" in v.note), k


def test_quoted_and_disputed_cells_are_those_of_the_second_transcription():
    quoted = {k for k, v in SHIPPED.items() if v.quoted} - IN_THE_TEXT
    assert quoted == {k for k, row in SECOND.items() if "quoted" in row["status"]}
    second = {k for k, row in SECOND.items() if "disputed" in row["status"]}
    more = {k for k, v in SHIPPED.items() if v.disputed} - second
    # the shipped ones also hold two tables of TransMix's supplement against one another
    assert second <= {k for k, v in SHIPPED.items() if v.disputed}
    assert {(SHIPPED[k].source, SHIPPED[k].table, SHIPPED[k].value) for k in more} == {
        ("TransMix supplementary", "Table 2", "79.8"),
        ("TransMix supplementary", "Table 3", "79.9"),
    }


def test_the_text_about_figure_5_says_what_table_2_says():
    (figure,) = (SHIPPED[k] for k in IN_THE_TEXT)
    same = [v for v in SHIPPED.values() if v.table == "Table 2" and v.method == "CutMix" and v.metric == "top1"]
    assert round(100 - float(figure.value), 1) in {float(v.value) for v in same if v.source == "MixPro paper"}


def test_rows_of_each_table_as_counted_in_the_sources():
    """Absent cells and gain rows left out."""
    counts = Counter((v.source.split(" ")[0], v.table) for v in SHIPPED.values())
    openmixup = [
        ("PyTorch-style, 100 epochs", 58),
        ("PyTorch-style, 300 epochs", 42),
        ("RSB A2/A3", 65),
        ("DeiT", 89),
        ("Tiny-ImageNet", 30),
    ]
    assert [counts["OpenMixup", table] for table, _ in openmixup] == [n for _, n in openmixup]
    assert [counts["AutoMix", f"Table {n}"] for n in (11, 12, 13, 14)] == [45, 29, 72, 80]
    assert [counts["TransMix", t] for t in ("Table 1", "Table 2", "Table 3", "Section B")] == [5, 20, 6, 4]
    assert [counts["MixPro", f"Table {n}"] for n in range(1, 11)] == [70, 27, 14, 35, 12, 5, 8, 5, 4, 5]


@pytest.mark.parametrize(
    ("table", "gains"),
    [
        ("Table 11", [0.36, 0.23, 0.51, 0.32, 0.99]),
        ("Table 12", [0.08, 0.00, 0.18]),
        ("Table 13", [0.17, 0.17, 0.24, 0.26, 0.14, 0.04, 0.32, 0.15]),
        ("Table 14", [0.11, 0.91, 0.87, 0.77, 1.11, 0.44, 0.76, 0.52]),
    ],
)
def test_gains_that_automix_prints_are_over_the_best_other_method_or_the_cell_is_disputed(table, gains):
    columns: dict[tuple[str, str], list] = {}
    for v in SHIPPED.values():
        if v.source.startswith("AutoMix") and v.table == table:
            columns.setdefault((v.model, v.setting), []).append(v)
    assert len(columns) == len(gains)
    for cells, gain in zip(columns.values(), gains):
        ours = next(float(v.value) for v in cells if v.method == "AutoMix")
        others = [v for v in cells if v.method != "AutoMix"]
        contradicting = [v for v in others if ours - float(v.value) < gain - 0.005]
        assert all("gain" in v.disputed for v in contradicting)
        kept = max(float(v.value) for v in others if v not in contradicting)
        assert ours - kept == pytest.approx(gain, abs=0.005)


def test_what_tables_of_two_sources_print_of_one_setting_agrees_or_is_disputed():
    printed: dict[tuple, list] = {}
    for v in SHIPPED.values():
        if v.task == "accuracy" and v.metric == "top1" and v.source.startswith(("OpenMixup", "AutoMix")):
            printed.setdefault((v.setting, v.data, v.model, v.method), []).append(v)
    several = [found for found in printed.values() if len(found) > 1]
    assert len(several) == 71
    for found in several:
        assert len({v.value for v in found}) == 1 or all(v.disputed for v in found)
