"""Backbones of classifiers for configs of mm's own, where there is no evalkit. That its maps are the classifier's is
what the command checks by itself."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit import checkpoint, models, results
from evalkit.cli import invoke
from evalkit.downstream import export_backbone
from evalkit.export import clean

from ..evalkit import fake_records

needs_mm = pytest.mark.skipif(
    importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed"
)
# the config of the README as a reader has it: the whole network, its backbone filled by mm's own init_weights
USE = """
import sys
sys.path.insert(0, "")
from evalkit_export import ext
ext.install()
import numpy as np, torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from {scope}.registry import MODELS
config = Config.fromfile("mine.py")
init_default_scope("{scope}")
model = MODELS.build(config.model)
model.init_weights()
model.eval()
x = torch.from_numpy(np.load(sys.argv[1]))
with torch.no_grad():
    maps = model.backbone(x)
    model(x, mode="tensor")
    np.savez(sys.argv[2], *[m.numpy() for m in maps], mean=model.data_preprocessor.mean.numpy())
"""


def run_of(folder, name, **args):
    torch.manual_seed(0)
    network = models.create(name, num_classes=10, **args).eval()
    meta = {"model": name, "model_args": args, "num_classes": 10, "label": "mine", "image_size": 32}
    checkpoint.save(folder, 1, network.model.state_dict(), None, {}, meta)
    return network


@needs_mm
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, args, scope, kind",
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, "mmseg", "mmseg.VisionTransformer"),
        ("pvt_nano", {"drop_path_rate": 0.1}, "mmdet", "ExportedTimmBackbone"),
    ],
)
def test_a_config_of_mms_own_takes_the_backbone(name, args, scope, kind, tmp_path, capsys):
    network, out = run_of(tmp_path / "run", name, **args), tmp_path / "out"
    sha256 = checkpoint.read_meta(tmp_path / "run")["sha256"]["model.safetensors"]
    results.append(tmp_path / "run", fake_records.record(task="eval", checkpoint_sha256=sha256, metrics={"top1": 0.25}))
    results.append(tmp_path / "run", fake_records.record(task="eval", metrics={"top1": 0.75}))  # of other weights
    assert invoke(["export", str(tmp_path / "run"), str(out), "--to", scope]) == (0, "")
    printed = capsys.readouterr().out
    assert f"{kind} of {name}, raw weights; {scope} alone gives the same maps, largest difference" in printed
    assert "the head of 10 classes and their names are left behind" in printed
    assert ("drop_path_rate=0.1 of pre-training is left behind" in printed) is bool(args.get("drop_path_rate"))
    assert json.loads((out / "export.json").read_text())["backbone"] == kind
    (config,) = re.findall(r"```py\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    told = (out / "README.md").read_text()
    assert "Of the whole classifier, with its head:" in told and "| accuracy | top-1 | 0.2500" in told
    assert "0.7500" not in told
    (out / "mine.py").write_text(config)
    x = torch.randn(1, 3, 64, 96)
    np.save(tmp_path / "x.npy", x.numpy())
    blocked = clean.CHILD.partition("warnings.filterwarnings")[0] + USE.format(scope=scope)
    command = [sys.executable, "-c", blocked, str(tmp_path / "x.npy"), str(tmp_path / "maps.npz")]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "maps.npz")
    assert found["mean"].ravel() == pytest.approx([255 * v for v in network.mean], rel=1e-5)
    if name == "pvt_nano":  # of any size by itself; timm's features of the classifier are what they should be
        maps = network.model.forward_intermediates(x, intermediates_only=True)
        for i, expected in enumerate(maps):
            assert clean.apart(expected.detach().numpy(), found[f"arr_{i}"]) <= clean.TOLERANCE


@needs_mm
def test_what_gives_no_maps_is_one_line(tmp_path, monkeypatch):
    model = models.create("test_vit", num_classes=3).model
    torch.save(model.state_dict(), tmp_path / "w.pth")
    monkeypatch.delattr(type(model), "forward_intermediates")
    words = ["export", str(tmp_path / "w.pth"), str(tmp_path / "out"), "--to", "mmseg", "model=test_vit"]
    code, message = invoke(words)
    assert code == 1 and message == "model 'test_vit' does not give its feature maps, so it is no backbone for mmseg"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scope, maps", export_backbone.EXAMPLES)
def test_the_configs_of_the_readme_are_there(scope, maps):
    if (found := importlib.util.find_spec(scope)) is None:
        pytest.skip("the extra 'downstream' is not installed")
    base = export_backbone.EXAMPLES[scope, maps][0]
    assert (Path(found.origin).parent / ".mim" / "configs" / base).is_file()
