"""What a network starts from: a head for other classes is left out, and what a reader must know is said."""

import json

import pytest
import torch
from safetensors.torch import save_file

from evalkit import config, models
from evalkit.train.config import TrainConfig
from evalkit.train.network import make_network
from tests.bad_inputs.make import ARGS, NAME, run_folder


def started(init, classes, *words):
    said: list[str] = []
    cfg = config.load(
        TrainConfig, "digits", [f"init={init}", "model_args={depth: 1, embed_dim: 32, num_heads: 2}", *words]
    )
    return make_network(cfg, len(classes), said, classes).model.state_dict(), said


def own(init):
    return models.load(str(init)).network.model.state_dict()


def test_the_head_is_that_of_the_same_classes(tmp_path):
    run_folder(tmp_path, ["cat", "dog"])
    found, said = started(tmp_path, ["cat", "dog"])
    assert all(torch.equal(v, own(tmp_path)[k]) for k, v in found.items()) and said == []


@pytest.mark.parametrize("classes", [["dog", "cat"], ["cat", "fox"], ["cat", "dog", "fox"]])
def test_a_head_for_other_classes_is_left_out_and_said(tmp_path, classes):
    run_folder(tmp_path, ["cat", "dog"])
    found, said = started(tmp_path, classes)
    assert torch.equal(found["norm.weight"], own(tmp_path)["norm.weight"])
    assert found["head.weight"].shape != (2, 32) or not torch.equal(found["head.weight"], own(tmp_path)["head.weight"])
    assert len(said) == 1 and "its head of 2 classes" in said[0] and "was left out" in said[0]


def test_a_file_without_names_keeps_its_head_and_it_is_said(tmp_path):
    torch.save(models.create(NAME, num_classes=2, **ARGS).model.state_dict(), tmp_path / "w.pth")
    _, said = started(tmp_path / "w.pth", ["cat", "dog"], f"model={NAME}")
    assert "as timm does for vit_nano_patch4_32, mean 0.485, 0.456, 0.406" in said[0]
    assert "its head is kept, though the file does not name its classes" in said[1]


def test_another_normalisation_is_said_or_kept(tmp_path):
    save_file(models.create(NAME, num_classes=2, **ARGS).model.state_dict(), tmp_path / "model.safetensors")
    about = {"architecture": NAME, "num_classes": 2, "model_args": ARGS, "label_names": ["cat", "dog"]}
    (tmp_path / "config.json").write_text(json.dumps(about | {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    _, said = started(tmp_path, ["cat", "dog"], f"model={NAME}")
    assert "normalised otherwise" in said[0]
    cfg = config.load(TrainConfig, "digits", [f"init={tmp_path}", "model=null"])
    assert cfg.model == NAME and make_network(cfg, 2).mean == (0.5, 0.5, 0.5)
