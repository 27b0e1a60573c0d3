"""Detection in mmdetection: AP against its own metric, parameters against the paper, gradients everywhere, and what a
run leaves behind."""

import contextlib
import importlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from evalkit import config, results
from evalkit.downstream import PROTOCOLS, det
from evalkit.downstream.backbone import resolve
from evalkit.downstream.det import DetConfig
from evalkit.downstream.mm import require
from evalkit.downstream.run import transfer
from evalkit.downstream.scenes import write_scenes
from evalkit.downstream.task import Data
from evalkit.robustness import compare

require("mmdet")
engine = importlib.import_module("evalkit.downstream.mm.engine")
metrics = importlib.import_module("evalkit.downstream.mm.det")
Config = importlib.import_module("mmengine.config").Config
importlib.import_module("mmdet.utils").register_all_modules(init_default_scope=True)
DefaultScope = importlib.import_module("mmengine.registry").DefaultScope
MODELS = importlib.import_module("mmdet.registry").MODELS
CLASSES = list("0123456789")
THIN = [
    "batch_size=4",
    "image_size=null",
    "channels=16",
    "fc_channels=32",
    "mask_convs=1",
    "rois=16",
    "proposals=20",
    "device=cpu",
    "threads=1",
    "workers=0",
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "root"
    write_scenes(root, train=10, val=6, size=64)
    return root / "coco"


def loaded(recipe, *overrides):
    return config.load(DetConfig, recipe, list(overrides), folder="det")


def quietly(call, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*args, **kwargs)


# ---- AP


def predictions(path, seed=0, share=0.8):
    """Test samples made of the truth: most objects, their masks and boxes shifted, some of another class, some
    invented."""
    truth, rng, samples = quietly(COCO, path), np.random.default_rng(seed), []
    for image in truth.loadImgs(truth.getImgIds()):
        masks, labels = [], []
        for annotation in truth.loadAnns(truth.getAnnIds(image["id"])):
            for _ in range(rng.integers(1, 3)):
                if rng.random() < share:
                    masks.append(
                        np.roll(truth.annToMask(annotation), rng.integers(-1, 2, 2) * rng.integers(2), (0, 1)).astype(
                            bool
                        )
                    )
                    labels.append(annotation["category_id"] - 1 if rng.random() < 0.9 else rng.integers(10))
        masks = np.array(masks).reshape(-1, image["height"], image["width"])
        edges = [(m.any(axis=0).nonzero()[0], m.any(axis=1).nonzero()[0]) for m in masks]
        boxes = torch.tensor([[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in edges], dtype=torch.float32).reshape(-1, 4)
        scores = torch.from_numpy(rng.random(len(labels)))
        found = {
            "bboxes": boxes,
            "masks": torch.from_numpy(masks),
            "labels": torch.tensor(labels, dtype=torch.long),
            "scores": scores,
        }
        samples.append({"img_id": image["id"], "ori_shape": (image["height"], image["width"]), "pred_instances": found})
    return samples


def judged(path, samples):
    metric = quietly(metrics.EvalkitCoco, str(path))
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, samples)
    return quietly(metric.evaluate, len(samples))


def summary(scores):
    return {
        f"{kind}_{name}": np.nanmean(scores[f"det/{kind}"][:, i])
        for kind in ("box", "mask")
        for i, name in enumerate(("mAP", "mAP_50", "mAP_75"))
    }


@pytest.mark.parametrize("shuffled", [False, True])
def test_ap_is_mmdetections_without_rounding(scenes, tmp_path, shuffled):
    path = scenes / "annotations/instances_val2017.json"
    if shuffled:  # ids that are neither in order nor consecutive
        content, new = json.loads(path.read_text()), {i: 7 * ((3 * i) % 11) for i in range(1, 11)}
        for entry in content["categories"]:
            entry["id"] = new[entry["id"]]
        for entry in content["annotations"]:
            entry["category_id"] = new[entry["category_id"]]
        path = tmp_path / "val.json"
        path.write_text(json.dumps(content))
    samples = predictions(scenes / "annotations/instances_val2017.json")
    theirs = quietly(
        importlib.import_module("mmdet.evaluation").CocoMetric, str(path), ["bbox", "segm"], classwise=True
    )
    theirs.dataset_meta = {"classes": CLASSES}
    theirs.process(None, samples)
    expected = quietly(theirs.evaluate, len(samples))
    scores = judged(path, samples)
    for ours, value in summary(scores).items():
        assert (
            value == pytest.approx(expected[f"coco/{ours.replace('box', 'bbox').replace('mask', 'segm')}"], abs=5.1e-4)
            and 0.02 < value < 0.98
        )
    if shuffled:  # theirs takes the classes in another order than pycocotools
        assert np.array_equal(
            scores["det/mask"],
            judged(scenes / "annotations/instances_val2017.json", samples)["det/mask"],
            equal_nan=True,
        )
    else:
        theirs = [expected[f"coco/{digit}_precision"] for digit in CLASSES]  # of the last of its metrics, masks
        assert scores["det/mask"][:, 0] == pytest.approx(np.array(theirs, float), abs=5.1e-4, nan_ok=True)


def test_the_truth_has_an_ap_of_one_and_nothing_of_zero(scenes):
    path = scenes / "annotations/instances_val2017.json"
    truth = quietly(COCO, path)
    present = np.array([bool(truth.getAnnIds(catIds=[i + 1])) for i in range(10)])
    samples, nothing = [], []
    for image in truth.loadImgs(truth.getImgIds()):
        annotations = truth.loadAnns(truth.getAnnIds(image["id"]))
        x, y, w, h = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).T
        masks = torch.from_numpy(np.stack([coco_mask.decode(a["segmentation"]) for a in annotations]).astype(bool))
        labels = torch.tensor([a["category_id"] - 1 for a in annotations])
        found = {
            "bboxes": torch.stack([x, y, x + w, y + h], 1),
            "masks": masks,
            "labels": labels,
            "scores": torch.ones(len(labels)),
        }
        samples.append({"img_id": image["id"], "pred_instances": found})
        nothing.append({"img_id": image["id"], "pred_instances": {k: v[:0] for k, v in found.items()}})
    for made, value in ((samples, 1.0), (nothing, 0.0)):
        scores = judged(path, made)
        for kind in ("box", "mask"):
            assert (
                scores[f"det/{kind}"][present] == pytest.approx(value)
                and np.isnan(scores[f"det/{kind}"][~present]).all()
            )


# ---- the model


@pytest.mark.slow
def test_parameters_of_pvt_small_are_those_of_the_paper():
    """MixPro, Table 4: 44.1 M with 80 classes."""
    data = Data(
        "coco",
        [str(i) for i in range(80)],
        {"train": 117266, "val": 5000},
        "f",
        True,
        *[{"data_root": "", "ann_file": ""}] * 2,
    )
    source = resolve("pvt_small", model=None, model_args={}, weights=None, random=True, label=None)
    with DefaultScope.overwrite_default_scope("mmdet"):  # a segmentation may have been built before in this process
        model = MODELS.build(Config(det.mm_config(loaded("coco"), source, data, Path("run"))).model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(44.14e6, abs=0.005e6)


@pytest.mark.parametrize("name", ["pvt_nano", "resnet10_cifar", "vit_nano_patch4_32"])
def test_every_trainable_parameter_gets_a_gradient(scenes, tmp_path, name):
    """DistributedDataParallel would wait for ever for one that does not."""
    cfg = loaded("digits-scenes-det", *THIN, f"data={scenes}", "warmup_steps=1")
    source = resolve(name, model=None, model_args={}, weights=None, random=True, label=None)
    made = det.mm_config(cfg, source, det.find_data(cfg, tmp_path), tmp_path)
    made["train_cfg"] = engine.loop_config(cfg, tmp_path, 1)
    runner = engine.build(made, tmp_path, scope="mmdet", seed=0, device=torch.device("cpu"), checkpoint=None)
    model, batch = runner.model.train(), next(runner.train_loop.batches())
    model.init_weights()
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    losses.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert sum(p.requires_grad for p in model.backbone.parameters()) > 20


def test_statistics_of_a_pre_trained_resnet_stay(scenes, tmp_path):
    kind = importlib.import_module("evalkit.downstream.mm.backbone").EvalkitTimmBackbone
    x = torch.randn(2, 3, 32, 32)
    for freeze in (True, False):
        made = kind("resnet10_cifar", None, [3, 4], freeze_statistics=freeze).train()
        before = made.model.bn1.running_mean.clone()
        made(x)
        assert (
            torch.equal(before, made.model.bn1.running_mean) is freeze
            and made.training
            and made.model.bn1.weight.requires_grad
        )


# ---- runs


@pytest.mark.slow
def test_a_run_and_its_continuation_end_in_the_same_bits(scenes, tmp_path, capsys):
    words = [
        *THIN,
        f"data={scenes}",
        "epochs=2",
        "decay_epochs=[1]",
        "warmup_steps=1",
        "drop_path=0.1",
        "checkpoint_steps=4",
        "log_steps=2",
    ]
    run = tmp_path / "run"
    assert transfer(det.TASK, "pvt_nano", loaded("digits-scenes-det", *words, "init=random"), run) == 0
    shown = capsys.readouterr().out
    assert (
        "step 6/6" in shown and "box AP" in shown and "creating index" not in shown and "Average Precision" not in shown
    )
    (made,) = results.read([run])
    assert (made["task"], made["protocol"], made["n"], made["published"]) == ("transfer", "det", 6, False)
    assert set(made["metrics"]) == {
        "parameters",
        *(f"{kind}_ap{at}" for kind in ("box", "mask") for at in ("", "50", "75")),
    }
    assert len(made["series"]) == 10 and Image.open(run / "samples.png").size[0] > 800
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(Config.fromfile(run / "mm_config.py").model)
    assert made["metrics"]["parameters"] == sum(p.numel() for p in model.parameters())

    ids, statistics = det.TASK.per_image(run / made["records"])
    kept = {name: value for s in statistics for name, value in s.values.items()}
    assert len(ids) == 6 and kept == pytest.approx({name: made["metrics"][name] for name in kept}, nan_ok=True)

    again = tmp_path / "again"
    shutil.copytree(run, again)
    for path in (again / "checkpoints/step-000000006.pth", again / "results.jsonl"):
        path.unlink()
    assert transfer(det.TASK, None, None, resume=again) == 0
    assert "at step 4" in capsys.readouterr().out
    assert compare(str(run), str(again), out=tmp_path, transfers=PROTOCOLS) == 0  # every metric, and no difference
    (pair,) = json.loads((tmp_path / "compare.json").read_text())
    assert set(pair["metrics"]) == {name for name, value in kept.items() if value == value}
    assert all(found["difference"] == 0 and found["better"] is None for found in pair["metrics"].values())
    ours, theirs = (torch.load(folder / "checkpoints/step-000000006.pth", weights_only=True) for folder in (again, run))
    assert (
        all(torch.equal(v, ours["state_dict"][k]) for k, v in theirs["state_dict"].items())
        and ours["param_schedulers"] == theirs["param_schedulers"]
    )
    assert results.read([again])[0]["metrics"] == made["metrics"]


@pytest.mark.slow
def test_a_short_training_finds_digits(tmp_path):
    words = ["epochs=2", "decay_epochs=[]", "warmup_steps=10", "init=random", "device=cpu"]
    assert transfer(det.TASK, "pvt_nano", loaded("digits-scenes-det", *words), tmp_path / "run") == 0
    (made,) = results.read([tmp_path / "run"])
    assert made["metrics"]["box_ap50"] > 0.1 and made["metrics"]["mask_ap50"] > 0.1
