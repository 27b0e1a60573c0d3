"""The cells of benchmarks/stock_configs.py: stock configs that are built, trained, killed, resumed exactly
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
    """Twelve configs and more with two backbones each, none of whose runs a kill changed."""
    cells = json.loads(RECORDED.read_text())["cells"]
    assert all(cell["outcome"] == "exact" for cell in cells)
    backbones = {
        config: {c["backbone"] for c in cells if c["config"] == config} for config in (c["config"] for c in cells)
    }
    assert len(backbones) >= 12 and all(len(found) == 2 for found in backbones.values())
    for kind in ("vit_", "pvt_", "resnet", "swin_", "convnext_"):
        assert sum(any(name.startswith(kind) for name in found) for found in backbones.values()) >= 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="the extra 'downstream' is not installed")
@pytest.mark.parametrize("task", ["seg", "det"])
def test_stock_configs_train_die_and_resume(tmp_path, task):
    """Seven of each kind, with two backbones each."""
    out = tmp_path / "cells.json"
    words = [sys.executable, str(SCRIPT), "--only", f"{task} ", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = json.loads(out.read_text())["cells"]
    assert len(cells) == 14 and [cell["outcome"] for cell in cells] == ["exact"] * 14
