"""mm's own backbones with timm's weights, against timm's maps."""

import importlib
import importlib.util
import re

import numpy as np
import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from evalkit.downstream.backbone import build
from evalkit.downstream.stock_backbones import candidate, renamed
from evalkit.export.clean import TOLERANCE, apart

needs_mm = pytest.mark.skipif(
    importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed"
)
SAME = [
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, "mmseg"),
    ("resnet18", {}, "mmseg"),
    ("resnet50", {}, "mmdet"),
    ("resnext50_32x4d", {}, "mmdet"),
]
OTHER = [  # (model, arguments, scope, what says so: None: no candidate, else the beginning of it)
    ("vit_tiny_patch16_224", {"depth": 2}, "mmdet", None),
    ("deit_tiny_distilled_patch16_224", {"depth": 2}, "mmseg", None),
    ("vit_tiny_patch16_224", {"depth": 2, "init_values": 0.1}, "mmseg", "tensors"),
    ("vit_tiny_patch16_224", {"depth": 2, "no_embed_class": True}, "mmseg", "RuntimeError"),
    ("resnet50d", {}, "mmseg", "RuntimeError"),
    ("resnet18", {"act_layer": "silu"}, "mmdet", "maps"),
    ("pvt_tiny", {}, "mmdet", None),
    ("resnet10_cifar", {}, "mmdet", None),
]


@pytest.fixture(scope="module")
def tried():
    importlib.import_module("evalkit.downstream.mm").require("mmseg", "mmdet")
    return importlib.import_module("evalkit.downstream.mm.tried")


def made(name, args):
    """A network with weights and statistics that all differ."""
    torch.manual_seed(0)
    model = build(name, args, None).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model


@torch.no_grad()
def timms(model, stock, x):
    return model.forward_intermediates(x, indices=stock.indices, norm=stock.norm, intermediates_only=True)


@needs_mm
@pytest.mark.parametrize("name, args, scope", SAME)
def test_mms_own_backbone_gives_timms_maps(name, args, scope, tried):
    model, x = made(name, args), torch.randn(1, 3, 96, 128)
    stock = candidate(model, args.get("img_size", 224), scope)
    found = tried.stock_maps(stock, scope, x)
    expected = timms(model, stock, x)
    assert [m.shape for m in found] == [m.shape for m in expected]
    assert max(apart(a.numpy(), b.numpy()) for a, b in zip(expected, found)) <= TOLERANCE


@needs_mm
@pytest.mark.parametrize("name, args, scope, why", OTHER)
def test_another_function_is_seen(name, args, scope, why, tried):
    model, x = made(name, args), torch.randn(1, 3, 224, 256)
    stock = candidate(model, 224, scope)
    if why is None:
        assert stock is None
        return
    found = tried.stock_maps(stock, scope, x)
    if why == "maps":
        assert max(apart(a.numpy(), b.numpy()) for a, b in zip(timms(model, stock, x), found)) > TOLERANCE
    else:
        assert isinstance(found, str) and why in found


@needs_mm
@torch.no_grad()
@pytest.mark.parametrize("size, same", [((448, 448), True), ((96, 128), False)])
def test_mms_swin_is_another_function_where_windows_do_not_divide_a_map(size, same, tried):
    """mmdet's own converter for the weights; a network for 448 pixels, whose last stage shifts windows as mmdet's
    always does."""
    convert = importlib.import_module("mmdet.models.backbones.swin").swin_converter
    args = {"img_size": 448, "depths": (2, 2, 2, 2), "embed_dim": 24}
    model, x = made("swin_tiny_patch4_window7_224", args), torch.randn(1, 3, *size)
    assert candidate(model, 448, "mmdet") is None

    def official(name):  # timm's stages begin with the merging that ends the one before in the authors' code
        stage = re.match(r"layers\.(\d+)\.downsample", name)
        return name.replace(f"layers.{stage[1]}", f"layers.{int(stage[1]) - 1}", 1) if stage else name

    weights = {official(k): v for k, v in model.state_dict().items() if not k.startswith("norm.")}
    config = {"type": "mmdet.SwinTransformer", "embed_dims": 24, "depths": (2, 2, 2, 2), "drop_path_rate": 0.0}
    theirs = tried.register("mmdet").build(config)
    unused = theirs.load_state_dict({k.removeprefix("backbone."): v for k, v in convert(weights).items()}, strict=False)
    assert not unused.unexpected_keys
    theirs.eval()
    maps = model.forward_intermediates(x, intermediates_only=True)
    normed = [LayerNorm2d(m.shape[1], eps=1e-5)(m) for m in maps]  # as mmdet has it, without weights of its own
    found = [apart(a.numpy(), b.numpy()) for a, b in zip(normed, theirs(x), strict=True)]
    assert (max(found) <= TOLERANCE) is same and (same or min(found) > 100 * TOLERANCE)


def test_the_first_name_that_fits_counts():
    names = ((r"^a\.(\d)\.", r"b.\1."), (r"^a\.", "c."))
    assert list(renamed({"a.1.w": np.ones(1), "a.w": 0, "d": 0}, names)) == ["b.1.w", "c.w", "d"]
