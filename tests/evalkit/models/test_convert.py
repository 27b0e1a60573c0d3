"""Weights under the names of other code bases give the same network, and say what was renamed."""

import re

import pytest
import torch

from evalkit.errors import EvalkitError
from evalkit.models import create, load

VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32, "num_classes": 3}


def mm_transformer(name: str) -> str:
    """The name in mmcls's VisionTransformer with VisionTransformerClsHead of a parameter of timm's, written out from
    its modules."""
    table = {
        "cls_token": "backbone.cls_token",
        "pos_embed": "backbone.pos_embed",
        "patch_embed.proj.weight": "backbone.patch_embed.projection.weight",
        "patch_embed.proj.bias": "backbone.patch_embed.projection.bias",
        "norm.weight": "backbone.ln1.weight",
        "norm.bias": "backbone.ln1.bias",
        "head.weight": "head.layers.head.weight",
        "head.bias": "head.layers.head.bias",
    }
    inside = {
        "norm1": "ln1",
        "norm2": "ln2",
        "attn.qkv": "attn.qkv",
        "attn.proj": "attn.proj",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
    }
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        return f"backbone.layers.{found[1]}.{inside[found[2]]}.{found[3]}"
    return table[name]


def weights(name, **args):
    """A state dict without two tensors alike: an untrained network's norms all are."""
    torch.manual_seed(0)
    return {
        k: (torch.rand_like(v) + 0.5 if k.endswith("running_var") else torch.randn_like(v))
        if v.is_floating_point()
        else v
        for k, v in create(name, **args).model.state_dict().items()
    }


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"meta": {"epoch": 9}, "state_dict": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        dict,
    ],
)
def test_a_vision_transformer_of_openmixup(tmp_path, wrap):
    state = weights("deit_small_patch16_224", **VIT)
    torch.save(wrap({mm_transformer(k): v for k, v in state.items()}), tmp_path / "w.pth")
    loaded = load(
        tmp_path / "w.pth",
        model="deit_small_patch16_224",
        model_args={k: v for k, v in VIT.items() if k != "num_classes"},
    )
    assert equal(state, loaded.network.model.state_dict()) and loaded.network.num_classes == 3
    assert len(loaded.report["renamed"]) == len(state) and loaded.report["unexpected"] == []
    assert "backbone.layers.1.ffn.layers.0.0.bias -> blocks.1.mlp.fc1.bias" in loaded.report["renamed"]


def test_a_residual_network_of_openmixup(tmp_path):
    state = weights("resnet18", num_classes=4)
    torch.save(
        {"state_dict": {f"head.{k}" if k.startswith("fc.") else f"backbone.{k}": v for k, v in state.items()}},
        tmp_path / "w.pth",
    )
    loaded = load(tmp_path / "w.pth", model="resnet18")
    assert equal(state, loaded.network.model.state_dict()) and "head.fc.weight -> fc.weight" in loaded.report["renamed"]


def test_what_else_the_file_holds_is_reported_and_what_it_lacks_refused(tmp_path):
    state = {mm_transformer(k): v for k, v in weights("deit_small_patch16_224", **VIT).items()}
    args = {"model": "deit_small_patch16_224", "model_args": {k: v for k, v in VIT.items() if k != "num_classes"}}
    torch.save(state | {"backbone.extra": torch.zeros(1), "mix_block.conv.weight": torch.zeros(1)}, tmp_path / "w.pth")
    assert load(tmp_path / "w.pth", **args).report["unexpected"] == ["extra", "mix_block.conv.weight"]
    torch.save({k: v for k, v in state.items() if "ln2" not in k}, tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match=r"lacks 4 tensors \(blocks.0.norm2.bias"):
        load(tmp_path / "w.pth", **args)


def test_other_files_are_left_as_they_are(tmp_path):
    state = weights("resnet18", num_classes=4)
    torch.save({"model": state}, tmp_path / "w.pth")
    assert not load(tmp_path / "w.pth", model="resnet18").report["renamed"]
    # two for one place
    torch.save({"state_dict": state | {f"backbone.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="twice, as it is and behind 'backbone.'"):
        load(tmp_path / "w.pth", model="resnet18")


EFFICIENTNETS = ["tf_efficientnet_lite0", "tf_efficientnet_b0", "tf_efficientnet_b1"]


def lukemelas(model):
    """Name in EfficientNet-PyTorch -> timm's, written out from its modules in the order in which they are made."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    outside = [("_conv_stem", "conv_stem"), ("_bn0", "bn1"), ("_conv_head", "conv_head"), ("_bn1", "bn2")]
    table = {f"{a}.{last}": f"{b}.{last}" for a, b in [*outside, ("_fc", "classifier")] for last in norm}
    number = 0
    for s, stage in enumerate(model.blocks):
        for b, block in enumerate(stage):
            ours = [name for name, _ in block.named_children() if name.startswith(("conv", "bn"))]
            first = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            theirs = first if len(ours) == 4 else ["_expand_conv", "_bn0", *first]
            pairs = [*zip(theirs, ours), ("_se_reduce", "se.conv_reduce"), ("_se_expand", "se.conv_expand")]
            table |= {f"_blocks.{number}.{a}.{last}": f"blocks.{s}.{b}.{c}.{last}" for a, c in pairs for last in norm}
            number += 1
    return table


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_efficientnets_of_lukemelas_load_under_timms_names(name, tmp_path):
    own = weights(name, num_classes=5)
    table = lukemelas(create(name).model)
    theirs = {old: own[new] for old, new in table.items() if new in own}
    assert len(theirs) == len(own)
    torch.save(theirs, tmp_path / "w.pth")
    found = load(str(tmp_path / "w.pth"), model=name)
    assert equal(found.network.model.state_dict(), own) and len(found.report["renamed"]) == len(own)
    assert found.network.num_classes == 5
    for lost, message in (("_conv_head.weight", "lacks 1 tensors .conv_head.weight"), ("_fc.bias", "lacks 1 tensors")):
        torch.save({k: v for k, v in theirs.items() if k != lost}, tmp_path / "less.pth")
        with pytest.raises(EvalkitError, match=message):
            load(str(tmp_path / "less.pth"), model=name)


def test_efficientnets_of_another_size_are_refused(tmp_path):
    own, table = weights("tf_efficientnet_b0", num_classes=5), lukemelas(create("tf_efficientnet_b0").model)
    torch.save({old: own[new] for old, new in table.items() if new in own}, tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="does not fit model 'tf_efficientnet_b1': it lacks"):
        load(str(tmp_path / "w.pth"), model="tf_efficientnet_b1")


def test_efficientnets_that_pad_otherwise_are_refused(tmp_path):
    """The tensors would fit, and give other logits."""
    own, table = weights("tf_efficientnet_lite0", num_classes=5), lukemelas(create("tf_efficientnet_lite0").model)
    torch.save({old: own[new] for old, new in table.items() if new in own}, tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="pads as TensorFlow does; efficientnet_lite0 does not: give model=tf_"):
        load(str(tmp_path / "w.pth"), model="efficientnet_lite0")
