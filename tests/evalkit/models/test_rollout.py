"""Rollout equals the product of the attention matrices that the un-fused modules compute."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.errors import EvalkitError
from evalkit.models import create
from evalkit.models.rollout import Rollout

from .test_attention import CASES as ALL_CASES

CASES = {name: case for name, case in ALL_CASES.items() if name.startswith(("vit", "deit"))}
BLOCKS = 3
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name, args):
    """A network whose attention is far from uniform."""
    torch.manual_seed(0)
    net = create(name, **args | {"depth": BLOCKS}).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return net


@pytest.fixture(params=CASES, name="case")
def _case(request):
    name, args, size, prefix = CASES[request.param]
    return make(name, args), torch.randn(3, 3, *size), prefix


@pytest.fixture(name="vit")
def _vit():
    return make("vit_nano_patch4_32", {"num_classes": 5})


def matrices(net, x):
    """(B, T, T) float64 softmax matrix of each block, mean over heads, from the un-fused modules."""
    seen, handles = [], []
    for block in net.model.blocks:
        block.attn.fused_attn = False
        handles.append(
            block.attn.attn_drop.register_forward_pre_hook(lambda m, args: seen.append(args[0].double().mean(1)))
        )
    with torch.no_grad():
        net.model(x)
    for block, handle in zip(net.model.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    return seen


def product(seen, residual):
    """The whole matrix R."""
    eye = torch.eye(seen[0].shape[1], dtype=torch.float64)
    rolled = eye
    for a in seen:
        rolled = ((eye + a) / 2 if residual else a) @ rolled
    return rolled


@pytest.mark.parametrize("residual", [True, False])
def test_equals_the_explicit_product(case, residual):
    net, x, prefix = case
    seen = matrices(net, x)
    out = net(x, attention="rollout")
    assert len(seen) == BLOCKS and out.attention is None
    tokens = seen[0].shape[1] - prefix
    assert out.grid[0] * out.grid[1] == tokens
    row = product(seen, residual)[:, 0]
    assert row[:, prefix:].std() > 1e-3  # not a uniform row, which any mistake would reproduce
    patches, first = torch.rand(3, tokens, 2), torch.rand(3, 2)
    got = out.rollout(patches, first, residual)
    want = torch.einsum("bt,btc->bc", row, torch.cat([first[:, None].expand(-1, prefix, -1), patches], 1).double())
    assert got.dtype == torch.float32 and not got.requires_grad
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)
    shared = out.rollout(patches[:1], first[:1], residual)  # one mask for the batch
    torch.testing.assert_close(shared[0], got[0])
    # rows sum to 1
    torch.testing.assert_close(out.rollout(torch.ones(1, tokens, 1), torch.ones(1, 1)), torch.ones(3, 1))


def test_the_row_of_one_patch(vit):
    """A column with a single one reads a single entry of R."""
    row = product(matrices(vit, X), True)[:, 0, 1:]
    one = F.one_hot(torch.tensor([5, 40]), 64).T[None].float()  # two columns
    torch.testing.assert_close(
        vit(X, attention="rollout").rollout(one, torch.zeros(1, 2)).double(), row[:, [5, 40]], atol=1e-7, rtol=0
    )


def test_logits_and_gradients_are_the_same_bits(case):
    net, x, _ = case
    grads = []
    for attention in (False, "rollout"):
        net.zero_grad()
        out = net(x, attention=attention)
        if attention:
            out.rollout(torch.ones(1, out.grid[0] * out.grid[1], 1), torch.ones(1, 1))
        out.logits.square().sum().backward()
        grads.append([out.logits.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_no_attention_matrix_is_made(vit):
    out = vit(X, attention="rollout")
    columns = torch.rand(2, 64, 2), torch.rand(2, 2)
    want = out.rollout(*columns)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error where this kernel does not take the shapes
        assert torch.equal(out.rollout(*columns), want)


def test_queries_and_keys_are_not_copied():
    net = create("vit_nano_patch4_32", num_classes=5, depth=1)
    whole = []
    net.model.blocks[0].attn.qkv.register_forward_hook(lambda m, args, out: whole.append(out))
    ((query, key),) = net(X, attention="rollout").rollout.pairs
    assert (
        query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr() == whole[0].untyped_storage().data_ptr()
    )


def test_columns_wider_than_a_head():
    net = make("vit_nano_patch4_32", {"num_classes": 2, "embed_dim": 8, "num_heads": 2})
    out, wide = net(X, attention="rollout"), torch.rand(2, 64, 7)
    narrow = torch.cat([out.rollout(wide[..., [c]], torch.zeros(1, 1)) for c in range(7)], 1)
    torch.testing.assert_close(out.rollout(wide, torch.zeros(1, 7)), narrow)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-3), (torch.float16, 1e-4)])
def test_under_autocast_the_kernel_takes_what_the_network_has(vit, dtype, tolerance):
    mask = (torch.rand(2, 64, 1, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    with torch.autocast("cpu", dtype):
        out = vit(X, attention="rollout")
        got = out.rollout(mask, torch.zeros(1, 1))
        ones = out.rollout(torch.ones(1, 64, 1), torch.ones(1, 1))
    rollout = out.rollout
    assert rollout.pairs[0][0].dtype == dtype and got.dtype == torch.float32
    exact = Rollout([(q.double(), k.double()) for q, k in rollout.pairs], rollout.scale, rollout.prefix)(
        mask, torch.zeros(1, 1)
    )
    torch.testing.assert_close(got, exact, atol=tolerance, rtol=0)
    torch.testing.assert_close(ones, torch.ones(2, 1), atol=1e-6, rtol=0)


def test_gradient_checkpointing_reads_the_first_run():
    torch.manual_seed(0)
    net = create("vit_nano_patch4_32", num_classes=5, depth=2, pos_drop_rate=0.5).train()
    results = []
    for enable in (False, True):
        net.model.set_grad_checkpointing(enable)
        net.zero_grad()
        torch.manual_seed(1)
        out = net(X, attention="rollout")
        out.logits.square().sum().backward()
        results.append(
            [
                out.rollout(torch.linspace(0, 1, 64).view(1, 64, 1), torch.zeros(1, 1)),
                *(p.grad for p in net.parameters()),
            ]
        )
        assert all(tap.query is None and not tap.on for tap in net._rollout.taps)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_compiled_without_a_graph_break(vit):
    torch._dynamo.reset()
    mask = torch.linspace(0, 1, 64).view(1, 64, 1), torch.zeros(1, 1)
    want = [vit(x, attention="rollout").rollout(*mask) for x in (X, 2 * X)]
    frames = CompileCounter()
    vit.compile(backend=frames, fullgraph=True)  # fullgraph: a graph break is an error
    for x, w in zip((X, 2 * X), want, strict=True):
        torch.testing.assert_close(vit(x, attention="rollout").rollout(*mask), w)
    assert frames.frame_count == 1
    assert vit(X).rollout is None and frames.frame_count == 2  # without: another graph, with nothing of the taps in it


def test_compiled_training_step(vit):
    """Through the autograd of the compiler, which hands out queries and keys as views of one output."""
    torch._dynamo.reset()
    mask, results = (torch.linspace(0, 1, 64).view(1, 64, 1), torch.zeros(1, 1)), []
    for compiled in (False, True):
        if compiled:
            vit.compile(backend="aot_eager", fullgraph=True)
        vit.zero_grad()
        out = vit(X, attention="rollout")
        share = out.rollout(*mask)
        out.logits.square().sum().backward()
        results.append([share, *(p.grad.clone() for p in vit.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_rollout_must_be_prepared_before_compile(vit):
    vit.prepare(attention=True)
    vit.compile(backend="eager")
    with pytest.raises(
        EvalkitError,
        match=r"attention rollout was not prepared before compile\(\); call prepare\(attention='rollout'\) first",
    ):
        vit(X, attention="rollout")


@pytest.mark.parametrize(
    ("name", "args", "why"),
    [
        (
            "resnet10_cifar",
            {},
            "CifarResNet has no attention rollout: only in a plain ViT .* Models that have it: vit_",
        ),
        ("cait_xxs24_224", {"img_size": 32, "depth": 1}, "Cait has no attention rollout"),
        ("xcit_nano_12_p16_224", {"depth": 1}, "Xcit has no attention rollout"),
        ("pvt_tiny", {}, "PyramidVisionTransformer has no attention rollout"),
        ("vit_nano_patch4_32", {"global_pool": "avg"}, "pools with 'avg'"),
        ("vit_nano_patch4_32", {"patch_drop_rate": 0.5}, "patch_drop_rate"),
    ],
)
def test_models_without_rollout_are_refused(name, args, why):
    net = create(name, num_classes=3, **args)
    for ask in (
        lambda: net.prepare(attention="rollout"),
        lambda: net(torch.zeros(1, 3, *net.input_size), attention="rollout"),
    ):
        with pytest.raises(EvalkitError, match=why) as e:
            ask()
        assert "\n" not in str(e.value)
