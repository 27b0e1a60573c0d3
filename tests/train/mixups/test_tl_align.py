"""TL-Align against the propagation of whole label vectors, written here, and by hand."""

import pytest
import torch

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.models.rollout import Rollout
from evalkit.train import create, train_step
from evalkit.train.losses import soft_cross_entropy

from .fakes import FakeNet, FakeOutput, context, index_images, own_weight

A = torch.tensor([[0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])  # of class token and two patches


def rollout_of(matrices, heads=1, prefix=1):
    """A Rollout whose blocks have these attention matrices: with one-hot keys, softmax(log A) = A."""
    tokens = matrices[0].shape[-1]
    keys = torch.eye(tokens).expand(2, heads, -1, -1)
    return Rollout([(a.log().expand(2, heads, -1, -1), keys) for a in matrices], 1.0, prefix)


@pytest.mark.parametrize(("blocks", "expected"), [(1, 0.6), (2, 0.66)])
def test_worked_example(blocks, expected):
    """Two patches, the second pasted: w = (0.5, 1, 0), then (0.6, 0.925, 0.225), then (0.66, 0.87375, 0.38625)."""
    method, ctx = create("tl_align"), context(3, draws={"box": (0, 1, 1, 2), "partner": [1, 0]})
    mixed = method.mix(ctx, index_images(2, 2, 4), torch.tensor([0, 1]), FakeNet(2))
    assert mixed.x[0, 0].tolist() == [[0, 0, 1, 1]] * 2 and own_weight(mixed.weights).tolist() == [0.5, 0.5]
    out = FakeOutput(torch.zeros(2, 3), None, (1, 2), rollout=rollout_of([A] * blocks))
    weights = method.relabel(ctx, mixed, torch.tensor([0, 1]), out)
    assert torch.allclose(weights, torch.tensor([[expected, 1 - expected], [1 - expected, expected]]), atol=1e-6)


def test_the_other_tokens_of_the_example():
    """Seen by putting each of them first."""
    for order, expected in (([1, 0, 2], 0.87375), ([2, 0, 1], 0.38625)):
        permuted, w = A[order][:, order], torch.tensor([0.5, 1.0, 0.0])[order]
        got = rollout_of([permuted] * 2)(w[None, 1:, None], w[None, :1])
        assert got[0].item() == pytest.approx(expected, abs=1e-6)


def test_uniform_attention_leaves_the_area():
    method = create("tl_align")
    for box in ((0, 1, 0, 2), (1, 3, 1, 4), (0, 0, 2, 2)):
        mixed = method.mix(context(draws={"box": box}), index_images(2, 6, 8), torch.arange(2), FakeNet(2))
        out = FakeOutput(None, None, (3, 4), rollout=rollout_of([torch.full((13, 13), 1 / 13)] * 3))
        assert torch.allclose(method.relabel(None, mixed, None, out), mixed.weights, atol=1e-6)


def make_net(name="vit_nano_patch4_32", **kwargs):
    torch.manual_seed(0)
    net = models.create(name, num_classes=5, depth=3, **kwargs)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return net.eval()


@pytest.mark.parametrize(
    ("kwargs", "prefix"),
    [
        ({}, 1),
        ({"qk_norm": True, "img_size": (16, 24)}, 1),
        ({"name": "deit_tiny_distilled_patch16_224", "img_size": 64}, 2),
        ({"reg_tokens": 3}, 4),
    ],
    ids=["vit", "qk-norm", "distilled", "registers"],
)
def test_equals_the_propagation_of_whole_labels(kwargs, prefix):
    net = make_net(**kwargs)
    x, y = torch.randn(4, 3, *net.input_size), torch.tensor([0, 3, 1, 4])
    rows, columns = (side // net.patch_size for side in net.input_size)
    method, box = create("tl_align"), (1, rows, 0, columns - 1)
    ctx = context(5, smoothing=0.1, draws={"box": box})
    mixed = method.mix(ctx, x, y, net)
    with torch.no_grad():
        target = method.relabel(ctx, mixed, y, net(mixed.x, attention=method.attention)) @ ctx.target(y)

        # every token carries a vector over the classes, multiplied by the whole matrix of each block
        pasted = torch.zeros(rows, columns, dtype=torch.bool)
        pasted[box[0] : box[1], box[2] : box[3]] = True
        own, other = ctx.target(y).double(), ctx.target(y.flip(0)).double()
        lam = 1 - pasted.double().mean()
        labels = torch.where(pasted.flatten()[None, :, None], other[:, None], own[:, None])
        labels = torch.cat([(lam * own + (1 - lam) * other)[:, None].expand(-1, prefix, -1), labels], 1)
        for block in net.model.blocks:
            block.attn.fused_attn = False
        state = {"labels": labels}

        def align(module, args):
            state["labels"] = (state["labels"] + args[0].double().mean(1) @ state["labels"]) / 2

        for block in net.model.blocks:
            block.attn.attn_drop.register_forward_pre_hook(align)
        net.model(mixed.x)
    expected = state["labels"][:, 0]
    assert torch.allclose(target.double(), expected, atol=1e-6)
    assert torch.allclose(target.sum(1), torch.ones(4), atol=1e-6)
    assert (expected - lam * own - (1 - lam) * other).abs().max() > 1e-3  # attention did move the labels


def test_the_box_is_one_of_whole_patches():
    """The rule of CutMix on the grid: lam0 = 0.75 gives a box of half the side, around the drawn patch, cut at the
    border."""
    mixed = create("tl_align").mix(
        context(draws={"lam": 0.75, "centre": (0, 5)}), index_images(3, 32, 48), torch.arange(3), FakeNet(4)
    )
    expected = torch.ones(8, 12)
    expected[:2, 2:8] = 0
    assert torch.equal(mixed.mask[0, 0, ::4, ::4], expected) and torch.equal(mixed.mask[0, 0, 3::4, 3::4], expected)
    # flipped: the middle one is its own partner
    assert own_weight(mixed.weights).tolist() == pytest.approx([1 - 12 / 96, 1, 1 - 12 / 96])
    ctx, share = context(seed=1), []
    for _ in range(300):
        mixed = create("tl_align").mix(ctx, index_images(2, 32, 32), torch.arange(2), FakeNet(4))
        whole = mixed.mask[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2)
        assert (whole == whole[..., :1]).all()
        share.append(mixed.mask.mean().item())
    assert 0.6 < sum(share) / 300 < 0.85  # Beta(1, 1), less what the border cuts


def test_the_gradient_is_that_of_a_fixed_target():
    net, x, y = make_net().train(), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    method, ctx = create("tl_align"), context(draws={"box": (0, 4, 3, 8)})
    train_step(ctx, net, method, x, y).backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    mixed = method.mix(ctx, x, y, net)
    out = net(mixed.x, attention="rollout")
    target = method.relabel(ctx, mixed, y, out) @ ctx.target(y)
    assert not target.requires_grad
    soft_cross_entropy(net(mixed.x).logits, target).backward()
    assert all(torch.allclose(a, p.grad, atol=1e-7) for a, p in zip(got, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("cait_xxs24_224", {"img_size": 32, "depth": 1}, "Cait has no attention rollout: only in a plain ViT"),
        ("pvt_tiny", {}, "PyramidVisionTransformer has no attention rollout"),
        ("resnet10_cifar", {}, "CifarResNet has no attention rollout"),
        ("vit_nano_patch4_32", {"global_pool": "avg"}, "pools with 'avg'"),
    ],
)
def test_other_networks_are_refused(name, arguments, said):
    net, method = models.create(name, num_classes=3, **arguments), create("tl_align")
    with pytest.raises(EvalkitError, match=said):
        net.prepare(attention=method.attention)


@pytest.mark.parametrize(
    ("patch", "said"),
    [(None, "this model has no patches"), (5, "patches of 5 pixels, which do not divide images of 32x32")],
)
def test_images_that_are_not_whole_patches(patch, said):
    with pytest.raises(EvalkitError, match=f"tl_align pastes whole patches, but this model .*{said[11:]}"):
        create("tl_align").mix(context(), index_images(2, 32, 32), torch.arange(2), FakeNet(patch))


def test_wrong_values():
    with pytest.raises(ValueError, match="Expected argument `alpha` to be a number of at least 0, but got -1"):
        create("tl_align", alpha=-1)
    with pytest.raises(ValueError, match="Expected argument `pairing`"):
        create("tl_align", pairing="random")


DIFFERS = """
distilled models, whose distillation token starts with the class token's label
= ::test_equals_the_propagation_of_whole_labels
pyramid transformers are refused.
= ::test_other_networks_are_refused
"""
