"""Runs of transfers, loaded by mm's own tools where there is no evalkit. What the command checks by itself, in such an
interpreter, is not tried a second time here."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch

from evalkit import results
from evalkit.cli import invoke
from evalkit.downstream import det, export, scenes, seg
from evalkit.downstream.run import transfer
from evalkit.errors import EvalkitError
from evalkit.export import clean

from ..evalkit import fake_records
from .test_det import loaded as loaded_det
from .test_seg import TINY, loaded

needs_mm = pytest.mark.skipif(
    importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed"
)
# mm's own test loop over the run's own validation images, by the export's config
STOCK_TEST = """
import sys
sys.path.insert(0, "")
from evalkit_export import ext
ext.install()
from mmengine.config import Config
from mmengine.runner import Runner
import mmengine.device.utils
config = Config.fromfile("config.py")
config.work_dir, config.load_from = sys.argv[1], "model.pth"
config.test_dataloader.num_workers = 0
metrics = Runner.from_cfg(config).test()
assert not any(name.partition(".")[0] == "evalkit" for name in sys.modules)
import json
json.dump({k: float(v) for k, v in metrics.items()}, open(sys.argv[1] + "/metrics.json", "w"))
"""


def measured_by_mm(folder, place):
    place.mkdir()
    blocked = clean.CHILD.partition("warnings.filterwarnings")[0]
    done = subprocess.run([sys.executable, "-c", blocked + STOCK_TEST, str(place)], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads((place / "metrics.json").read_text())


@needs_mm
@pytest.mark.slow
def test_mmsegmentation_loads_and_measures_a_run(shapes, weights, tmp_path, capsys):
    cfg = loaded("digits-scenes", f"data={shapes}", *TINY, "head=segmenter", "ema=0.5", "freeze_stages=0")
    assert transfer(seg.TASK, str(weights), cfg, tmp_path / "run") == 0
    capsys.readouterr()
    assert invoke(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "mmseg"]) == (0, "")
    printed = capsys.readouterr().out
    assert "the checkpoint's raw weights are left behind; weights=raw exports those" in printed
    assert "averaged weights (ema) of step-000000008.pth; mmseg alone gives the same outputs" in printed
    text = (tmp_path / "out" / "config.py").read_text()
    assert "Evalkit" not in text and "frozen" not in text and "freeze=0" in text
    content = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    assert content["meta"]["dataset_meta"]["classes"] == ["background", "red", "blue"]
    assert len(content["meta"]["dataset_meta"]["palette"]) == 3
    (record,) = results.read([tmp_path / "run"])
    told = (tmp_path / "out" / "README.md").read_text()
    assert re.search(rf"\| seg \| mIoU \| {record['metrics']['miou']:.4f}( ± [\d.]+)? \| 4 \| shapes, val \|", told)
    assert told.count("\n| seg |") == len(record["metrics"]) and f"| {record['metrics']['parameters']} |" in told
    found = measured_by_mm(tmp_path / "out", tmp_path / "mm")
    # mmsegmentation prints two digits
    assert found["mIoU"] == pytest.approx(100 * record["metrics"]["miou"], abs=0.0051)
    assert found["aAcc"] == pytest.approx(100 * record["metrics"]["pixel_accuracy"], abs=0.0051)


@needs_mm
@pytest.mark.slow
def test_mmdetection_loads_and_measures_a_run(tmp_path, capsys):
    scenes.write_scenes(tmp_path / "scenes", train=6, val=4, size=64)
    thin = importlib.import_module("tests.downstream.mm.test_det").THIN
    words = ["epochs=2", "decay_epochs=[1]", "warmup_steps=1", "init=random", "log_steps=1", "lr=0.01"]
    cfg = loaded_det("digits-scenes-det", *thin, f"data={tmp_path / 'scenes' / 'coco'}", *words)
    assert transfer(det.TASK, "pvt_nano", cfg, tmp_path / "run") == 0
    assert invoke(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "mmdet"]) == (0, "")
    assert "mmdet alone gives the same outputs, largest difference" in capsys.readouterr().out
    (record,) = results.read([tmp_path / "run"])
    found = measured_by_mm(tmp_path / "out", tmp_path / "mm")
    for kind, ours in (("bbox", "box"), ("segm", "mask")):  # mmdetection prints three digits
        assert found[f"coco/{kind}_mAP"] == pytest.approx(record["metrics"][f"{ours}_ap"], abs=0.00051)


@needs_mm
def test_requests_that_do_not_go_together_are_one_line(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "source.json").write_text("{}")
    (run / "mm_config.py").write_text("test_evaluator = dict(type='EvalkitIoU')\n")
    out = tmp_path / "out"
    for words, message in [
        (["--to", "timm"], "is the run of a transfer, with a head of another kind; use --to mmseg or --to mmdet"),
        (["--to", "mmseg", "model=resnet18"], "knows its architecture; leave model= out"),
        (["--to", "mmseg"], "has no checkpoint yet; continue it with --resume"),
    ]:
        code, said = invoke(["export", str(run), str(out), *words])
        assert code == 1 and message in said and "\n" not in said
    torch.save({"state_dict": {}, "meta": {}}, run / "best.pth")
    code, said = invoke(["export", str(run / "best.pth"), str(out), "--to", "mmdet"])
    assert code == 1 and "is a transfer for mmseg, not mmdet; use --to mmseg" in said
    code, said = invoke(["export", str(run / "best.pth"), str(out), "--to", "mmseg", "weights=ema"])
    assert code == 1 and "holds no averaged (ema) weights; use weights=raw" in said
    (run / "mm_config.py").write_text("import os\n")
    code, said = invoke(["export", str(run / "best.pth"), str(out), "--to", "mmseg"])
    assert code == 1 and "is missing, damaged or no config that a transfer wrote" in said
    assert not out.exists()


def test_raw_weights_are_those_that_mmengine_swapped_away(tmp_path):
    pytest.importorskip("mmengine")
    (tmp_path / "mm_config.py").write_text("model = dict(type='A')\n")
    torch.save(
        {
            "state_dict": {"a": torch.ones(1)},
            "ema_state_dict": {"module.a": torch.zeros(1), "steps": torch.tensor(3)},
            "optimizer": {},
        },
        tmp_path / "best.pth",
    )
    for record in (fake_records.record(), fake_records.record(task="transfer", protocol="seg")):
        results.append(tmp_path, record)
    averaged = export.read_run(tmp_path, tmp_path / "best.pth", None)
    raw = export.read_run(tmp_path, tmp_path / "best.pth", "raw")
    # the run measured those that it averaged, at its end
    assert [r["label"] for r in averaged.records] == ["mixpro"] and raw.records == []
    torch.save(torch.load(tmp_path / "best.pth") | {"meta": {"iter": 3}}, tmp_path / "early.pth")
    (tmp_path / "mm_config.py").write_text("model = dict(type='A')\ntrain_cfg = dict(max_iters=4)\n")
    early = export.read_run(tmp_path, tmp_path / "early.pth", None)
    assert early.records == [] and early.notes[-1].startswith("these are the weights of step 3 of 4")
    assert (averaged.weights, averaged.state) == ("ema", {"a": torch.ones(1)}) and len(averaged.notes) == 2
    assert (raw.weights, raw.state) == ("raw", {"a": torch.zeros(1)})
    torch.save([1], tmp_path / "odd.pth")
    with pytest.raises(EvalkitError, match="is no checkpoint of a transfer"):
        export.read_run(tmp_path, tmp_path / "odd.pth", None)
