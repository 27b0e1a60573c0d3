"""Detection: what the recipes ask of mmdetection, against mmdetection's own base files. Nothing here imports it."""

import importlib.util
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evalkit import cli, config, recipe_text
from evalkit.downstream import det, mask_rcnn
from evalkit.downstream.backbone import Source, resolve
from evalkit.downstream.config import merge
from evalkit.downstream.det import DetConfig
from evalkit.downstream.scenes import write_scenes
from evalkit.downstream.task import Data
from evalkit.errors import EvalkitError

MMDET = importlib.util.find_spec("mmdet")
needs_mm = pytest.mark.skipif(MMDET is None, reason="the extra 'downstream' is not installed")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PVT = Source("pvt_small", {}, "pvt.pth", None, "0" * 64, None, "pvt", MEAN, STD, [64, 128, 320, 512], [4, 8, 16, 32])
RESNET = replace(PVT, model="resnet50", channels=[64, 256, 512, 1024, 2048], strides=[2, 4, 8, 16, 32])
COCO = Data(
    "coco",
    [str(i) for i in range(80)],
    {"train": 117266, "val": 5000},
    "f",
    True,
    {"data_root": "coco/", "ann_file": "train.json"},
    {"data_root": "coco/", "ann_file": "val.json"},
)


def loaded(recipe, *overrides):
    return config.load(DetConfig, recipe, list(overrides), folder="det")


def built(recipe, *overrides, source=PVT, data=COCO):
    cfg = loaded(recipe, *overrides)
    made = det.mm_config(cfg, source, data, Path("run"))
    merge(made, cfg.mm)
    return made


def base(path):
    """A base file of mmdetection, which is plain Python."""
    return runpy.run_path(str(Path(MMDET.origin).parent / ".mim/configs/_base_" / path))


def plain(value):
    """Without what has no effect: tuples for lists, the key `debug`."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k != "debug"}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


# ---- recipes


@pytest.mark.parametrize("name", sorted(config.recipes("det")))
def test_recipe_loads_and_says_what_it_costs(name):
    loaded(name)
    header = recipe_text.header(config.find(name, "det"))
    assert header[0] and any(line.startswith("Cost: ") for line in header)


def test_recipes_of_all_commands_have_different_names(capsys):
    names = [name for folder in ("train", "seg", "det", "robustness") for name in config.recipes(folder)]
    assert len(set(names)) == len(names)
    assert cli.invoke(["recipes", "show", "coco"]) == (0, "")
    assert "lr_batch: 16" in capsys.readouterr().out


def test_coco_recipe_is_the_released_one_of_pvt():
    """whai362/PVT, detection/configs/mask_rcnn_pvt_s_fpn_1x_coco.py."""
    made = built("coco")
    assert made["optim_wrapper"] == {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "betas": (0.9, 0.999), "lr": 2e-4, "weight_decay": 1e-4},
    }
    assert made["model"]["neck"] == {
        "type": "FPN",
        "in_channels": [64, 128, 320, 512],
        "out_channels": 256,
        "num_outs": 5,
    }
    assert made["model"]["backbone"]["model_args"] == {"drop_path_rate": 0.1} and made["model"]["backbone"][
        "out_indices"
    ] == [0, 1, 2, 3]
    assert built("coco-large")["model"]["backbone"]["model_args"] == {}
    large, small = loaded("coco-large"), loaded("coco")
    assert replace(large, drop_path=0.1) == small


@needs_mm
def test_the_model_is_mmdetections_mask_rcnn():
    own, theirs = built("coco")["model"], base("models/mask-rcnn_r50_fpn.py")["model"]
    for key in theirs.keys() - {"backbone", "neck", "data_preprocessor"}:
        assert plain(own[key]) == plain(theirs[key]), key
    for key in ("mean", "std"):
        assert own["data_preprocessor"][key] == pytest.approx(theirs["data_preprocessor"].pop(key))
        del own["data_preprocessor"][key]
    assert own["data_preprocessor"] == theirs["data_preprocessor"]
    resnet = built("coco", source=RESNET)["model"]
    assert plain(resnet["neck"]) == plain(theirs["neck"]) and resnet["backbone"]["out_indices"] == [1, 2, 3, 4]
    assert resnet["backbone"]["freeze_statistics"] is theirs["backbone"]["norm_eval"] is True


@needs_mm
def test_the_data_are_prepared_as_mmdetection_does():
    own, theirs = built("coco"), base("datasets/coco_instance.py")

    def drop(steps):
        return [{k: v for k, v in plain(step).items() if k not in ("backend_args", "meta_keys")} for step in steps]

    assert drop(own["train_dataloader"]["dataset"]["pipeline"]) == drop(theirs["train_pipeline"])
    assert drop(own["test_dataloader"]["dataset"]["pipeline"]) == drop(theirs["test_pipeline"])
    assert own["train_dataloader"]["batch_sampler"] == theirs["train_dataloader"]["batch_sampler"]
    assert own["test_dataloader"]["dataset"]["pipeline"][-1]["meta_keys"] == theirs["test_pipeline"][-1]["meta_keys"]


@needs_mm
def test_the_schedule_is_mmdetections_1x():
    warmup, decay = base("schedules/schedule_1x.py")["param_scheduler"]
    own = built("coco")["param_scheduler"]
    assert own[0] == warmup
    steps = det.TASK.steps(loaded("coco"), COCO)
    assert steps == 12 * 7330 and own[1]["milestones"] == [7330 * epoch for epoch in decay["milestones"]] == [
        58640,
        80630,
    ]
    assert own[1]["gamma"] == decay["gamma"] and own[1]["end"] == steps and decay["end"] == 12


# ---- settings


@pytest.mark.parametrize(("batch", "lr"), [(16, 2e-4), (8, 1e-4), (32, 4e-4)])
def test_lr_is_scaled_with_the_batch(batch, lr):
    made = built("coco", f"batch_size={batch}")
    assert (
        made["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(lr)
        and made["train_dataloader"]["batch_size"] == batch
    )
    assert built("coco", f"batch_size={batch}", "lr_batch=null")["optim_wrapper"]["optimizer"]["lr"] == 2e-4


def test_thin_heads():
    model = built("digits-scenes-det", source=replace(PVT, checkpoint=None))["model"]
    assert (
        model["neck"]["out_channels"]
        == model["rpn_head"]["feat_channels"]
        == model["roi_head"]["mask_head"]["conv_out_channels"]
        == 64
    )
    assert (model["roi_head"]["bbox_head"]["fc_out_channels"], model["roi_head"]["mask_head"]["num_convs"]) == (256, 2)
    assert model["train_cfg"]["rcnn"]["sampler"]["num"] == 64 and model["train_cfg"]["rpn_proposal"]["nms_pre"] == 200
    assert model["backbone"]["freeze_statistics"] is False  # random weights have no statistics worth keeping


@pytest.mark.parametrize(
    ("model", "indices", "strides"),
    [
        ("pvt_tiny", [0, 1, 2, 3], [4, 8, 16, 32]),
        ("resnet50", [1, 2, 3, 4], [4, 8, 16, 32]),
        ("swin_tiny_patch4_window7_224", [0, 1, 2, 3], [4, 8, 16, 32]),
        ("resnet10_cifar", [3, 4], [4, 8]),
        ("vit_nano_patch4_32", [3], [4]),
    ],
)
def test_pyramids_start_at_stride_4(model, indices, strides):
    source = resolve(model, model=None, model_args={}, weights=None, random=True, label=None)
    assert mask_rcnn.pyramid(source) == (indices, [source.channels[i] for i in indices], strides)
    made = built("coco", source=source)["model"]
    assert made["rpn_head"]["anchor_generator"]["strides"] == [4, 8, 16, 32, 64]
    assert made["roi_head"]["mask_roi_extractor"]["featmap_strides"] == [4, 8, 16, 32] and made["backbone"]["norm"] == (
        len(indices) == 1
    )


def test_a_backbone_of_coarse_maps_alone_is_refused():
    source = replace(PVT, model="deit_small_patch16_224", channels=[384] * 12, strides=[16] * 12)
    with pytest.raises(
        EvalkitError,
        match="from stride 4 or 8 on, but those of model 'deit_small_patch16_224' have 16; use a PVT, Swin or ResNet",
    ):
        built("coco", source=source)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["image_size=[800,1333]"], "key 'image_size' must be the longer and the shorter side"),
        (["image_size=[800]"], "key 'image_size'"),
        (["decay_epochs=[11,8]"], "key 'decay_epochs' must be growing numbers between 0 and epochs=12"),
        (["epochs=8"], "key 'decay_epochs' must be growing numbers between 0 and epochs=8, but got [8, 11]"),
        (["epochs=0"], "key 'epochs' must be larger than 0"),
        (["rois=0"], "key 'rois' must be larger than 0"),
        (["flip=1.5"], "key 'flip' must lie between 0 and 1"),
        (["epcohs=3"], "unknown key 'epcohs'. Did you mean 'epochs'?"),
    ],
)
def test_wrong_values_are_one_line(overrides, message):
    with pytest.raises(EvalkitError) as e:
        loaded("coco", *overrides)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(EvalkitError, match="warmup_steps=500 leaves nothing of the 120 steps of 12 epochs"):
        built("coco", data=replace(COCO, counts={"train": 160, "val": 5}))


def test_digits_are_not_mirrored():
    for name, probability in (("digits-scenes-det", 0.0), ("coco", 0.5)):
        assert {"type": "RandomFlip", "prob": probability} in built(name)["train_dataloader"]["dataset"]["pipeline"]


def test_overrides_reach_the_mm_config():
    made = built("coco", "mm.model.test_cfg.rcnn.score_thr=0.1", "mm.model.rpn_head.anchor_generator.scales=[4]")
    assert made["model"]["test_cfg"]["rcnn"]["score_thr"] == 0.1 and made["model"]["rpn_head"]["anchor_generator"][
        "scales"
    ] == [4]
    assert made["model"]["test_cfg"]["rcnn"]["max_per_img"] == 100


@pytest.mark.parametrize(
    ("overrides", "whole", "published"),
    [
        ([], True, True),
        (["drop_path=0.0"], True, False),  # what the authors use for PVT-M
        (["seed=3", "workers=9", "model=pvt_small", "label=x"], True, True),
        ([], False, False),
        (["drop_path=0.2"], True, False),
        (["lr=1e-4"], True, False),
        (["epochs=24"], True, False),
        (["image_size=null"], True, False),
        (["mm.model.test_cfg.rcnn.max_per_img=200"], True, False),
    ],
)
def test_published_is_the_recipe_on_the_whole_set(overrides, whole, published):
    assert det.published(loaded("coco", *overrides), PVT, replace(COCO, published=whole)) is published


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("pvt_tiny", "coco"),
        ("pvt_small", "coco"),
        ("pvt_medium", "coco-large"),
        ("pvt_large", "coco-pvt-large"),
        ("resnet50", None),
        ("resnet101", None),
        ("swin_tiny_patch4_window7_224", None),
        ("pvt_v2_b2", None),
        ("deit_small_patch16_224", None),
    ],
)
def test_every_backbone_has_one_published_recipe_at_most(model, recipe):
    for name in ("coco", "coco-large", "coco-pvt-large"):
        assert det.published(loaded(name), replace(PVT, model=model), COCO) is (name == recipe)
        assert not det.published(loaded(name), replace(PVT, model=model, model_args={"depths": [1]}), COCO)


def test_recipes_of_the_larger_pvts_are_the_released_ones():
    """whai362/PVT, detection/configs/mask_rcnn_pvt_{m,l}_fpn_1x_coco.py; PVT-L: samples_per_gpu 1, lr 0.0002 / 1.4."""
    for name, batch, lr in (("coco-large", 16, 0.0002), ("coco-pvt-large", 8, 0.0002 / 1.4)):
        made, cfg = built(name), loaded(name)
        assert made["train_dataloader"]["batch_size"] == cfg.batch_size == batch
        assert made["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(lr, rel=1e-12)
        assert made["model"]["backbone"]["model_args"] == {}


@pytest.mark.parametrize(
    ("overrides", "name"),
    [([], "digits-scenes-det"), (["seed=1"], "digits-scenes-det"), (["data=coco"], "coco"), (["data=x/y"], "coco")],
)
def test_the_data_call_for_a_recipe(overrides, name):
    assert det.recipe(overrides) == name


# ---- data and numbers


def test_embedded_and_own_data(tmp_path):
    write_scenes(tmp_path / "made", train=4, val=3, size=48)
    own = det.find_data(loaded("coco", f"data={tmp_path / 'made/coco'}"), tmp_path)
    assert (own.counts, own.classes, own.published) == ({"train": 4, "val": 3, "all": 4}, list("0123456789"), False)
    assert (
        own.train["filter_cfg"] == {"filter_empty_gt": True, "min_size": 32}
        and "filter_cfg" not in own.val
        and own.val["test_mode"]
    )
    assert (Path(own.val["data_root"]) / own.val["ann_file"]).is_file() and (
        Path(own.val["data_root"]) / own.val["data_prefix"]["img"]
    ).is_dir()


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of NumPy: the mean of nothing
def test_nothing_to_find_is_said():
    nothing = np.full((2, 3), np.nan)
    outcome = det.measure(
        loaded("coco"), replace(COCO, classes=["a", "b"]), lambda: {"det/box": nothing, "det/mask": nothing}
    )
    assert np.isnan(list(outcome.metrics.values())).all()
    assert outcome.undefined == dict.fromkeys(outcome.metrics, "no object of the validation images counts")


def test_measure_is_the_mean_over_classes_with_objects():
    box = np.array([[0.5, 0.9, 0.6], [0.1, 0.3, 0.0], [np.nan] * 3])
    data = replace(COCO, classes=["a", "b", "c"])
    outcome = det.measure(loaded("coco"), data, lambda: {"det/box": box, "det/mask": box / 2})
    expected = {"box_ap": 0.3, "box_ap50": 0.6, "box_ap75": 0.3, "mask_ap": 0.15, "mask_ap50": 0.3, "mask_ap75": 0.15}
    assert outcome.metrics == pytest.approx(expected)
    assert outcome.series[1] == {"class": "b", "box_ap": 0.1, "mask_ap": 0.05} and np.isnan(outcome.series[2]["box_ap"])
    assert outcome.notes == ["1 of 3 classes have no object in the validation images"]
    assert det.summary(outcome) == "box AP 30.0 %, mask AP 15.0 %"
