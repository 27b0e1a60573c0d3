"""One matrix that every method of METHODS goes through: what `mix` and `relabel` must do, whatever the equation."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from evalkit.errors import EvalkitError
from evalkit.train import METHODS

from .mixup_cases import CLASSES, Case, every_method, make_cnn, make_vit


def lacks(name, what):
    """Why a method does not have a property, "" if it has."""
    return METHODS[name].exempt.get(what, "")


def check(name, case, mixed, weights):
    batch = len(case.x)
    assert mixed.x.shape[1:] == case.x.shape[1:] and mixed.x.dtype == case.x.dtype
    assert mixed.x.isfinite().all()
    for w in (mixed.weights, weights):
        assert w.shape == (len(mixed.x), batch) and w.dtype == torch.float32
        assert (
            w.isfinite().all()
            and (w >= 0).all()
            and (w.sum(1) <= (4 if METHODS[name].row_sum is None else 1) + 1e-6).all()
        )
    assert torch.allclose(mixed.weights.sum(1), torch.ones(len(mixed.x)), atol=1e-6) or METHODS[name].row_sum is None
    if case.rows_sum_to_one:
        assert torch.allclose(weights.sum(1), torch.ones(len(mixed.x)), atol=1e-6)
    if mixed.mask is not None and mixed.partner is not None:
        assert (
            mixed.mask.shape == (len(mixed.x), 1, *mixed.x.shape[-2:]) and ((mixed.mask >= 0) & (mixed.mask <= 1)).all()
        )
        blend = mixed.mask * case.x.float() + (1 - mixed.mask) * case.x[mixed.partner].float()
        close = torch.allclose(
            mixed.x.float(), blend, atol=1e-5 if case.x.dtype in (torch.float32, torch.float64) else 0.04
        )
        assert close or lacks(name, "blend") or case.shuffles


@every_method
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (20, 12)])
def test_shapes_shares_and_masks(name, preset, branch, batch, size):
    case = Case(name, preset, branch, batch, size)
    if lacks(name, "oblong") and size[0] != size[1]:
        with pytest.raises(EvalkitError, match="needs square images"):
            case.mix()
        return
    for seed in range(3):
        mixed, _, weights = case.mix(seed)
        check(name, case, mixed, weights)


@every_method
def test_a_batch_of_one_is_left_alone(name, preset, branch):
    case = Case(name, preset, branch, batch=1)
    for seed in range(5):
        mixed, _, weights = case.mix(seed)
        assert torch.allclose(
            mixed.weights, torch.ones(len(mixed.x), 1), rtol=0, atol=1e-6 if METHODS[name].row_sum is None else 0
        )
        assert torch.equal(mixed.x[:1], case.x) or lacks(name, "alone") or case.shuffles
        if case.rows_sum_to_one:
            assert torch.allclose(weights, torch.ones(len(mixed.x), 1), atol=1e-7)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(name, preset, branch, dtype):
    half = Case(name, preset, branch, dtype=dtype)
    full = Case(name, preset, branch, images=half.x.float())  # the same pixels: some methods choose by them
    for seed in range(3):
        mixed, _, weights = half.mix(seed)
        check(name, half, mixed, weights)
        reference = full.mix(seed)[0]
        assert torch.equal(mixed.weights, reference.weights)
        assert torch.allclose(mixed.x.float(), reference.x, atol=0.04)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precisions(name, preset, branch, dtype):
    """Weights, and what a method adds to them, in one precision throughout, as for checks of gradients in float64."""
    build = make_cnn if METHODS[name].takes == "cnn" else make_vit
    other, plain = (
        Case(name, preset, branch, dtype=kind, net=lambda kind=kind: build().to(kind))
        for kind in (dtype, torch.float32)
    )
    ctx = other.context()
    mixed, reference = (
        other.method.mix(ctx, other.x, other.y, other.net),
        plain.method.mix(plain.context(), plain.x, plain.y, plain.net),
    )
    out = other.net(mixed.x, attention=other.method.attention, features=other.method.features, inject=mixed.inject)
    loss = other.method.loss(ctx, other.x, other.y, mixed, out, other.net)
    loss.backward()
    assert loss.isfinite() and all(
        p.grad is None or p.grad.isfinite().all() for p in (*other.net.parameters(), *other.method.parameters())
    )
    if dtype == torch.float64:
        expected = plain.method.loss(plain.context(), plain.x, plain.y, reference, plain.forward(reference), plain.net)
        assert torch.allclose(mixed.weights, reference.weights, atol=1e-5) and loss.item() == pytest.approx(
            expected.item(), rel=1e-4
        )


@every_method
def test_channels_last_stays_channels_last(name, preset, branch):
    case, plain = Case(name, preset, branch, layout=torch.channels_last), Case(name, preset, branch)
    mixed, _, _ = case.mix()
    assert mixed.x.is_contiguous(memory_format=torch.channels_last)
    # a convolution's last bits depend on the layout on some processors, and masks are computed by convolutions
    torch.testing.assert_close(mixed.x, plain.mix()[0].x, rtol=0, atol=1e-4)


@every_method
def test_inputs_that_are_views(name, preset, branch):
    whole = torch.randn(12, 3, 16, 32, generator=torch.Generator().manual_seed(1))
    view = whole[::2, :, :, 8:24]
    case, copied = Case(name, preset, branch, images=view), Case(name, preset, branch, images=view.clone())
    case.x = view
    assert torch.equal(case.mix()[0].x, copied.mix()[0].x)


@every_method
def test_the_same_draws_give_the_same_batch_and_other_draws_another(name, preset, branch):
    case = Case(name, preset, branch)
    first, again = case.mix(1), case.mix(1)
    assert (
        torch.equal(first[0].x, again[0].x)
        and torch.equal(first[1].logits, again[1].logits)
        and torch.equal(first[2], again[2])
    )
    torch.manual_seed(99)  # no global generator is used
    assert torch.equal(case.mix(1)[0].x, first[0].x)
    other = [case.mix(seed)[1].logits for seed in range(2, 8)]
    assert any(o.shape != first[1].logits.shape or not torch.equal(o, first[1].logits) for o in other) == (
        not lacks(name, "draws")
    )


@every_method
def test_no_global_generator_is_touched(name, preset, branch):
    case = Case(name, preset, branch)
    before = (torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    case.mix()
    assert (
        torch.equal(torch.random.get_rng_state(), before[0])
        and np.random.get_state()[1].tolist() == before[1]
        and random.getstate() == before[2]
    )


@every_method
def test_nothing_is_modified_in_place(name, preset, branch):
    case = Case(name, preset, branch)
    x, y = case.x.clone(), case.y.clone()
    for seed in range(3):
        ctx = case.context(seed)
        mixed = case.method.mix(ctx, case.x, case.y, case.net)
        out = case.forward(mixed)
        attended = [out.attention] if out.attention is not None else sum(out.rollout.pairs, ()) if out.rollout else []
        seen = [t.detach().clone() for t in (mixed.x, mixed.weights, out.logits, *attended)]
        case.method.loss(ctx, case.x, case.y, mixed, out, case.net)
        assert torch.equal(case.x, x) and torch.equal(case.y, y)
        after = (mixed.x, mixed.weights, out.logits, *attended)
        assert all(torch.equal(a, b) for a, b in zip(seen, after, strict=True))


class NoReadback(TorchDispatchMode):
    """Fails when a tensor's value is asked for on the host (item, bool, int, float): on a GPU that waits for the
    device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func) and "nonzero" not in str(func), f"{func} reads from the device"
        return func(*args, **(kwargs or {}))


def one_hot(labels, count):
    """torch's reads the labels to check them, but on the CPU only."""
    return torch.zeros(*labels.shape, count, dtype=torch.int64).scatter(-1, labels[..., None], 1)


@every_method
def test_nothing_is_read_back_from_the_device(name, preset, branch, monkeypatch):
    case = Case(name, preset, branch)
    ctx = case.context()
    mixed = case.method.mix(ctx, case.x, case.y, case.net)  # the first time, the label weights are looked at
    case.method.loss(ctx, case.x, case.y, mixed, case.forward(mixed), case.net)

    def refuse(*_, **__):
        raise AssertionError("a tensor was brought to the host")

    def step():
        with NoReadback(), monkeypatch.context() as patch:
            for reader in ("cpu", "numpy", "tolist", "__array__"):
                patch.setattr(torch.Tensor, reader, refuse)
            patch.setattr(F, "one_hot", one_hot)
            mixed = case.method.mix(ctx, case.x, case.y, case.net)
            case.method.loss(ctx, case.x, case.y, mixed, case.forward(mixed), case.net)

    if METHODS[name].waits:
        with pytest.raises(AssertionError, match="reads from the device"):
            step()
    else:
        step()


@every_method
def test_identical_images_stay_as_they_are(name, preset, branch):
    case = Case(
        name,
        preset,
        branch,
        images=torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).repeat(5, 1, 1, 1),
        batch=5,
    )
    if lacks(name, "itself") or case.shuffles:
        # else it need not be listed
        assert any(len(m.x) != 5 or not torch.allclose(m.x, case.x) for m in (case.mix(seed)[0] for seed in range(8)))
        return
    alone = case.net(case.x[:1]).logits
    for seed in range(3):
        mixed, out, _ = case.mix(seed)
        assert torch.allclose(mixed.x, case.x[: len(mixed.x)], atol=1e-6)
        assert torch.allclose(out.logits, alone.expand_as(out.logits), atol=1e-5) or lacks(name, "logits")


@every_method
def test_equal_labels_make_the_target_independent_of_lambda(name, preset, branch):
    case = Case(name, preset, branch, labels=torch.full((6,), 2))
    for seed in range(3):
        _, _, weights = case.mix(seed)
        target = case.context().target(case.y)
        if case.rows_sum_to_one:
            assert torch.allclose(weights @ target, target[:1].expand(len(weights), -1), atol=1e-6)


@every_method
def test_renaming_the_classes_changes_nothing(name, preset, branch):
    if lacks(name, "renaming"):
        pytest.skip(f"{name}'s labels are {lacks(name, 'renaming')}")
    case, order = Case(name, preset, branch, net=make_vit), torch.tensor([3, 0, 4, 1, 2])
    ctx = case.context()
    mixed = case.method.mix(ctx, case.x, case.y, case.net)
    out = case.forward(mixed)
    loss = case.method.loss(ctx, case.x, case.y, mixed, out, case.net)
    heads = [
        case.net.model.get_classifier(),
        *(m for m in case.method.modules() if isinstance(m, torch.nn.Linear) and m.out_features == CLASSES),
    ]
    with torch.no_grad():
        for head in heads:  # class k is now called order[k]
            head.weight.copy_(head.weight[order.argsort()])
            head.bias.copy_(head.bias[order.argsort()])
    renamed = dataclasses.replace(out, logits=out.logits[:, order.argsort()])
    assert case.method.loss(ctx, case.x, order[case.y], mixed, renamed, case.net).item() == pytest.approx(
        loss.item(), rel=1e-5
    )


@every_method
def test_label_shares_carry_no_gradient_unless_asked_to(name, preset, branch):
    case = Case(name, preset, branch)
    ctx = case.context()
    mixed = case.method.mix(ctx, case.x, case.y, case.net)
    assert not mixed.x.requires_grad
    weights = case.method.relabel(ctx, mixed, case.y, case.forward(mixed))
    assert weights.requires_grad == (
        getattr(case.method, "pal", None) == "learnable" or not getattr(case.method, "pal_detach", True)
    )
