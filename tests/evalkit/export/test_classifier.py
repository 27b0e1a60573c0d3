"""Classifiers as timm loads them. What the commands check themselves, in an interpreter without evalkit, is not tried
a second time here."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from evalkit import checkpoint, models, results
from evalkit.about import ACCURACY, EvalConfig
from evalkit.cli import invoke
from evalkit.data.transforms import EvalTransform
from evalkit.errors import EvalkitError
from evalkit.export import classifier, clean
from evalkit.records import DataUsed, Made, Numbers, Subject, make_record

CLASSES = [f"c{i}" for i in range(10)]


def run_of(folder, name, ema=False, **args):
    """A run of one checkpoint."""
    torch.manual_seed(0)
    network = models.create(name, num_classes=10, **args)
    state = network.model.state_dict()
    config = {"data": "folder", "image_size": 32, "eval_size": None, "eval_resize": 40, "interpolation": "bicubic"}
    meta = {
        **{"model": name, "model_args": args, "num_classes": 10, "classes": CLASSES, "label": "mine"},
        **{"method": "mixpro", "image_size": network.input_size[0], "config": config, "data": {"name": "photos"}},
    }
    averaged = {k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()} if ema else None
    checkpoint.save(folder, 1, state, averaged, {"step": 1}, meta)
    return folder


def test_what_cannot_be_exported_is_one_line(tmp_path):
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(EvalkitError, match="is the run of a transfer.*use --to mmseg or --to mmdet"):
        classifier.load(str(tmp_path), {})

    @timm.models.register_model
    def my_export_net(pretrained=False, **kwargs):
        return timm.create_model("test_vit", **kwargs)

    torch.save(my_export_net().state_dict(), tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="'my_export_net' is registered by 'tests', which an export cannot take"):
        classifier.load(str(tmp_path / "w.pth"), {"model": "my_export_net"})
    assert invoke(["export", "x.pth", "out", "--to", "onnx"])[1].startswith("unknown form 'onnx'")
    code, message = invoke(["export", str(tmp_path / "none.pth"), "out", "--to", "timm"])
    assert code == 1 and "no such checkpoint" in message


@pytest.mark.parametrize("size, resize", [(32, 40), (32, 36), (224, 256), (224, 248), (64, 64), (160, 183)])
def test_timm_prepares_images_as_the_run_does(size, resize, tmp_path):
    """Its own transform, from what the export says, against ours on a photograph of odd sides."""
    run = run_of(tmp_path / "run", "vit_nano_patch4_32", depth=1)
    loaded = classifier.load(str(run), {})
    loaded.network.input_size = (size, size)
    loaded.meta["config"] |= {"image_size": size, "eval_resize": resize}
    said = classifier.data_config(loaded)
    assert math.floor(size / said["crop_pct"]) == resize
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 263, 3), dtype=np.uint8))
    transform = timm.data.create_transform(**said)
    mean, std = (torch.tensor(said[k]).view(3, 1, 1) for k in ("mean", "std"))
    ours = (EvalTransform(size, resize, "bicubic")(image).float() / 255 - mean) / std
    assert torch.allclose(transform(image), ours, atol=1e-5)


def test_embedded_images_are_used_as_they_are(tmp_path):
    loaded = classifier.load(str(run_of(tmp_path / "run", "vit_nano_patch4_32", depth=1)), {})
    loaded.meta["config"] |= {"data": "digits-photo", "eval_resize": None}
    assert classifier.data_config(loaded)["crop_pct"] == 1.0


def test_what_timm_says_of_its_own_weights_is_not_said_of_ours(tmp_path):
    loaded = classifier.load(str(run_of(tmp_path / "run", "deit_tiny_patch16_224", img_size=32, depth=1)), {})
    classifier.write_weights(tmp_path, loaded, classifier.data_config(loaded))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "deit_tiny_patch16_224" and config["label_names"] == CLASSES
    assert config["model_args"]["img_size"] == [32, 32] and config["model_args"]["depth"] == 1
    assert not set(config["pretrained_cfg"]) & {"license", "tag", "origin_url", "paper_ids", "hf_hub_id", "url"}
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    kept = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(kept[k], v) for k, v in loaded.network.model.state_dict().items())


def test_what_is_left_behind_is_said(tmp_path):
    run = run_of(tmp_path / "run", "deit_tiny_distilled_patch16_224", ema=True, img_size=32, depth=1)
    said = "\n".join(classifier.remarks(classifier.load(str(run), {})))
    assert "the checkpoint's raw weights are left behind; weights=raw exports those" in said
    assert "two heads, of classes and of distillation; its logits are their mean" in said
    assert "the state of optimizer and mixup is left behind" in said and "class attention" in said
    raw = "\n".join(classifier.remarks(classifier.load(str(run), {"weights": "raw"})))
    assert "averaged weights (ema) are left behind; weights=ema exports those" in raw
    own = classifier.load(str(run_of(tmp_path / "pvt", "pvt_nano")), {})
    assert any("timm has no pvt_nano" in line for line in classifier.remarks(own))


def test_an_export_that_differs_leaves_nothing(tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", "vit_nano_patch4_32", depth=1)
    other = {"logits": np.zeros((2, 10), np.float32)}
    monkeypatch.setattr(clean, "run", lambda *args: [other])
    code, message = invoke(["export", str(run), str(tmp_path / "out"), "--to", "timm"])
    assert code == 1 and "the export's outputs differ from the checkpoint's by up to" in message
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, args, form",
    [
        ("pvt_nano", {}, "hf"),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 2}, "timm"),
    ],
)
def test_timm_as_it_is_gives_the_same_logits(name, args, form, tmp_path, capsys):
    run = run_of(tmp_path / "run", name, ema=True, **args)
    loaded = models.load(str(run))
    record = make_record(
        "eval",
        ACCURACY,
        Subject(name, "mixpro", "mine", loaded.sha256, "ema"),
        DataUsed("photos", "x:1", "val", False),
        Numbers(50, {"top1": 0.5, "top5": 0.9}),
        Made(EvalConfig(), {}, 1.0, True),
        published=False,
    )
    results.append(run, record)
    assert invoke(["export", str(run), str(tmp_path / "out"), "--to", form]) == (0, "")
    printed = capsys.readouterr().out
    assert "averaged weights (ema); timm alone gives the same logits, largest difference" in printed
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["largest_difference"] <= 1e-5 and about["weights"] == "ema" and about["source_sha256"] == loaded.sha256
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| accuracy | top-1 | 0.5000 | 50 | photos, val |" in text and "@inproceedings{zhao2023mixpro" in text
    assert text.startswith("---\n") is (form == "hf")
    # and evalkit reads its own export again
    again = models.load(str(tmp_path / "out"))
    assert again.classes == CLASSES
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.network(x).logits, loaded.network(x).logits)
