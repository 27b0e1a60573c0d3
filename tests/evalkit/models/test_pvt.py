"""PVT v1: the published sizes, key names and epsilons, and a forward pass written out again from the paper's
equations."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models import create
from evalkit.models.pvt import PyramidVisionTransformer, checkpoint_filter_fn


@pytest.mark.parametrize(
    ("name", "millions"), [("pvt_tiny", 13.23), ("pvt_small", 24.49), ("pvt_medium", 44.21), ("pvt_large", 61.37)]
)
def test_parameter_counts(name, millions):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_224_pixels():
    model = timm.create_model("pvt_tiny").eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(x)
        assert [tuple(m.shape[1:]) for m in maps] == [(64, 56, 56), (128, 28, 28), (320, 14, 14), (512, 7, 7)]
        assert tokens.shape == (1, 50, 512)
        assert torch.equal(model.forward_head(tokens), model(x))
    assert [i["reduction"] for i in model.feature_info] == [4, 8, 16, 32]


@pytest.fixture(scope="module", name="model")
def _model():
    torch.manual_seed(0)
    model = PyramidVisionTransformer((1, 1, 1, 2), num_classes=6, img_size=64).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model


def reference(s, x, class_token=True):
    """Tokens and maps of a state dict `s`, from the equations: one matrix product per head, no fused kernel, no module
    of ours."""
    maps, heads, reductions, depths = [], (1, 2, 5, 8), (8, 4, 2, 1), (1, 1, 1, 2)

    def linear(name, v):
        return v @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def norm(name, v, eps):
        return F.layer_norm(v, v.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)

    for i in range(4):
        p = f"patch_embed{i + 1}"
        x = F.conv2d(x, s[f"{p}.proj.weight"], s[f"{p}.proj.bias"], stride=4 if i == 0 else 2)
        h, w = x.shape[2:]
        x = norm(f"{p}.norm", x.flatten(2).mT, 1e-5)
        pos, side, cls = s[f"pos_embed{i + 1}"], 64 // (4 * 2**i), int(i == 3)
        grid = F.interpolate(pos[:, cls:].mT.reshape(1, -1, side, side), size=(h, w), mode="bilinear").flatten(2).mT
        x = x + grid
        if i == 3 and class_token:
            x = torch.cat([(s["cls_token"] + pos[:, :1]).expand(len(x), -1, -1), x], 1)
        for j in range(depths[i]):
            b = f"block{i + 1}.{j}"
            u = norm(f"{b}.norm1", x, 1e-6)
            z = u
            if reductions[i] > 1:
                z = F.conv2d(
                    u.mT.reshape(len(u), -1, h, w),
                    s[f"{b}.attn.sr.weight"],
                    s[f"{b}.attn.sr.bias"],
                    stride=reductions[i],
                )
                z = norm(f"{b}.attn.norm", z.flatten(2).mT, 1e-5)
            q, kv = linear(f"{b}.attn.q", u), linear(f"{b}.attn.kv", z)
            dim = q.shape[-1]
            d, out = dim // heads[i], []
            for a in range(0, dim, d):
                k, v = kv[..., a : a + d], kv[..., dim + a : dim + a + d]
                out.append(torch.softmax(q[..., a : a + d] @ k.mT / d**0.5, -1) @ v)
            x = x + linear(f"{b}.attn.proj", torch.cat(out, -1))
            x = x + linear(f"{b}.mlp.fc2", F.gelu(linear(f"{b}.mlp.fc1", norm(f"{b}.norm2", x, 1e-6))))
        if i < 3 or not class_token:
            maps.append(x.mT.reshape(len(x), -1, h, w))
            x = maps[-1]
    return (norm("norm", x, 1e-6) if class_token else None), maps


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (128, 160)])
def test_equals_the_equations_at_any_size(model, size):
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(x)
        state = model.state_dict()
        torch.testing.assert_close(model.forward_features(x), reference(state, x)[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(tokens, reference(state, x)[0], atol=2e-5, rtol=1e-4)
        for got, want in zip(maps, reference(state, x, class_token=False)[1], strict=True):
            torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_intermediates_as_timm_asks_for_them(model):
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = model.forward_intermediates(x, intermediates_only=True)
        assert torch.equal(model.forward_intermediates(x, indices=1, intermediates_only=True)[0], maps[3])
        early = model.forward_intermediates(x, indices=[0, -3], stop_early=True, intermediates_only=True)
        assert len(early) == 2 and torch.equal(early[0], maps[0]) and torch.equal(early[1], maps[1])
        normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
        torch.testing.assert_close(normed[3], model.norm(maps[3].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(normed[:3], maps))
        pyramid = timm.create_model("pvt_tiny", features_only=True).eval()
        assert [m.shape[1:] for m in pyramid(x)] == [m.shape[1:] for m in maps]
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_official_key_names():
    keys = set(timm.create_model("pvt_tiny", num_classes=2).state_dict())
    official = {
        "cls_token",
        "pos_embed1",
        "pos_embed4",
        "patch_embed2.proj.weight",
        "patch_embed3.norm.bias",
        "norm.weight",
        "head.bias",
    }
    official |= {
        f"block1.1.{k}"
        for k in (
            "norm1.weight",
            "attn.q.bias",
            "attn.kv.weight",
            "attn.proj.weight",
            "attn.sr.weight",
            "attn.norm.bias",
        )
    }
    official |= {"block4.0.mlp.fc1.weight", "block4.1.mlp.fc2.bias", "block4.0.norm2.bias"}
    assert official <= keys and "block4.0.attn.sr.weight" not in keys
    # token, positions, norm, head, embeddings, blocks, reductions
    assert len(keys) == 1 + 4 + 2 + 2 + 4 * 4 + 8 * 14 + 6 * 4


def test_positions_of_a_checkpoint_follow_the_image_size(model):
    state = checkpoint_filter_fn(model.state_dict(), PyramidVisionTransformer((1, 1, 1, 2), num_classes=6, img_size=96))
    assert [state[f"pos_embed{i}"].shape[1] for i in (1, 2, 3, 4)] == [576, 144, 36, 10]
    want = F.interpolate(model.pos_embed1.mT.reshape(1, 64, 16, 16), size=(24, 24), mode="bilinear").flatten(2).mT
    torch.testing.assert_close(state["pos_embed1"], want.detach())
    assert torch.equal(state["pos_embed4"][:, 0], model.pos_embed4[:, 0])


def test_positions_made_for_a_non_square_size():
    model = PyramidVisionTransformer((1, 1, 1, 1), num_classes=2, img_size=(64, 128)).eval()
    seen = {}
    model.block1[0].register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    x = torch.zeros(1, 3, 128, 64)
    with torch.no_grad():
        model(x)
        want = F.interpolate(model.pos_embed1.mT.reshape(1, 64, 16, 32), size=(32, 16), mode="bilinear").flatten(2).mT
        torch.testing.assert_close(seen["x"] - model.patch_embed1(x)[0], want, atol=1e-6, rtol=0)


def test_epsilons_and_classifier(model):
    eps = {n: m.eps for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    assert {e for n, e in eps.items() if "patch_embed" in n or n.endswith("attn.norm")} == {1e-5}
    assert {e for n, e in eps.items() if "norm1" in n or "norm2" in n or n == "norm"} == {1e-6}
    net = create("pvt_tiny", num_classes=3).model.train()
    assert net.get_classifier().out_features == 3
    net.reset_classifier(0)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 512)
    net.reset_classifier(4)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 4) and net.num_classes == 4
    with pytest.raises(ValueError, match="global_pool"):
        net.reset_classifier(4, global_pool="avg")


def test_gradient_checkpointing_and_drop_path():
    model = PyramidVisionTransformer((1, 1, 1, 1), num_classes=2, img_size=32, drop_path_rate=0.3)
    rates = [getattr(getattr(model, f"block{i}")[0].drop_path, "drop_prob", 0.0) for i in (1, 2, 3, 4)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    x, grads = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
