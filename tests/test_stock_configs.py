"""A handful of the cells of benchmarks/stock_configs.py: stock configs that are built, trained, killed, resumed exactly
and measured; and the whole table as it was recorded."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT, RECORDED = ROOT / "benchmarks/stock_configs.py", ROOT / "benchmarks/results/stock_configs.json"


def test_the_recorded_table_is_exact():
    """Configs with two backbones each, none of whose runs a kill changed."""
    cells = json.loads(RECORDED.read_text())["cells"]
    assert cells and all(cell["outcome"] == "exact" for cell in cells)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="the extra 'downstream' is not installed")
def test_a_handful_of_configs_train_die_and_resume(tmp_path):
    out = tmp_path / "cells.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(out)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cells = json.loads(out.read_text())["cells"]
    assert len(cells) == 4 and [cell["outcome"] for cell in cells] == ["exact"] * 4
