"""The tap equals the attention matrix that the un-fused module itself computes."""

import pytest
import torch
from timm.models.vision_transformer import Attention, ParallelScalingBlock
from torch import nn

from evalkit.errors import EvalkitError
from evalkit.models import create
from evalkit.models.attention import Tap, class_attention_modules, token_grid

SMALL = {"depth": 2, "num_classes": 5}
SWIN = {"window_size": 2, "embed_dim": 8, "depths": (1, 1, 1, 2), "num_heads": (1, 1, 2, 2)}
CASES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 64, **SMALL}, (64, 64), 1),
    "vit qk-norm": ("vit_nano_patch4_32", {"qk_norm": True, **SMALL}, (32, 32), 1),
    "vit registers": ("vit_nano_patch4_32", {"reg_tokens": 3, **SMALL}, (32, 32), 4),
    "vit non-square": ("vit_nano_patch4_32", {"img_size": (16, 24), **SMALL}, (16, 24), 1),
    "vit dynamic size": ("vit_nano_patch4_32", {"dynamic_img_size": True, **SMALL}, (20, 12), 1),
    "vit padded size": (
        "vit_nano_patch4_32",
        {"dynamic_img_size": True, "dynamic_img_pad": True, **SMALL},
        (18, 11),
        1,
    ),
    "deit distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 48, **SMALL}, (48, 48), 2),
    "deit3": ("deit3_small_patch16_224", {"img_size": (48, 32), "embed_dim": 96, **SMALL}, (48, 32), 1),
    "cait": ("cait_xxs24_224", {"img_size": (32, 48), **SMALL}, (32, 48), 1),
    "xcit": ("xcit_nano_12_p16_224", SMALL, (64, 40), 1),
    "pvt": ("pvt_tiny", {"num_classes": 5}, (96, 64), 1),
    "ca-swin": ("ca_swin_tiny_patch4_window7_224", {"img_size": (64, 96), "num_classes": 5} | SWIN, (64, 96), 1),
}


@pytest.fixture(params=CASES, name="case")
def _case(request):
    name, args, size, prefix = CASES[request.param]
    torch.manual_seed(0)
    net = create(name, **args).eval()
    with torch.no_grad():
        for p in net.parameters():  # larger weights than at initialisation, so that attention is far from uniform
            p.add_(0.15 * torch.randn_like(p))
    return net, torch.randn(3, 3, *size), prefix


def explicit(net, x, index=-1):
    """(B, heads, T) class-token row of the whole softmax matrix, from the un-fused module (PVT, which has none: from
    its weights)."""
    attn, seen = list(class_attention_modules(net.model))[index], {}
    if hasattr(attn, "fused_attn"):
        attn.fused_attn = False
        handle = attn.attn_drop.register_forward_pre_hook(lambda m, args: seen.update(matrix=args[0]))
    else:
        handle = attn.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    with torch.no_grad():
        net.model(x)
    handle.remove()
    if "matrix" in seen:
        attn.fused_attn = True
        return seen["matrix"][:, :, 0]
    width, d = attn.q.in_features, attn.q.in_features // attn.num_heads
    q = seen["x"] @ attn.q.weight.T + attn.q.bias
    k = seen["x"] @ attn.kv.weight[:width].T + attn.kv.bias[:width]
    rows = [
        torch.softmax(q[:, 0, None, h : h + d] @ k[..., h : h + d].mT / d**0.5, -1)[:, 0] for h in range(0, width, d)
    ]
    return torch.stack(rows, 1)


def test_equals_the_explicit_matrix(case):
    net, x, prefix = case
    out = net(x, attention=True)
    want = explicit(net, x)
    assert want.mean(1).std() > 1e-3  # not a uniform row, which any mistake would reproduce
    assert out.attention.dtype == torch.float32 and not out.attention.requires_grad
    assert out.grid[0] * out.grid[1] == out.attention.shape[1]
    torch.testing.assert_close(out.attention, want.mean(1)[:, prefix:], atol=1e-6, rtol=0)
    torch.testing.assert_close(out.attention.sum(1) + want.mean(1)[:, :prefix].sum(1), torch.ones(3))
    head, grid = net.class_attention(x, head=1)
    torch.testing.assert_close(head, want[:, 1, prefix:], atol=1e-6, rtol=0)
    assert grid == out.grid
    mean, _ = net.class_attention(x)
    assert torch.equal(mean, out.attention)


def test_grid_follows_the_input(case):
    net, x, _ = case
    stride = {"pvt_tiny": 32, "ca_swin_tiny_patch4_window7_224": 32, "vit_nano_patch4_32": 4}.get(net.name, 16)
    assert net.patch_size == stride
    assert net(x, attention=True).grid == (-(-x.shape[2] // stride), -(-x.shape[3] // stride))


def test_every_block_can_be_asked_for(case):
    net, x, prefix = case
    count = len(list(class_attention_modules(net.model)))
    for index in range(count):
        torch.testing.assert_close(
            net(x, attention=index + 1).attention, explicit(net, x, index).mean(1)[:, prefix:], atol=1e-6, rtol=0
        )
    with pytest.raises(EvalkitError, match=rf"block 9 asked for, but .* in blocks 1 to {count}"):
        net(x, attention=9)
    with pytest.raises(EvalkitError, match="block 0"):
        net(x, attention=0)


def test_logits_and_gradients_are_the_same_bits(case):
    net, x, _ = case
    grads = []
    for attention in (False, True):
        net.zero_grad()
        logits = net(x, attention=attention).logits
        logits.square().sum().backward()
        grads.append([logits.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_nano_patch4_32", {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}),
        ("cait_xxs24_224", {"img_size": 32, "depth": 1}),
        ("xcit_nano_12_p16_224", {"depth": 1}),
        ("pvt_tiny", {}),
        ("ca_swin_tiny_patch4_window7_224", {"img_size": 32} | SWIN),
    ],
)
def test_zero_queries_give_a_uniform_row(name, args):
    net = create(name, num_classes=2, **args).eval()
    attn = list(class_attention_modules(net.model))[-1]
    query = attn.qkv if hasattr(attn, "qkv") else attn.q
    with torch.no_grad():
        query.weight[: query.in_features].zero_()
        query.bias[: query.in_features].zero_()
    row = net(torch.randn(2, 3, 32, 32), attention=True).attention
    prefix = 2 if "distilled" in name else 1
    torch.testing.assert_close(row, torch.full_like(row, 1 / (prefix + row.shape[1])))


def test_permuted_patches_permute_the_row():
    torch.manual_seed(0)
    net = create("vit_nano_patch4_32", num_classes=2, depth=2).eval()
    nn.init.zeros_(net.model.pos_embed)
    x = torch.randn(1, 3, 32, 32)
    mirrored = torch.cat([x[..., c : c + 4] for c in range(28, -1, -4)], -1)  # columns of patches in reverse order
    torch.testing.assert_close(
        net(mirrored, attention=True).attention.unflatten(1, (8, 8)),
        net(x, attention=True).attention.unflatten(1, (8, 8)).flip(2),
        atol=1e-7,
        rtol=1e-5,
    )


def test_float32_under_autocast():
    torch.manual_seed(0)
    net = create("vit_nano_patch4_32", num_classes=5, qk_norm=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, attention=True)
    assert out.logits.dtype == torch.bfloat16 and out.attention.dtype == torch.float32
    assert torch.all(out.attention.sum(1) <= 1)  # a bfloat16 softmax would be off by 1e-2
    torch.testing.assert_close(out.attention, net(x, attention=True).attention, atol=5e-4, rtol=0)


def test_gradient_checkpointing_reads_the_first_run():
    torch.manual_seed(0)
    net = create("vit_nano_patch4_32", num_classes=5, depth=2, pos_drop_rate=0.5).train()
    x, results = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        net.model.set_grad_checkpointing(enable)
        net.zero_grad()
        torch.manual_seed(1)
        out = net(x, attention=True)
        out.logits.square().sum().backward()
        results.append([out.attention, *(p.grad for p in net.parameters())])
        assert net._taps[None].query is None and not net._taps[None].on
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_compiled_before_and_after(case):
    """Prepared before compile: one graph without a break, fresh at each call. Asked for afterwards: an error."""
    net, x, _ = case
    torch._dynamo.reset()
    want = [net(v, attention=True) for v in (x, 2 * x)]
    net.compile(backend="eager", fullgraph=True)
    for v, w in zip((x, 2 * x), want, strict=True):
        out = net(v, attention=True)
        torch.testing.assert_close(out.attention, w.attention, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(out.logits, w.logits)
    with pytest.raises(
        EvalkitError,
        match=r"class attention of block 1 was not prepared before compile\(\); call prepare\(attention=1\) first",
    ):
        net(x, attention=1)


def test_a_tap_is_never_stale():
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    tap = Tap(*layers, heads=2, scale=1.0)
    x = torch.randn(1, 3, 4)
    layers[0](x), layers[1](x)
    with pytest.raises(EvalkitError, match="did not run"):  # it was off
        tap.take()
    tap.on = True
    layers[0](x), layers[1](x)
    assert tap.take().shape == (1, 2, 3)
    with pytest.raises(EvalkitError, match="did not run"):  # taken once
        tap.take()


def test_nothing_survives_a_failed_pass():
    net = create("vit_nano_patch4_32", num_classes=2, depth=1)
    with pytest.raises(AssertionError):
        net(torch.randn(1, 3, 16, 16), attention=True)
    tap = net._taps[None]
    assert not tap.on and tap.query is None and tap.key is None


@pytest.mark.parametrize(
    ("name", "args", "why"),
    [
        ("resnet10_cifar", {}, "CifarResNet has no class token"),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 56, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 24},
            "SwinTransformer has no class token",
        ),
        ("vit_nano_patch4_32", {"class_token": False, "global_pool": "avg"}, "it has no class token"),
        ("vit_nano_patch4_32", {"global_pool": "avg"}, "pools with 'avg'"),
        ("vit_nano_patch4_32", {"patch_drop_rate": 0.5}, "patch_drop_rate"),
        ("vit_nano_patch4_32", {"block_fn": ParallelScalingBlock}, "type ParallelScalingBlock"),
        (
            "beit_base_patch16_224",
            {"depth": 1, "embed_dim": 48, "num_heads": 3},
            "Beit has no class token that attends",
        ),
        ("eva02_tiny_patch14_224", {"depth": 1}, "Eva has no"),
        ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, "PyramidVisionTransformerV2 has no"),
        ("resnet18", {}, "ResNet has no class token"),
        ("mobilenetv2_050", {}, "EfficientNet has no class token"),
        ("efficientnet_b0", {}, "EfficientNet has no class token"),
        ("convnext_atto", {}, "ConvNeXt has no class token"),
        ("moganet_tiny", {"depths": (1, 1, 1, 1)}, "MogaNet has no class token"),
    ],
)
def test_models_without_class_attention_are_refused(name, args, why):
    net = create(name, num_classes=3, **args)
    assert net.patch_size is None
    for ask in (lambda: net.prepare(attention=True), lambda: net(torch.zeros(1, 3, *net.input_size), attention=True)):
        with pytest.raises(EvalkitError, match=why) as e:
            ask()
        assert (
            name in str(e.value)
            and "deit*" in str(e.value)
            and "pvt_small" in str(e.value)
            and "\n" not in str(e.value)
        )


def test_an_unknown_kind_of_attention_is_refused():
    class Biased(Attention):
        """Might add anything to the logits before the softmax."""

    net = create("vit_nano_patch4_32", num_classes=3)
    net.model.blocks[-1].attn.__class__ = Biased
    with pytest.raises(EvalkitError, match="its attention is of type Biased"):
        net.prepare(attention=True)


def test_token_grid_is_never_the_square_root():
    model = nn.Module()
    model.feature_info = [{"reduction": 16}]
    assert token_grid(model, (32, 128), 16) == (2, 8)
    assert token_grid(model, (40, 40), 9) == (3, 3)  # padded
    assert token_grid(model, (40, 40), 4) == (2, 2)  # cut
    with pytest.raises(EvalkitError, match="16 tokens for an input of 40 x 40"):
        token_grid(model, (40, 40), 16)
