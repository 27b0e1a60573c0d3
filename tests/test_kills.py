"""A handful of the kills of benchmarks/kills.py, whose whole result is benchmarks/results/kills.json."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="the extra 'downstream' is not installed")
def test_a_handful_of_kills_loses_nothing(tmp_path):
    words = ["--only", "train x1,report", "--random", "2", "--placed", "2", "--seed", str(os.getpid())]
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), *words, "--out", str(tmp_path / "kills.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["kills"] == 6 and found["placed"] == 4 and found["faults"] == 0
    assert sum(found["struck"].values()) == 6
