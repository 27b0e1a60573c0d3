"""benchmarks/gpu.py goes through on a CPU at small size, part by part."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/gpu.py"


@pytest.mark.slow
def test_dry_run(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--small", "--device", "cpu", "--out", str(out)]
    for parts in (["precision", "augmentation", "protocols"], ["peak", "overhead"], ["syncs", "methods"]):
        words = [word for part in parts for word in ("--part", part)]
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["parts"]
    assert len(found) == 7 and found["augmentation"]["share_beyond_2_levels"] < 1e-3
    assert found["syncs"]["mixpro"] == "no wait" and found["methods"]["cutmix"]["relative"] > 0
    assert found["syncs"]["vanilla"] == "no wait"  # in float16
    fits = found["overhead"]["auto_micro_batch"]
    assert fits["of"] == 8 and fits["fits"] == 8
    assert {"vit_nano_patch4_32, opt_kernels=fused", "resnet10_cifar, channels_last=true"} <= set(found["peak"])
    left_out = [name for name, numbers in found["methods"].items() if "left out" in str(numbers)]
    assert left_out == ["attentive_cutmix", "attentivemix_plus", "supermix", "tokenmix"]
