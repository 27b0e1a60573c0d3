"""Backbones with rescaled maps and frozen parts."""

import copy

import pytest
import torch
from timm.optim import param_groups_layer_decay

from evalkit.downstream.adapted import layers, rescaling
from evalkit.downstream.backbone import AdaptedBackbone
from evalkit.errors import EvalkitError

VIT = ("vit_nano_patch4_32", None)


def test_a_plain_vit_gets_a_pyramid():
    made = AdaptedBackbone("vit_tiny_patch16_224", 64, [0, 1, 2, 3], True, {"depth": 4}, strides=[4, 8, 16, 32])
    assert [tuple(m.shape) for m in made(torch.zeros(2, 3, 64, 96))] == [
        *((2, 192, 16, 24), (2, 192, 8, 12), (2, 192, 4, 6), (2, 192, 2, 3))
    ]
    assert isinstance(rescaling(8, 16, 16), torch.nn.Identity)
    up, x = rescaling(8, 16, 8), torch.randn(1, 8, 3, 3)
    expected = torch.nn.functional.conv_transpose2d(x, up[0].weight, up[0].bias, stride=2)
    assert torch.equal(up(x), expected)
    assert torch.equal(
        rescaling(8, 4, 16)(x.repeat(1, 1, 4, 4)), torch.nn.functional.max_pool2d(x.repeat(1, 1, 4, 4), 4)
    )


@pytest.mark.parametrize(
    ("model", "args", "freeze", "kept"),
    [
        ("resnet18", {}, 0, ("conv1.", "bn1.")),
        ("resnet18", {}, 1, ("conv1.", "bn1.", "layer1.")),
        ("resnet18", {}, "all", ("",)),
        ("pvt_nano", {}, 1, ("patch_embed1.", "pos_embed1", "block1.")),
        ("vit_nano_patch4_32", {"depth": 2}, 1, ("cls_token", "pos_embed", "patch_embed.", "blocks.0.")),
    ],
)
def test_what_is_frozen_does_not_change_by_a_byte(model, args, freeze, kept):
    """Neither by gradients and weight decay nor by the statistics of what passes."""
    torch.manual_seed(0)
    made = AdaptedBackbone(model, None, [0, 1], False, args | {"drop_path_rate": 0.5}, freeze=freeze)
    before = copy.deepcopy(made.model.state_dict())
    learned = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned or [torch.zeros(1)], lr=0.1, weight_decay=0.1)
    made.train()
    for _ in range(2):
        loss = sum(m.square().mean() for m in made(torch.randn(2, 3, 64, 64)))
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
    changed = {k for k, v in made.model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith(kept)}
    assert frozen and not changed & frozen and (freeze == "all" or changed)
    x = torch.randn(1, 3, 64, 64)
    if freeze == "all":  # stochastic depth is frozen too
        assert torch.equal(made(x)[1], made(x)[1])


def test_more_stages_than_there_are():
    with pytest.raises(EvalkitError, match="freeze_stages=9, but model 'ResNet' has 4 stages"):
        AdaptedBackbone("resnet18", None, [0], freeze=9)
    with pytest.raises(EvalkitError, match="does not say which layers it has"):
        layers(torch.nn.Linear(1, 1), "mine")


@pytest.mark.parametrize("model", ["pvt_nano", "resnet18", "vit_nano_patch4_32", "convnext_atto"])
def test_layers_are_those_of_timms_layer_decay(model):
    network = AdaptedBackbone(model, None, [0]).model
    for p in network.parameters():
        p.requires_grad_(True)
    place = layers(network, model)
    scale = {id(p): g["lr_scale"] for g in param_groups_layer_decay(network, layer_decay=0.5) for p in g["params"]}
    top = max(place.values())
    assert all(scale[id(p)] == 0.5 ** (top - place[n]) for n, p in network.named_parameters())
