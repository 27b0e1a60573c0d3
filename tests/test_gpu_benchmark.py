"""benchmarks/gpu.py goes through on a CPU at small size, part by part."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_table import table

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/gpu.py"


def test_the_table_has_every_number_and_says_which_goals_are_met():
    """Of the record of a GPU, against goals typed from the project's aims."""
    found = json.loads((SCRIPT.parent / "results/gpu_h200.json").read_text())
    text = table(found)
    assert text.startswith("NVIDIA H200, torch 2.11.0\n")
    for part, numbers in found["parts"].items():
        assert re.search(rf"^{part} \(", text, re.MULTILINE)
        assert all(name == "seconds" or re.search(rf"^  {name} ", text, re.MULTILINE) for name in numbers)
    peak = {name: numbers["share_of_800"] for name, numbers in found["parts"]["peak"].items() if name != "seconds"}
    for name, share in peak.items():
        goal = 0.35 if "small" in name else 0.45
        (line,) = re.findall(rf"^  {name} .*$", text, re.MULTILINE)
        assert line.endswith(f"goal: at least {goal}, {'met' if share >= goal else 'NOT met'}")
    (mixup,), (puzzlemix,) = (
        re.findall(rf"^  {name} +relative.*$", text, re.MULTILINE) for name in ("mixup", "puzzlemix")
    )
    assert mixup.endswith("at most 1.03, met") and puzzlemix.endswith("at most 2, NOT met")


@pytest.mark.slow
def test_dry_run(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--small", "--device", "cpu", "--out", str(out)]
    for parts in (["precision", "augmentation", "protocols"], ["peak", "overhead"], ["syncs", "methods"]):
        words = [word for part in parts for word in ("--part", part)]
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["parts"]
    assert table(json.loads(out.read_text())) in done.stdout
    goals = {name for name, numbers in found["methods"].items() if isinstance(numbers, dict) and numbers["goal"]}
    assert {"cutmix", "transmix", "puzzlemix"} <= goals and not goals & {"automix", "smmix", "mergemix"}
    assert len(found) == 7 and found["augmentation"]["share_beyond_2_levels"] < 1e-3
    assert found["syncs"]["mixpro"] == "no wait" and found["methods"]["cutmix"]["relative"] > 0
    assert found["syncs"]["vanilla"] == "no wait"  # in float16
    fits = found["overhead"]["auto_micro_batch"]
    assert fits["of"] == 8 and fits["fits"] == 8
    assert {"vit_nano_patch4_32, opt_kernels=fused", "resnet10_cifar, channels_last=true"} <= set(found["peak"])
    left_out = [name for name, numbers in found["methods"].items() if "left out" in str(numbers)]
    assert left_out == ["attentive_cutmix", "attentivemix_plus", "supermix", "tokenmix"]
