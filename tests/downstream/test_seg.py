"""Segmentation: what the recipes ask of mmsegmentation, and what the command line passes on."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evalkit import cli, config, recipe_text
from evalkit.downstream import seg
from evalkit.downstream.backbone import Source
from evalkit.downstream.config import merge
from evalkit.downstream.mm import require
from evalkit.downstream.seg import SegConfig
from evalkit.downstream.task import Data
from evalkit.errors import EvalkitError

DEIT = Source(
    "deit_small_patch16_224",
    {},
    "deit.pth",
    None,
    "0" * 64,
    None,
    "deit",
    [0.485, 0.456, 0.406],
    [0.229, 0.224, 0.225],
    [384] * 12,
    [16] * 12,
)
CONTEXT = Data(
    "pascal-context", [str(i) for i in range(60)], {"train": 4998, "val": 5105}, "f", True, {"type": "T"}, {"type": "V"}
)
TINY = [
    "crop=32",
    "stride=32",
    "steps=8",
    "warmup_steps=2",
    "batch_size=4",
    "log_steps=2",
    "checkpoint_steps=4",
    "device=cpu",
]


def loaded(recipe, *overrides):
    return config.load(SegConfig, recipe, list(overrides), folder="seg")


def built(recipe, *overrides):
    cfg = loaded(recipe, *overrides)
    made = seg.mm_config(cfg, DEIT, CONTEXT, Path("run"))
    merge(made, cfg.mm)
    return made


# ---- recipes


@pytest.mark.parametrize("name", sorted(config.recipes("seg")))
def test_recipe_loads_and_says_what_it_costs(name):
    loaded(name)
    header = recipe_text.header(config.find(name, "seg"))
    assert header[0] and any(line.startswith("Cost: ") for line in header)


@pytest.mark.parametrize("head", seg.HEADS)
def test_pascal_context_recipe_is_segmenters(head):
    """rstrudel/segmenter: config.yml and train.py for pascal_context."""
    cfg = loaded(f"pascal-context-{head}")
    assert (cfg.opt, cfg.lr, cfg.min_lr, cfg.power, cfg.weight_decay, cfg.batch_size) == (
        "sgd",
        1e-3,
        1e-5,
        0.9,
        0.0,
        16,
    )
    assert cfg.steps == 80000 and abs(cfg.steps - 256 * 313) < 200  # 256 epochs of 313 steps, rounded
    assert (cfg.short_side, cfg.scale, cfg.crop, cfg.stride, cfg.drop_path, cfg.warmup_steps) == (
        520,
        [0.5, 2.0],
        480,
        320,
        0.1,
        0,
    )
    assert cfg.classes == 60 and cfg.head == head and cfg.head_dropout == {"linear": 0.0, "segmenter": 0.1}[head]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["head=linaer"], "unknown value of head 'linaer'. Did you mean 'linear'?"),
        (["classes=58"], "unknown value of classes '58'. Choose one of: 59, 60"),
        (["stride=128"], "stride=128 leaves gaps between windows of crop=32"),
        (["warmup_steps=600"], "warmup_steps=600 leaves nothing of steps=600"),
        (["scale=[2.0,0.5]"], "key 'scale' must be two numbers above 0"),
        (["scale=[0.5,2.0]"], "key 'scale' needs short_side"),
        (["crop=0"], "key 'crop' must be larger than 0"),
        (["flip=2"], "key 'flip' must lie between 0 and 1, but got 2"),
        (["lr=nan"], "key 'lr' must be larger than 0, but got nan"),
        (["ratios=[]"], "key 'ratios' must be numbers above 0"),
        (["init=none"], "unknown value of init 'none'"),
        (["stpes=3"], "unknown key 'stpes'. Did you mean 'steps'?"),
    ],
)
def test_wrong_values_are_one_line(overrides, message):
    with pytest.raises(EvalkitError) as e:
        loaded("digits-scenes", *overrides)
    assert message in str(e.value)


@pytest.mark.parametrize(
    "overrides, name",
    [
        ([], "digits-scenes"),
        (["head=segmenter"], "digits-scenes"),
        (["data=pascal-context"], "pascal-context-linear"),
        (["data=my/scenes", "head=segmenter"], "pascal-context-segmenter"),
    ],
)
def test_the_data_call_for_a_recipe(overrides, name):
    assert seg.recipe(overrides) == name


# ---- the mm config


def test_linear_decoder_is_one_convolution_and_segmenter_two_layers():
    linear, mask = (built(f"pascal-context-{head}")["model"]["decode_head"] for head in seg.HEADS)
    assert (
        linear["type"] == "FCNHead"
        and linear["num_convs"] == 0
        and linear["num_classes"] == 60
        and linear["channels"] == linear["in_channels"] == 384
    )
    assert mask["type"] == "SegmenterMaskTransformerHead" and (
        mask["num_layers"],
        mask["num_heads"],
        mask["embed_dims"],
    ) == (2, 6, 384)


def test_images_are_resized_by_the_short_side_and_scales_multiply_it():
    made = built("pascal-context-linear")
    train, test = made["train_dataloader"]["dataset"]["pipeline"], made["test_dataloader"]["dataset"]["pipeline"]
    assert [t for t in train if t["type"] == "RandomResize"] == [
        {"type": "RandomResize", "scale": (4160, 520), "ratio_range": (0.5, 2.0), "keep_ratio": True}
    ]
    assert [t["scale"] for t in test if t["type"] == "Resize"] == [(4160, 520)]
    scales, flips, *_ = made["tta_pipeline"][1]["transforms"]
    assert [t["scale"][1] for t in scales] == [260, 390, 520, 650, 780, 910] and [t["prob"] for t in flips] == [
        0.0,
        1.0,
    ]


def test_what_is_not_mirrored_in_training_is_not_mirrored_in_the_test():
    made = built("digits-scenes")
    assert [t["prob"] for t in made["train_dataloader"]["dataset"]["pipeline"] if t["type"] == "RandomFlip"] == [0.0]
    assert [t["prob"] for t in made["tta_pipeline"][1]["transforms"][1]] == [0.0]


def test_the_config_is_the_recipe():
    made = built("pascal-context-segmenter")
    assert made["optim_wrapper"] == {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "momentum": 0.9, "lr": 1e-3, "weight_decay": 0.0},
    }
    assert made["model"]["test_cfg"] == {"mode": "slide", "crop_size": (480, 480), "stride": (320, 320)}
    backbone, prepare = made["model"]["backbone"], made["model"]["data_preprocessor"]
    assert (
        backbone["img_size"] == 480
        and backbone["out_indices"] == [11]
        and backbone["norm"]
        and backbone["model_args"] == {"drop_path_rate": 0.1}
    )
    assert prepare["mean"] == pytest.approx([123.675, 116.28, 103.53]) and prepare["std"] == pytest.approx(
        [58.395, 57.12, 57.375]
    )
    assert prepare["bgr_to_rgb"] and prepare["size"] == (480, 480)
    assert "test_cfg" not in prepare  # an image is tested as it is


def test_overrides_reach_the_mm_config():
    changes = [
        "mm.model.decode_head.loss_decode.avg_non_ignore=true",
        "mm.param_scheduler.0.power=2",
        "mm.model.test_cfg={mode: whole}",
    ]
    made = built("pascal-context-linear", *changes)
    assert (
        made["model"]["decode_head"]["loss_decode"]["avg_non_ignore"] is True
        and made["param_scheduler"][0]["power"] == 2
    )
    assert made["model"]["test_cfg"]["mode"] == "whole" and made["model"]["decode_head"]["num_classes"] == 60
    with pytest.raises(EvalkitError, match=r"unknown key 'mm.modle'. Did you mean 'mm.model'\?"):
        built("pascal-context-linear", "mm.modle.x=1")
    with pytest.raises(
        EvalkitError, match="'mm.param_scheduler' is a list of 1, so 'mm.param_scheduler.7' names nothing"
    ):
        built("pascal-context-linear", "mm.param_scheduler.7.power=2")


def test_59_classes_leave_background_out(monkeypatch):
    names = ["background", *(f"c{i}" for i in range(59))]
    both = dict.fromkeys(("train", "val"))
    found = seg.SegData(
        "pascal-context",
        "root",
        names,
        both,
        both,
        {"train": ["a"], "val": ["b"]},
        both,
        (".jpg", ".png"),
        {"train": "t", "val": "v"},
        True,
    )
    monkeypatch.setattr(seg.readers, "segmentation", lambda *args: found)
    cfg = loaded("pascal-context-linear")
    data = [seg.find_data(replace(cfg, classes=k), Path("run")) for k in (60, 59)]
    assert [len(d.classes) for d in data] == [60, 59] and data[1].classes[0] == "c0" and data[1].fingerprint == "v"
    assert [d.train["reduce_zero_label"] for d in data] == [False, True] and data[1].val["metainfo"][
        "classes"
    ] == names[1:]
    monkeypatch.setattr(seg.readers, "segmentation", lambda *args: replace(found, classes=names[:11]))
    with pytest.raises(EvalkitError, match="classes=59 belongs to Pascal Context, but pascal-context has 11 classes"):
        seg.find_data(replace(cfg, classes=59), Path("run"))


@pytest.mark.parametrize(
    "overrides, whole, published",
    [
        ([], True, True),
        (["seed=3", "workers=0", "ms=true", "label=x", "data_dir=d"], True, True),
        ([], False, False),
        (["lr=0.01"], True, False),
        (["assumed=[]"], True, False),  # nobody takes the mark off
        (["classes=59"], True, False),
        (["mm.model.test_cfg.mode=whole"], True, False),
    ],
)
def test_published_protocol_is_the_whole_set_by_the_recipe(overrides, whole, published):
    cfg = loaded("pascal-context-linear", *overrides)
    assert seg.published(cfg, DEIT, replace(CONTEXT, published=whole)) is published


@pytest.mark.parametrize(
    "model, args, published",
    [
        ("deit_small_patch16_224", {}, True),
        ("deit_small_patch16_224.fb_in1k", {"img_size": 224}, True),
        ("deit_small_patch16_224", {"patch_size": 14}, False),
        ("deit_small_patch16_224", {"depth": 6}, False),
        ("deit_tiny_patch16_224", {}, False),
        ("deit_small_distilled_patch16_224", {}, False),
        ("resnet50", {}, False),
        ("pvt_small", {}, False),
        ("swin_tiny_patch4_window7_224", {}, False),
    ],
)
def test_only_backbones_that_somebody_published_count(model, args, published):
    source = replace(DEIT, model=model, model_args=args)
    for head in seg.HEADS:
        assert seg.published(loaded(f"pascal-context-{head}"), source, CONTEXT) is published


def test_what_the_recipe_says_of_segmenter_is_so():
    """Each difference that its header names, on our side; the other side's numbers are rstrudel/segmenter's."""
    nn = pytest.importorskip("torch").nn
    require("mmseg")
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    words = " ".join(" ".join(recipe_text.header(config.find(f"pascal-context-{head}", "seg"))) for head in seg.HEADS)
    made = built("pascal-context-linear")
    assert "nesterov" not in made["optim_wrapper"]["optimizer"] and "without Nesterov" in words
    steps = 256 * math.ceil(4998 / 16)
    assert f"{steps:,}".replace(",", " ") in words and made["param_scheduler"][-1]["end"] == 80000
    heads = {}
    for name in seg.HEADS:
        head = built(f"pascal-context-{name}")["model"]["decode_head"]
        with DefaultScope.overwrite_default_scope("mmseg"):  # a detection may have been built before in this process
            heads[name] = MODELS.build(Config({"head": head}).head)
        heads[name].init_weights()
    assert heads["linear"].loss_decode.avg_non_ignore is False and "mean over all pixels of the crops" in words
    assert float(heads["linear"].conv_seg.weight.std()) == pytest.approx(0.01, rel=0.05) and "0.01" in words
    layers = heads["segmenter"].layers
    assert {layer.attn.attn.dropout for layer in layers} == {0.0} and "no dropout within" in words
    drops = [m.p for layer in layers for m in layer.modules() if isinstance(m, nn.Dropout)]
    assert set(drops) == {0.0, 0.1}  # those of no rate stand for the stochastic depth
    assert float(heads["segmenter"].patch_proj.weight.std()) == pytest.approx(0.02, rel=0.05)


# ---- numbers


def test_means_are_over_the_classes_that_occur():
    """3 classes, the last nowhere: IoU 6/8 and 2/4, accuracy 6/6 and 2/4."""
    score = {"seg/iou": np.array([0.75, 0.5, np.nan]), "seg/accuracy": np.array([1.0, 0.5, np.nan]), "seg/all": 0.8}
    data = replace(CONTEXT, classes=["a", "b", "c"])
    cfg = loaded("pascal-context-linear", "ms=true")
    outcome = seg.measure(cfg, data, lambda tta=False: score | {"seg/iou": score["seg/iou"] / (2 if tta else 1)})
    assert outcome.metrics == {"miou": 0.625, "miou_ms": 0.3125, "mean_accuracy": 0.75, "pixel_accuracy": 0.8}
    assert outcome.series[1] == {"class": "b", "iou": 0.5, "iou_ms": 0.25} and math.isnan(outcome.series[2]["iou"])
    assert cfg.assumed[0].startswith("schedule: ") and any("1 of 3 classes" in note for note in outcome.notes)
    assert set(seg.measure(loaded("pascal-context-linear"), data, lambda tta=False: score).metrics) == {
        "miou",
        "mean_accuracy",
        "pixel_accuracy",
    }


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of NumPy: the mean of nothing
def test_nothing_to_count_is_said():
    nothing = {"seg/iou": np.full(3, np.nan), "seg/accuracy": np.full(3, np.nan), "seg/all": np.nan}
    outcome = seg.measure(
        loaded("pascal-context-linear"), replace(CONTEXT, classes=["a", "b", "c"]), lambda tta=False: nothing
    )
    assert all(math.isnan(value) for value in outcome.metrics.values())
    assert outcome.undefined == dict.fromkeys(outcome.metrics, "no pixel of the validation images has a class")


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["transfer", "seg"],
            "give either a checkpoint (a run or checkpoint folder, a weights file, a timm name) or --resume DIR",
        ),
        (
            ["transfer", "seg", "a", "--resume", "b"],
            "give either a checkpoint (a run or checkpoint folder, a weights file, a timm name) or --resume DIR",
        ),
        (["transfer", "seg", "a", "b"], "one checkpoint at a time, but got a, b; settings are written key=value"),
        (
            ["transfer", "seg", "--resume", "b", "--ms"],
            "--resume continues the run inside b as it is; leave out --out, --recipe and --ms",
        ),
        (["transfer", "det", "a", "--ms"], "--ms belongs to seg; det is tested at one scale"),
        (["transfer", "seg", "a", "haed=linear"], "unknown key 'haed'. Did you mean 'head'?"),
        (
            ["transfer", "seg", "a", "--recipe", "digit-scenes"],
            "unknown recipe 'digit-scenes'. Did you mean 'digits-scenes'?",
        ),
    ],
)
def test_command_line_errors_are_one_line(words, message):
    assert cli.invoke(words) == (1, message)


def test_command_line_reaches_the_run(monkeypatch, tmp_path):
    import evalkit.downstream.run as module

    seen = []
    monkeypatch.setattr(module, "transfer", lambda *args: seen.append(args) or 0)
    assert cli.invoke(["transfer", "seg", "ckpt", "head=segmenter", "--ms", "--out", str(tmp_path)]) == (0, "")
    task, spec, cfg, out, resume, _ = seen[0]
    assert (task.name, spec, cfg.head, cfg.ms, cfg.data, out, resume) == (
        "seg",
        "ckpt",
        "segmenter",
        True,
        "digits-scenes",
        tmp_path,
        None,
    )
