"""Every golden vector: what evalkit computes from recorded inputs and draws is what the official code returned."""

from pathlib import Path

import numpy as np
import pytest

from . import ledger
from .__main__ import main
from .compare import difference
from .vectors import ROOT, Case, read

LEDGER = ROOT.parents[1] / "docs" / "ledger.md"


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in read()])
def test_equals_the_official_result(case: Case):
    found = difference(case)
    assert found.equal, f"{found.value:.1e} from {case.official} at {found.where}"


def test_the_ledger_is_current():
    """But for the differences, whose last bits depend on the processor, it is what the command writes."""
    text, rows = LEDGER.read_text(encoding="utf-8"), ledger.rows(read())
    written = dict(zip(rows, ledger.differences_in(text), strict=True))
    assert ledger.page(rows, written) == text, "run python -m tests.golden --ledger docs/ledger.md"
    for row, cases in rows.items():
        assert written[row] <= max(case.meta["tolerance"] for case in cases)


def test_other_vectors_are_taken_and_a_difference_is_found(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tests.golden", str(tmp_path)])
    assert main() == 1  # nothing to compare is no success
    with np.load(ROOT / "mixups" / "cutmix.npz") as file:
        arrays = {key: a for key, a in file.items() if key.startswith(("case0/", "case3/"))}
    np.savez(tmp_path / "cutmix.npz", **arrays)
    assert main() == 0 and "2 of 2 equal" in capsys.readouterr().out
    arrays["case3/expect/target"] = arrays["case3/expect/target"] + 0.01
    np.savez(tmp_path / "cutmix.npz", **arrays)
    assert main() == 1 and "cutmix-3 1.0e-02 DIFFERS target" in capsys.readouterr().out
