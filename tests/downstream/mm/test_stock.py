"""Stock configs: found, read, made plain, and given our backbone."""

import importlib

import pytest
import torch

from evalkit.downstream.backbone import resolve
from evalkit.downstream.mm import require
from evalkit.errors import EvalkitError

require("mmseg", "mmdet")
stock = importlib.import_module("evalkit.downstream.mm.stock")
plug = importlib.import_module("evalkit.downstream.mm.plug")
needs = importlib.import_module("evalkit.downstream.mm.needs")
importlib.import_module("evalkit.downstream.mm.backbone")
UPERNET, MASK = "upernet_r50_4xb4-160k_ade20k-512x512", "mask-rcnn_r50_fpn_1x_coco"


def source(model, **args):
    return resolve(model, model=None, model_args=args, weights=None, random=True, label=None)


def register(scope):
    importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=True)


# ---- found and read


def test_configs_are_found_by_name_folder_and_file(tmp_path):
    by_name = stock.find(UPERNET, "mmseg")
    assert stock.find(f"upernet/{UPERNET}", "mmseg") == stock.find(f"{UPERNET}.py", "mmseg") == by_name
    (tmp_path / "mine.py").write_text("_base_ = []")
    assert stock.find(str(tmp_path / "mine.py"), "mmseg") == tmp_path / "mine.py"
    with pytest.raises(
        EvalkitError, match="unknown mmdet config 'mask-rcnn_r50_fpn_1x_cocoo'.*mask-rcnn_r50_fpn_1x_coco"
    ):
        stock.find("mask-rcnn_r50_fpn_1x_cocoo", "mmdet")
    with pytest.raises(EvalkitError, match="is no file"):
        stock.find(str(tmp_path), "mmseg")
    with pytest.raises(EvalkitError, match="unknown mmseg config"):
        stock.find(MASK, "mmseg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = dict(", "is no config that mmengine reads .SyntaxError"),
        ("_base_ = './gone.py'", "is no config that mmengine reads"),
        ("model = dict(type='X')", "has no train_dataloader"),
        (
            "import os\nmodel = optim_wrapper = param_scheduler = test_dataloader = train_dataloader = dict()",
            "no backbone",
        ),
    ],
)
def test_what_is_no_config_is_one_line(tmp_path, text, words):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(EvalkitError, match=words) as e:
        stock.read(str(tmp_path / "bad.py"), "mmseg")
    assert "\n" not in str(e.value)


def test_weights_on_the_net_are_taken_out_and_said():
    config, notes = stock.read(UPERNET, "mmseg")
    assert config["model"]["pretrained"] is None
    assert notes == ["weights that the config names are not fetched: pretrained (open-mmlab://resnet50_v1c)"]
    config, notes = stock.read("retinanet_pvt-s_fpn_1x_coco", "mmdet")
    assert config["model"]["backbone"]["init_cfg"] is None and "pvt_small.pth" in notes[0]


def test_mmpretrain_goes_with_its_backbone():
    config, notes = stock.read("convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512", "mmseg")
    assert "left out with its backbone: mmpretrain.models" in notes and "custom_imports" not in config
    register("mmseg")
    plug.replace_backbone(config["model"], source("pvt_nano"), "mmseg", crop=None, drop_path=None)
    assert config["model"]["decode_head"]["in_channels"] == source("pvt_nano").channels


def test_kept_configs_are_literals_that_run_nothing(tmp_path):
    config, _ = stock.read(MASK, "mmdet")
    path = tmp_path / "kept.txt"
    path.write_text(stock.dump(config))
    again = stock.load(path)
    assert again == config and isinstance(again["train_dataloader"]["dataset"]["pipeline"][2]["scale"], tuple)
    path.write_text(stock.dump(stock.read("mask2former_r50_8xb2-160k_ade20k-512x512", "mmseg")[0]))
    assert stock.load(path)["custom_imports"] == ["mmdet.models"]  # of the two packages is no foreign code
    for change, words in (
        ({"custom_imports": ["os"]}, "imports os.*--resume DIR config=FILE"),
        ({"optim_wrapper": {"type": "os.system"}}, "names code by its path"),
        ({"model": config["model"] | {"backbone": {"type": "os.system"}}}, "names code by its path"),
    ):
        path.write_text(repr(config | change))
        with pytest.raises(EvalkitError, match=words):
            stock.load(path)
    path.write_text("__import__('os').system('true')")
    with pytest.raises(EvalkitError, match="missing or damaged"):
        stock.load(path)
    with pytest.raises(EvalkitError, match="holds more than numbers"):
        stock.dump({"model": object()})


# ---- our backbone in its place


@pytest.mark.parametrize(
    ("scope", "config", "model", "args"),
    [
        ("mmseg", UPERNET, "vit_tiny_patch16_224", {"depth": 4}),
        ("mmseg", "deeplabv3plus_r101-d8_4xb4-40k_pascal-context-480x480", "resnet18", {}),
        ("mmseg", "fpn_r50_4xb4-160k_ade20k-512x512", "convnext_atto", {}),
        pytest.param(*("mmseg", "beit-base_upernet_8xb2-160k_ade20k-640x640", "pvt_nano", {}), marks=pytest.mark.slow),
        ("mmdet", "yolox_s_8xb8-300e_coco", "resnet18", {}),
        ("mmdet", "retinanet_r50_fpn_1x_coco", "vit_tiny_patch16_224", {"depth": 4}),
    ],
)
def test_maps_have_the_channels_and_strides_that_are_read(scope, config, model, args):
    """The maps of the built backbone against what the config's own backbone gave."""
    register(scope)
    content, _ = stock.read(config, scope)
    old = plug._maps(content["model"]["backbone"], content["model"], scope)
    plug.replace_backbone(content["model"], source(model, **args), scope, crop=None, drop_path=None)
    part = {k: v for k, v in content["model"]["backbone"].items() if k != "type"}
    maps = importlib.import_module("evalkit.downstream.mm.backbone").EvalkitTimmBackbone(**part)(
        torch.zeros(1, 3, 64, 96)
    )
    flat = [16] * 4
    assert [64 // m.shape[2] for m in maps] == (old.strides if old.strides != flat else [4, 8, 16, 32])
    reader = plug._readers(content["model"])[0]
    if isinstance(reader["in_channels"], list | tuple):
        assert list(reader["in_channels"]) == [m.shape[1] for m in maps][-len(reader["in_channels"]) :]
    else:
        assert reader["in_channels"] == maps[reader.get("in_index", -1)].shape[1]


def test_what_cannot_be_put_in_is_said():
    register("mmseg")
    content, _ = stock.read("segmenter_vit-s_mask_8xb1-160k_ade20k-512x512", "mmseg")
    with pytest.raises(EvalkitError, match="no list of maps|stride"):
        plug.replace_backbone(content["model"], source("resnet10_cifar"), "mmseg", crop=None, drop_path=None)
    content, notes = stock.read("fcn_r50-d8_4xb4-80k_ade20k-512x512", "mmseg")
    notes = plug.replace_backbone(content["model"], source("pvt_nano"), "mmseg", crop=None, drop_path=None)
    assert any(
        "cannot be dilated: its maps have strides 4, 8, 16, 32 where those of the config have 4, 8, 8, 8" in n
        for n in notes
    )


def test_frozen_stages_are_taken_over_for_a_resnet_with_weights(tmp_path):
    from evalkit import models

    register("mmdet")
    torch.save(models.create("resnet18", num_classes=3).model.state_dict(), tmp_path / "w.pth")
    loaded = resolve(str(tmp_path / "w.pth"), model="resnet18", model_args={}, weights=None, random=False, label=None)
    for given, expected in (
        (loaded, (1, True)),
        (source("resnet18"), (None, None)),
        (source("pvt_nano"), (None, None)),
    ):
        content, _ = stock.read(MASK, "mmdet")
        plug.replace_backbone(content["model"], given, "mmdet", crop=None, drop_path=None)
        part = content["model"]["backbone"]
        assert (part.get("freeze"), part.get("freeze_statistics")) == expected


def test_classes_and_normalisation():
    content, _ = stock.read("mask2former_r50_8xb2-160k_ade20k-512x512", "mmseg")
    model = content["model"]
    assert needs.set_classes(model, 7) == []
    assert model["decode_head"]["num_classes"] == 7 and model["decode_head"]["loss_cls"]["class_weight"] == [
        1.0
    ] * 7 + [0.1]
    assert needs.set_normalisation(model, source("resnet18")) == []
    other = source("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert "not as the config says" in needs.set_normalisation(model, other)[0]
    assert model["data_preprocessor"]["mean"] == [127.5] * 3
    assert needs.one_process({"a": [{"norm": {"type": "SyncBN"}}]}, several=False)
    with pytest.raises(EvalkitError, match="panoptic"):
        needs.set_classes(stock.read("mask2former_r50_8xb2-lsj-50e_coco-panoptic", "mmdet")[0]["model"], 3)
