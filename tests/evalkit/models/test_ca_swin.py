"""CA-Swin: the published sizes, the class-attention block written out again from its equations, and plain Swin
weights."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from evalkit import models
from evalkit.models.ca_swin import ClassAttentionSwin, checkpoint_filter_fn

TINY = {"img_size": 56, "window_size": 7, "depths": (1, 2), "num_heads": (1, 2), "embed_dim": 16, "num_classes": 5}


def parameters(name):
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


@pytest.mark.parametrize(("size", "count"), [("tiny", 28_285_066), ("small", 49_602_970)])
def test_parameter_counts(size, count):
    """28.3 M and 49.6 M; the block has a plain Swin block's parameters without 13 x 13 x 24 biases by position, plus a
    token of 768."""
    name = f"swin_{size}_patch4_window7_224"
    assert parameters(f"ca_{name}") == count == parameters(name) - 13 * 13 * 24 + 768


@pytest.mark.parametrize(("size", "giga"), [("tiny", 4.205), ("small", 8.455)])
def test_multiply_adds(size, giga):
    model = timm.create_model(f"ca_swin_{size}_patch4_window7_224").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens = model.forward_features(torch.zeros(1, 3, 224, 224))
        model.forward_head(tokens)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=5e-4)
    assert tokens.shape == (1, 50, 768)


@pytest.fixture(name="model")
def _model():
    torch.manual_seed(0)
    model = ClassAttentionSwin(**TINY).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def reference(s, patches):
    """Class token after the block and the final norm of a state dict `s`, for patches (B, N, D), one matrix product per
    head."""

    def linear(name, v):
        return v @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def norm(name, v):
        return F.layer_norm(v, v.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-5)

    c = s["cls_token"].expand(len(patches), -1, -1)
    u = norm("class_block.norm1", torch.cat([c, patches], 1))
    q, k, v = (linear(f"class_block.attn.{n}", u) for n in "qkv")
    d = u.shape[-1] // 2
    heads = [torch.softmax(q[:, :1, h : h + d] @ k[..., h : h + d].mT / d**0.5, -1) @ v[..., h : h + d] for h in (0, d)]
    c = c + linear("class_block.attn.proj", torch.cat(heads, -1))
    c = c + linear("class_block.mlp.fc2", F.gelu(linear("class_block.mlp.fc1", norm("class_block.norm2", c))))
    return norm("norm", c)[:, 0]


def test_equals_the_equations(model):
    x = torch.randn(3, 3, 56, 56)
    with torch.no_grad():
        stages = model.layers(model.patch_embed(x))
        want = reference(model.state_dict(), stages.flatten(1, 2))
        torch.testing.assert_close(model.forward_features(x)[:, 0], want)
        torch.testing.assert_close(model(x), want @ model.head.fc.weight.T + model.head.fc.bias)
        assert torch.equal(
            model.forward_head(model.forward_features(x), pre_logits=True), model.forward_features(x)[:, 0]
        )


def test_the_stages_are_those_of_swin_without_the_replaced_block(model):
    swin = timm.models.swin_transformer.SwinTransformer(**TINY).eval()
    state = {k: v for k, v in model.state_dict().items() if k in swin.state_dict()}
    assert set(swin.state_dict()) - set(state) == {k for k in swin.state_dict() if k.startswith("layers.1.blocks.1.")}
    swin.load_state_dict(state, strict=False)
    seen = {}
    swin.layers[1].blocks[1].register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        swin(x)
        (last,) = model.forward_intermediates(x, indices=1, intermediates_only=True)
        assert torch.equal(last, seen["x"].permute(0, 3, 1, 2))


def test_maps_for_dense_tasks(model):
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        tokens, maps = model.forward_intermediates(x)
        assert torch.equal(tokens, model.forward_features(x))
        assert [tuple(m.shape[1:]) for m in maps] == [(16, 14, 14), (32, 7, 7)]
        assert [(i["num_chs"], i["reduction"]) for i in model.feature_info] == [(16, 4), (32, 8)]
        (first,) = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        assert torch.equal(first, maps[0])
        normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
        torch.testing.assert_close(normed[1], model.norm(maps[1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        assert torch.equal(normed[0], maps[0])
        torch.testing.assert_close(tokens[:, 1:].mT.reshape(normed[1].shape), normed[1])
        pyramid = timm.create_model("ca_swin_tiny_patch4_window7_224", features_only=True, out_indices=(0, 1), **TINY)
        assert [m.shape[1:] for m in pyramid(x)] == [m.shape[1:] for m in maps]
        unused = {n for n, _ in pyramid.named_parameters() if "class_block" in n or "cls_token" in n or "head" in n}
        assert not unused  # else distributed training of a detector would wait for their gradients
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


def plain_swin(old_names=False):
    swin = timm.models.swin_transformer.SwinTransformer(**TINY)
    state = swin.state_dict()
    if old_names:  # the authors' files: downsampling at the end of the stage before, a bare head, fixed buffers
        state = {
            k.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc.", "head."): v
            for k, v in state.items()
        }
        state |= {
            "layers.1.blocks.1.attn_mask": torch.zeros(1),
            "layers.1.blocks.1.attn.relative_position_index": torch.zeros(1),
        }
    return swin.state_dict(), {"model": state} if old_names else state


@pytest.mark.parametrize("old_names", [False, True])
def test_plain_swin_weights(model, old_names):
    swin, state = plain_swin(old_names)
    own_token = model.cls_token.detach().clone()
    assert not model.load_state_dict(checkpoint_filter_fn(state, model)).missing_keys
    got = model.state_dict()
    assert torch.equal(got["cls_token"], own_token)
    weight, bias = swin["layers.1.blocks.1.attn.qkv.weight"], swin["layers.1.blocks.1.attn.qkv.bias"]
    for i, name in enumerate("qkv"):
        assert torch.equal(got[f"class_block.attn.{name}.weight"], weight[32 * i : 32 * i + 32])
        assert torch.equal(got[f"class_block.attn.{name}.bias"], bias[32 * i : 32 * i + 32])
    for name in ("norm1.weight", "attn.proj.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc2.bias"):
        assert torch.equal(got[f"class_block.{name}"], swin[f"layers.1.blocks.1.{name}"])
    kept = (
        "layers.0.blocks.0.attn.qkv.weight",
        "layers.1.downsample.reduction.weight",
        "layers.1.blocks.0.mlp.fc1.bias",
        "norm.weight",
        "head.fc.weight",
    )
    for name in kept:
        assert torch.equal(got[name], swin[name])


def test_files_are_loaded(model, tmp_path):
    """A file of this model and one of a plain Swin, by name."""
    args = {k: v for k, v in TINY.items() if k != "num_classes"}
    for state in (model.state_dict(), plain_swin()[1]):
        torch.save(state, tmp_path / "weights.pth")
        loaded = models.load(str(tmp_path / "weights.pth"), model="ca_swin_tiny_patch4_window7_224", model_args=args)
        assert loaded.network.num_classes == 5 and not loaded.report["resized"]
        own = "cls_token" in state  # of a plain Swin the last block's bias by position is left out, and that is said
        left_out = [] if own else ["layers.1.blocks.1.attn.relative_position_bias_table"]
        assert loaded.report["unexpected"] == left_out and loaded.report["missing"] == [] if own else ["cls_token"]
        torch.testing.assert_close(loaded.network.model.norm.weight, state["norm.weight"])


def test_drop_path_classifier_and_decay():
    model = ClassAttentionSwin(**TINY | {"depths": (1, 3), "drop_path_rate": 0.3})
    assert model.class_block.drop_path.drop_prob == pytest.approx(0.3)
    assert model.layers[-1].blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert "cls_token" in model.no_weight_decay() and any(
        "relative_position_bias_table" in n for n in model.no_weight_decay()
    )
    x = torch.randn(2, 3, 56, 56)
    model.reset_classifier(0)
    assert model(x).shape == (2, 32)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.get_classifier().out_features == 7
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(7, global_pool="avg")


def test_gradients_reach_all_parameters_with_and_without_checkpointing():
    model, x, grads = ClassAttentionSwin(**TINY), torch.randn(2, 3, 56, 56), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True)) and all(g.abs().sum() > 0 for g in grads[0])
