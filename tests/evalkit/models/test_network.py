"""Features, injection, saliency, compile, on models whose answers are known by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch._dynamo.testing import CompileCounter

from evalkit.errors import EvalkitError
from evalkit.models import Network, create, list_models, network
from evalkit.models.network import frozen_statistics

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Toy(nn.Module):
    """Two linear layers on the flattened image, nothing else."""

    num_classes = 4

    def __init__(self, twice=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.twice = nn.Linear(3 * 4 * 5, 6), nn.Linear(6, 4), twice

    def forward(self, x):
        h = self.first(x.flatten(1))
        return self.second(h) + (self.second(h) if self.twice else 0)


@pytest.fixture(name="vit")
def _vit():
    torch.manual_seed(0)
    return create("vit_nano_patch4_32", num_classes=5, depth=2)


@pytest.fixture(name="resnet")
def _resnet():
    torch.manual_seed(0)
    return create("resnet10_cifar", num_classes=5)


# ---- what is asked for, and nothing else


def test_plain_pass_is_the_timm_model(vit, resnet):
    for net in (vit.eval(), resnet.eval()):
        out = net(X)
        assert torch.equal(out.logits, net.model(X))
        assert out.attention is out.grid is out.features is None


def test_describes_itself(vit, resnet):
    assert (vit.name, vit.num_classes, vit.input_size, vit.patch_size) == ("vit_nano_patch4_32", 5, (32, 32), 4)
    assert (resnet.patch_size, resnet.mean, resnet.std) == (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert create("vit_nano_patch4_32", img_size=48).input_size == (48, 48)
    assert set(vit.state_dict()) == {f"model.{k}" for k in vit.model.state_dict()}
    assert {"deit_small_patch16_224", "pvt_tiny", "vit_nano_patch4_32"} <= set(list_models())


@pytest.mark.parametrize("name", ["vit_nano_patch4_32", "resnet10_cifar"])
def test_features_are_of_the_same_pass_and_differentiable(name):
    net = create(name, num_classes=5).eval()
    out = net(X, features=True)
    assert torch.equal(out.features, net.model.forward_features(X))
    assert torch.equal(out.logits, net.model(X))
    (g,) = torch.autograd.grad(out.logits.sum(), out.features)  # the logits hang on exactly this tensor
    assert g.shape == out.features.shape and g.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("resnet10_cifar", {}, (2, 128, 4, 4)),
        ("vit_nano_patch4_32", {"reg_tokens": 2, "img_size": (32, 24)}, (2, 64, 8, 6)),
        ("pvt_tiny", {}, (2, 512, 2, 3)),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 56, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 24},
            (2, 48, 7, 7),
        ),
    ],
)
def test_feature_map_lays_out_the_last_features(name, args, shape):
    net = create(name, num_classes=5, **args).eval()
    x = torch.randn(2, 3, *{"pvt_tiny": (64, 96)}.get(name, net.input_size))
    got = net.feature_map(x)
    assert got.shape == shape and not got.requires_grad
    f = net.model.forward_features(x)
    r, c = 1, 2
    want = {
        4: lambda: f[:, :, r, c] if name.startswith("resnet") else f[:, r, c],
        3: lambda: f[:, net.model.num_prefix_tokens + r * shape[3] + c],
    }[f.ndim]()
    assert torch.equal(got[:, :, r, c], want)


def test_no_features_where_the_head_reads_several():
    net = create("coat_tiny", num_classes=2, embed_dims=(8, 8, 8, 8), serial_depths=(1, 1, 1, 1), parallel_depth=1)
    with pytest.raises(EvalkitError, match="several feature tensors"):
        net(torch.zeros(1, 3, 224, 224), features=True)


# ---- injection


def test_injection_replaces_one_layers_output_in_one_pass():
    net = Network(Toy(), "toy")
    x = torch.randn(2, 3, 4, 5)
    h = F.linear(x.flatten(1), net.model.first.weight, net.model.first.bias)
    mixed = 0.3 * h + 0.7 * h.flip(0)
    want = F.linear(mixed, net.model.second.weight, net.model.second.bias)
    torch.testing.assert_close(net(x, inject=("first", lambda out: 0.3 * out + 0.7 * out.flip(0))).logits, want)
    torch.testing.assert_close(net(x).logits, F.linear(h, net.model.second.weight, net.model.second.bias))
    for layer in ("", "input"):
        assert torch.equal(net(x, inject=(layer, lambda v: 2 * v)).logits, net(2 * x).logits)
    torch.testing.assert_close(net(x, inject=("second", lambda out: out * 0)).logits, torch.zeros(2, 4))


def test_injection_is_differentiable_and_seen_by_attention(vit):
    scale = torch.tensor(0.5, requires_grad=True)
    out = vit(X, attention=True, inject=("blocks.0", lambda h: h * scale))
    out.logits.sum().backward()
    assert scale.grad.abs() > 0
    assert not torch.equal(out.attention, vit(X, attention=True).attention)


def test_injection_errors(vit):
    with pytest.raises(EvalkitError, match=r"unknown layer 'blocks.9'. Did you mean 'blocks"):
        vit(X, inject=("blocks.9", torch.neg))
    with pytest.raises(EvalkitError, match="layer 'second' of model 'toy' ran 2 times"):
        Network(Toy(twice=True), "toy")(torch.randn(2, 3, 4, 5), inject=("second", torch.neg))
    vit.model.norm_pre.add_module("idle", nn.Linear(1, 1))
    with pytest.raises(EvalkitError, match="ran 0 times"):
        vit(X, inject=("norm_pre.idle", torch.neg))
    vit.model.set_grad_checkpointing(True)
    with pytest.raises(EvalkitError, match="gradient checkpointing"):
        vit(X, inject=("blocks.0", torch.neg))
    assert all(slot.fn is None for slot in vit._slots.values())


# ---- saliency


def test_saliency_of_a_linear_model_by_hand():
    net = Network(Toy(), "toy")
    x, y = torch.randn(3, 3, 4, 5), torch.tensor([1, 0, 3])
    w = net.model.second.weight @ net.model.first.weight  # logits = W x + const, so d CE / d x = (softmax - onehot) W
    p = net.model(x).softmax(1) - F.one_hot(y, 4)
    want = (p @ w).view(3, 3, 4, 5).square().mean(1).sqrt()
    torch.testing.assert_close(net.saliency(x, y), want)
    torch.testing.assert_close(net.saliency(x, F.one_hot(y, 4).float()), want)  # class shares
    torch.testing.assert_close(net.saliency(x[1:2], y[1:2]), want[1:2])  # no sample depends on the batch
    picked = net.saliency(x, y, criterion=lambda z, t: z.gather(1, t[:, None]).sum())
    torch.testing.assert_close(picked, w[y].view(3, 3, 4, 5).square().mean(1).sqrt())


def test_saliency_equals_finite_differences(resnet):
    net, y, e = resnet.eval().double(), torch.tensor([2]), 1e-6
    x = X[:1, :, :8, :8].double()
    loss = lambda v: F.cross_entropy(net.model(v), y, reduction="sum").item()  # noqa: E731
    g = []
    for c in range(3):
        d = torch.zeros_like(x)
        d[0, c, 3, 4] = e
        g.append((loss(x + d) - loss(x - d)) / (2 * e))
    got = net.float().saliency(x, y)[0, 3, 4].item()
    assert got == pytest.approx(math.sqrt(sum(v * v for v in g) / 3), rel=1e-3)


@pytest.mark.parametrize("ask", ["saliency", "class_attention", "feature_map", "patch_attention"])
def test_questions_leave_no_trace(ask):
    torch.manual_seed(0)
    if ask == "patch_attention":
        net = create("vit_nano_patch4_32", num_classes=5, depth=1, drop_rate=0.5).train()
        net.model.patch_embed.norm = nn.BatchNorm1d(64)
    else:
        # batch norm inside, class attention, dropout
        net = create("xcit_nano_12_p16_224", num_classes=5, depth=1, drop_rate=0.5).train()
    net.model.head_drop.eval()  # a mode of its own
    net(X).logits.sum().backward()
    before = [t.clone() for t in [*net.buffers(), *(p.grad for p in net.parameters())]]
    modes = [m.training for m in net.modules()]
    flags = [m.track_running_stats for m in net.modules() if hasattr(m, "track_running_stats")]
    assert flags
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = {
            "saliency": lambda: net.saliency(X, torch.tensor([0, 1])),
            "class_attention": lambda: net.class_attention(X)[0],
            "patch_attention": lambda: net.patch_attention(X)[1],
            "feature_map": lambda: net.feature_map(X),
        }[ask]()
    assert not out.requires_grad and (ask == "feature_map" or out.dtype == torch.float32)
    after = [*net.buffers(), *(p.grad for p in net.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert modes == [m.training for m in net.modules()]
    assert flags == [m.track_running_stats for m in net.modules() if hasattr(m, "track_running_stats")]


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), BatchNormAct2d(3), BatchNormAct2d(3, momentum=None)])
def test_frozen_statistics_still_normalise_by_the_batch(layer):
    x = 5 + 2 * X
    layer(X)
    state = copy.deepcopy(layer.state_dict())
    with frozen_statistics(layer):
        frozen = layer(x)
    assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    assert torch.equal(frozen, layer(x))  # the same batch statistics as in training
    assert int(layer.num_batches_tracked) == 2  # and counting goes on


def test_saliency_is_float32_under_autocast(vit):
    y = torch.tensor([0, 1])
    want = vit.eval().saliency(X, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vit.saliency(X, y), want)
        assert torch.equal(vit.saliency(X.bfloat16().float(), y), vit.saliency(X.bfloat16(), y))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("native", [False, True])
def test_saliency_is_bfloat16_on_a_gpu_in_mixed_precision_alone(vit, mixed, native, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: mixed)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert network.half_saliency(torch.device("cuda")) == (mixed and native)
    assert not network.half_saliency(torch.device("cpu"))


def test_saliency_in_bfloat16_leaves_other_precisions_alone(vit, monkeypatch):
    """What a GPU does, on a CPU: the map is near that in float32, and weights in float16 are none of its making."""
    y = torch.tensor([0, 1])
    exact = vit.eval().saliency(X, y)
    monkeypatch.setattr(network, "half_saliency", lambda device: True)
    with torch.autocast("cpu", torch.float16):
        found = vit.saliency(X, y)
        assert vit(X).logits.dtype == torch.float16
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.2, atol=0.05 * float(exact.max()))


@pytest.mark.parametrize(("name", "arguments"), [("resnet10_cifar", {}), ("vit_nano_patch4_32", {"depth": 1})])
def test_injection_before_the_head(name, arguments):
    torch.manual_seed(0)
    net = create(name, num_classes=5, **arguments).eval()
    net.prepare(inject_layers=["forward_features"])
    features = net.model.forward_features(X)
    out = net(X, inject=("forward_features", lambda h: 2 * h.flip(0)), features=True)
    assert torch.equal(out.features, 2 * features.flip(0)) and torch.equal(
        out.logits, net.model.forward_head(2 * features.flip(0))
    )
    assert net(X, inject=("forward_features", torch.neg)).features is None
    frames = CompileCounter()
    net.compile(backend=frames, fullgraph=True)
    for share in (0.2, 0.5, 0.9):  # what is injected is not part of the graph: it may loop, and never compiles again
        out = net(X, inject=("forward_features", lambda h, share=share: share * h))
        torch.testing.assert_close(out.logits, net.model.forward_head(share * features))
    assert frames.frame_count == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_nano_patch4_32", {"depth": 2, "qk_norm": True}),
        ("vit_nano_patch4_32", {"depth": 2, "reg_tokens": 3}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1, "img_size": (32, 48), "embed_dim": 12}),
        ("pvt_tiny", {"img_size": 64}),
    ],
)
def test_patch_attention_is_the_column_mean_of_the_matrix(name, arguments):
    torch.manual_seed(1)
    net = create(name, num_classes=5, **arguments).train()
    size = net.input_size
    x = torch.randn(2, 3, *size)
    attn = (net.model.block4 if name == "pvt_tiny" else net.model.blocks)[-1].attn
    seen = []
    if name == "pvt_tiny":
        hooks = [
            attn.q.register_forward_hook(lambda m, a, o: seen.append(o)),
            attn.kv.register_forward_hook(lambda m, a, o: seen.append(o)),
        ]
        logits = net.model(x)
        heads = 8
        q, k = (t[..., :512].reshape(2, -1, heads, 512 // heads).transpose(1, 2) for t in seen)
        matrix = (q @ k.transpose(2, 3) * (512 // heads) ** -0.5).softmax(-1)
    else:
        fused, attn.fused_attn = attn.fused_attn, False
        hooks = [attn.attn_drop.register_forward_hook(lambda m, a, o: seen.append(a[0]))]
        logits = net.model(x)
        attn.fused_attn, matrix = fused, seen[0]
    for hook in hooks:
        hook.remove()
    prefix = net.model.num_prefix_tokens
    got, received, grid = net.patch_attention(x)
    assert (
        torch.allclose(received, matrix.mean(1)[:, prefix:, prefix:].mean(1), atol=1e-6) and not received.requires_grad
    )
    assert grid == tuple(s // net.patch_size for s in size) and torch.allclose(got, logits, atol=1e-5)
    row = net(x, attention=True).attention  # the tap is as before
    assert torch.allclose(row, matrix.mean(1)[:, 0, prefix:], atol=1e-6)


def test_patch_attention_of_a_class_attention_block():
    with pytest.raises(
        EvalkitError, match="in the last block of model 'xcit_nano_12_p16_224' patches do not attend to one another"
    ):
        create("xcit_nano_12_p16_224", num_classes=5, depth=1).patch_attention(X)


def test_saliency_ignores_a_taps_installation(vit):
    y = torch.tensor([0, 1])
    before = vit.eval().saliency(X, y)
    vit.prepare(attention=True)
    assert torch.equal(before, vit.saliency(X, y))


# ---- compile and copies


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch._dynamo.reset()


def test_compiled_tap_has_no_graph_break_and_is_fresh(vit):
    want = [(o.logits, o.attention) for o in (vit(X, attention=True), vit(2 * X, attention=True))]
    frames = CompileCounter()
    vit.compile(backend=frames, fullgraph=True)  # fullgraph: a graph break is an error
    got = [(o.logits, o.attention) for o in (vit(X, attention=True), vit(2 * X, attention=True))]
    for pair in zip(want, got):
        for a, b in zip(*pair):
            torch.testing.assert_close(a, b)
    assert frames.frame_count == 1
    # without attention: another graph, with nothing of the tap in it
    assert vit(X).attention is None and frames.frame_count == 2
    torch.testing.assert_close(vit(2 * X, attention=True).attention, want[1][1])
    assert frames.frame_count == 2


def test_compiled_injection_follows_its_tensors(vit):
    vit.prepare(inject_layers=["blocks.0", "input"])
    plain, frames = copy.deepcopy(vit), CompileCounter()
    vit.compile(backend=frames, fullgraph=True)
    for share in (0.2, 0.5, 0.9):
        lam = torch.tensor(share)
        fn = lambda h, lam=lam: lam * h + (1 - lam) * h.flip(0)  # noqa: E731
        for layer in ("blocks.0", "input"):
            torch.testing.assert_close(vit(X, inject=(layer, fn)).logits, plain(X, inject=(layer, fn)).logits)
    assert frames.frame_count <= 3


def test_after_compile_only_what_was_prepared(vit):
    vit.prepare(attention=True, inject_layers=["blocks.0"])
    vit.compile(backend="eager")
    assert vit(X, attention=True).grid == (8, 8)
    for ask, message in [
        (lambda: vit(X, attention=1), r"class attention of block 1 .* call prepare\(attention=1\) first"),
        (lambda: vit.class_attention(X, block=1), "block 1"),
        (lambda: vit(X, inject=("blocks.1", torch.neg)), r"'blocks.1' .* prepare\(inject_layers=\['blocks.1'\]\)"),
    ]:
        with pytest.raises(EvalkitError, match=message):
            ask()


def test_compiled_with_gradient_checkpointing(vit):
    want = vit(X, attention=True)
    vit.model.set_grad_checkpointing(True)
    vit.compile(backend="eager")
    out = vit(X, attention=True)
    out.logits.sum().backward()
    torch.testing.assert_close(out.attention, want.attention)
    torch.testing.assert_close(vit(2 * X, attention=True).logits, vit.model(2 * X))


def test_a_copy_is_independent(vit):
    vit.prepare(attention=True, inject_layers=["blocks.0"])
    vit.compile(backend="eager")
    vit(X, attention=True)
    other = copy.deepcopy(vit)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    assert not torch.equal(other(X, attention=True).attention, vit(X, attention=True).attention)
    torch.testing.assert_close(other(X).logits, other.model(X))
    assert other._taps[None] is not vit._taps[None] and vit._taps[None].query is None
