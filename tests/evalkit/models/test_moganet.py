"""MogaNet: the published size and key names, and a forward pass written out again from the paper's equations."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evalkit.models import create
from evalkit.models.moganet import MogaNet

DIMS, RATIOS = (8, 16, 24, 32), (2, 2, 1, 1)


def test_size():
    """5.20 M parameters and 1.10 G multiply-adds at 224 pixels are published; convolutions and the head alone are 1.083
    G."""
    model = timm.create_model("moganet_tiny").eval().requires_grad_(False)
    assert sum(p.numel() for p in model.parameters()) == 5_197_332
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert counter.get_total_flops() / 2e9 == pytest.approx(1.10, rel=0.02)


@pytest.fixture(scope="module", name="model")
def _model():
    torch.manual_seed(0)
    model = MogaNet((1, 1, 2, 1), DIMS, RATIOS, num_classes=6)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def reference(s, x):
    """Logits and maps of a state dict `s`, from the equations."""

    def conv(name, v, **kwargs):
        return F.conv2d(v, s[f"{name}.weight"], s[f"{name}.bias"], **kwargs)

    def norm(name, v):
        shape = (1, -1, 1, 1)
        scale = s[f"{name}.weight"] / (s[f"{name}.running_var"] + 1e-5).sqrt()
        return (v - s[f"{name}.running_mean"].view(shape)) * scale.view(shape) + s[f"{name}.bias"].view(shape)

    def depthwise(name, v, dilation=1):
        kernel = s[f"{name}.weight"].shape[-1]
        return conv(name, F.pad(v, [(kernel - 1) * dilation // 2] * 4), dilation=dilation, groups=v.shape[1])

    maps = []
    for i, depth in enumerate((1, 1, 2, 1)):
        p = f"patch_embed{i + 1}"
        if i == 0:
            x = F.gelu(norm(f"{p}.projection.1", conv(f"{p}.projection.0", x, stride=2, padding=1)))
            x = norm(f"{p}.projection.4", conv(f"{p}.projection.3", x, stride=2, padding=1))
        else:
            x = norm(f"{p}.norm", conv(f"{p}.projection", x, stride=2, padding=1))
        one, four = DIMS[i] // 8, DIMS[i] // 2
        for j in range(depth):
            b = f"blocks{i + 1}.{j}"
            u = norm(f"{b}.norm1", x)
            y = conv(f"{b}.attn.proj_1", u)
            z = F.silu(y + s[f"{b}.attn.sigma.scale"] * (y - y.mean((2, 3), keepdim=True)))
            c = depthwise(f"{b}.attn.value.DW_conv0", z)
            c = [
                c[:, :one],
                depthwise(f"{b}.attn.value.DW_conv1", c[:, one:-four], 2),
                depthwise(f"{b}.attn.value.DW_conv2", c[:, -four:], 3),
            ]
            c = conv(f"{b}.attn.value.PW_conv", torch.cat(c, 1))
            x = x + s[f"{b}.layer_scale_1"] * (
                u + conv(f"{b}.attn.proj_2", F.silu(conv(f"{b}.attn.gate", z)) * F.silu(c))
            )
            y = F.gelu(depthwise(f"{b}.mlp.dwconv", conv(f"{b}.mlp.fc1", norm(f"{b}.norm2", x))))
            y = y + s[f"{b}.mlp.sigma.scale"] * (y - F.gelu(conv(f"{b}.mlp.decompose", y)))
            x = x + s[f"{b}.layer_scale_2"] * conv(f"{b}.mlp.fc2", y)
        x = norm(f"norm{i + 1}", x)
        maps.append(x)
    return x.mean((2, 3)) @ s["head.weight"].T + s["head.bias"], maps


@pytest.mark.parametrize("size", [(64, 64), (40, 96)])
def test_equals_the_equations(model, size):
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, maps = reference(model.state_dict(), x)
        torch.testing.assert_close(model(x), logits, atol=1e-4, rtol=1e-4)
        features, got = model.forward_intermediates(x)
        for a, b in zip(got, maps, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert torch.equal(features, got[-1]) and torch.equal(features, model.forward_features(x))
        assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((2, 3)))


def test_official_key_names_and_stages():
    model = timm.create_model("moganet_tiny")
    keys = set(model.state_dict())
    official = {
        "patch_embed1.projection.0.weight",
        "patch_embed1.projection.4.running_var",
        "patch_embed2.projection.bias",
        "patch_embed4.norm.weight",
    }
    official |= {
        f"blocks3.11.{k}"
        for k in ("norm1.weight", "attn.proj_1.weight", "attn.gate.bias", "attn.value.DW_conv0.weight", "layer_scale_1")
    }
    official |= {
        f"blocks4.1.{k}"
        for k in ("attn.value.DW_conv2.bias", "attn.value.PW_conv.weight", "attn.sigma.scale", "attn.proj_2.weight")
    }
    official |= {
        f"blocks1.2.{k}"
        for k in (
            "mlp.fc1.weight",
            "mlp.dwconv.weight",
            "mlp.decompose.bias",
            "mlp.sigma.scale",
            "mlp.fc2.bias",
            "layer_scale_2",
        )
    }
    assert official | {"norm1.weight", "norm4.num_batches_tracked", "head.weight"} <= keys
    assert len(keys) == 2 + 4 * 5 + 4 * 7 + 7 + 20 * 36  # head, norms, embeddings, the stem's second pair, blocks
    assert [(i["num_chs"], i["reduction"]) for i in model.feature_info] == [(32, 4), (64, 8), (128, 16), (256, 32)]
    assert model.blocks1[0].attn.value.split == (4, 12, 16) and model.blocks3[0].mlp.fc1.out_channels == 512


def test_intermediates_as_timm_asks_for_them(model):
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
        assert torch.equal(model.forward_intermediates(x, indices=1, intermediates_only=True)[0], maps[3])
        early = model.forward_intermediates(x, indices=[0, -3], stop_early=True, intermediates_only=True)
        assert len(early) == 2 and torch.equal(early[0], maps[0]) and torch.equal(early[1], maps[1])
        pyramid = timm.create_model("moganet_tiny", features_only=True).eval()
        assert [tuple(m.shape[1:]) for m in pyramid(x)] == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_initialisation():
    model = MogaNet((1, 1, 1, 1), (32, 64, 128, 256), num_classes=10)
    block = model.blocks3[0]
    for scale in (block.layer_scale_1, block.layer_scale_2, block.attn.sigma.scale, block.mlp.sigma.scale):
        assert scale.flatten().tolist() == pytest.approx([1e-5] * scale.numel())
    assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    # fan-out of one of its 64 groups
    assert block.attn.value.DW_conv2.weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_gradients_reach_all_parameters_with_and_without_checkpointing():
    model = MogaNet((1, 1, 1, 1), DIMS, RATIOS, num_classes=2, drop_path_rate=0.3)
    rates = [getattr(getattr(model, f"blocks{i}")[0].drop_path, "drop_prob", 0.0) for i in (1, 2, 3, 4)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    x, grads = torch.randn(4, 3, 32, 32), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True)) and all(
        g is not None and g.isfinite().all() for g in grads[0]
    )


def test_classifier():
    net = create("moganet_tiny", num_classes=3, depths=(1, 1, 1, 1))
    assert net.model.get_classifier().out_features == 3 and net.patch_size is None
    assert net.feature_map(torch.randn(1, 3, 64, 64)).shape == (1, 256, 2, 2)
    net.model.reset_classifier(0)
    assert net.model(torch.randn(2, 3, 32, 32)).shape == (2, 256)
    net.model.reset_classifier(4)
    assert net.model(torch.randn(2, 3, 32, 32)).shape == (2, 4) and net.model.num_classes == 4
    with pytest.raises(ValueError, match="global_pool"):
        net.model.reset_classifier(4, global_pool="max")
