"""The published values that ship, against a second transcription of all cells of the source tables, made independently.

The transcription (tests/evalkit/transcription) has a row per cell: source, table, setting, what was measured on which
data, model, decoder, method, alpha, metric, reporting form, value, and whether the source quotes it or sources (or the
gains that they print) disagree about it.
"""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

SHIPPED = Path(__file__).resolve().parents[2] / "evalkit" / "published"
CELLS = [
    row
    for path in sorted((Path(__file__).parent / "transcription").glob("*.csv"))
    for row in csv.DictReader(path.open(encoding="utf-8"))
]
SETTINGS = {  # how a shipped source's words name a setting of OpenMixup's page
    "PyTorch setting, 100 epochs": "pytorch-100",
    "PyTorch setting, 300 epochs": "pytorch-300",
    "RSB A2": "rsb-a2",
    "RSB A3": "rsb-a3",
    "DeiT setting": "deit-300",
}
METHODS = {"Attentive-CutMix": "Attentive CutMix"}


def shipped():
    """(file, row) of every value that ships from the four transcribed sources."""
    for name in ("openmixup", "mixpro", "transmix", "transfer"):
        yield from (
            pytest.param(row, id=f"{name}-{number}")
            for number, row in enumerate(csv.DictReader((SHIPPED / f"{name}.csv").open(encoding="utf-8")))
        )


def matching(row):
    """The cells that say the same thing as a shipped row."""
    source, _, place = row["source"].partition(",")
    setting = next((value for words, value in SETTINGS.items() if words in place), None)
    table = re.search(r"Table \d+|section B", place)
    for cell in CELLS:
        if not cell["source"].startswith(source.removesuffix(" supplementary")) or cell["task"] != row["table"]:
            continue
        if setting and cell["setting"] != setting:
            continue
        if table and cell["table"].lower() != table[0].lower():
            continue
        same = (
            cell["model"] == row["model"]
            and cell["method"] == METHODS.get(row["method"], row["method"])
            and cell["metric"] == re.sub(r"_(median|best)$", "", row["metric"])
            and cell["decoder"] == row.get("decoder", "")
        )
        if same:
            yield cell


@pytest.mark.parametrize("row", shipped())
def test_a_value_that_ships_is_that_of_the_second_transcription(row):
    assert [cell["value"] for cell in matching(row)] == [row["value"]]


def test_the_transcription_is_whole_and_names_no_cell_twice():
    """Rows per table as counted in the sources, absent cells and gain rows left out."""
    counts = Counter((cell["source"].split(" ")[0], cell["table"]) for cell in CELLS)
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
    keys = [tuple(v for k, v in cell.items() if k not in ("value", "status", "note")) for cell in CELLS]
    assert len(set(keys)) == len(keys) == 730


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
    for cell in CELLS:
        if cell["source"].startswith("AutoMix") and cell["table"] == table:
            columns.setdefault((cell["model"], cell["setting"]), []).append(cell)
    assert len(columns) == len(gains)
    for cells, gain in zip(columns.values(), gains):
        ours = next(float(c["value"]) for c in cells if c["method"] == "AutoMix")
        others = [c for c in cells if c["method"] != "AutoMix"]
        contradicting = [c for c in others if ours - float(c["value"]) < gain - 0.005]
        assert all("disputed" in c["status"] and "gain" in c["note"] for c in contradicting)
        kept = max(float(c["value"]) for c in others if c not in contradicting)
        assert ours - kept == pytest.approx(gain, abs=0.005)
