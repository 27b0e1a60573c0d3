import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit.train import create
from evalkit.train.losses import soft_cross_entropy

from .fakes import FakeNet, FakeOutput, TinyAttention, context, index_images, own_weight

# The worked example: 2 x 2 patches of 2 x 2 pixels, own image in three of them, class attention, prediction. Two
# identical mixed samples (label 0 with partner 1); the criterion looks at the first one only.
CELLS = [[1, 1, 1, 0]] * 2
A = torch.tensor([[0.1, 0.4, 0.2, 0.1]] * 2)
P = torch.tensor([[0.6, 0.3, 0.1]] * 2)
Y = torch.tensor([0, 1])
LAM_AREA, LAM_ATTN = 0.75, 0.875


def example(method, smoothing=0.0, logits=None, **kwargs):
    """(lambda of the first sample, its loss, the logits)."""
    ctx = context(3, smoothing=smoothing, draws={"cells": CELLS, "partner": [1, 0]}, **kwargs)
    ctx = dataclasses.replace(ctx, criterion=lambda z, t: soft_cross_entropy(z[:1], t[:1]))
    x = index_images(2, 4, 4)
    mixed = method.mix(ctx, x, Y, FakeNet(2))
    assert own_weight(mixed.weights)[0].item() == LAM_AREA
    logits = P.log().requires_grad_() if logits is None else logits
    out = FakeOutput(logits, A, (2, 2))
    return own_weight(method.relabel(ctx, mixed, Y, out))[0], method.loss(ctx, x, Y, mixed, out, None), logits


def test_worked_example_without_smoothing():
    lam, loss, _ = example(create("mixpro", scale=1))
    assert lam.item() == pytest.approx(0.872391, abs=1e-6)
    assert loss.item() == pytest.approx(0.599277, abs=1e-6)


def test_worked_example_with_smoothing():
    lam, loss, _ = example(create("mixpro", scale=1), smoothing=0.1)
    assert lam.item() == pytest.approx(0.873526, abs=1e-6)
    assert loss.item() == pytest.approx(0.672554, abs=1e-6)
    lam, loss, _ = example(create("mixpro", scale=1, pal_hard_ce=True), smoothing=0.1)
    assert lam.item() == pytest.approx(0.873526, abs=1e-6)
    assert loss.item() == pytest.approx(0.598490, abs=1e-6)


@pytest.mark.parametrize(
    ("detach", "expected"), [(True, (-0.2724, 0.1724, 0.1000)), (False, (-0.2787, 0.1769, 0.1018))]
)
def test_the_gradient_that_leaks_through_the_cosine(detach, expected):
    _, loss, logits = example(create("mixpro", scale=1, pal_detach=detach))
    loss.backward()
    assert logits.grad[0].tolist() == pytest.approx(expected, abs=6e-5)


def test_the_count_of_the_example():
    for rounding, lam in (("ceil", 0.75), ("floor", 0.5)):
        method = create("mixpro", scale=1, count_rounding=rounding)
        mixed = method.mix(context(draws={"lam": 0.6, "partner": [1, 0]}), index_images(2, 4, 4), Y, FakeNet(2))
        assert own_weight(mixed.weights).tolist() == [lam, lam]


def test_a_perfect_prediction_trusts_the_attention_and_a_wrong_one_the_area():
    perfect = torch.tensor([[0.75, 0.25, 1e-30]] * 2).log()
    assert example(create("mixpro", scale=1), logits=perfect)[0].item() == pytest.approx(LAM_ATTN, abs=1e-6)
    wrong = torch.tensor([[-100.0, -100, 100]] * 2)
    assert example(create("mixpro", scale=1), logits=wrong)[0].item() == pytest.approx(LAM_AREA, abs=1e-6)


def test_a_cosine_rounded_above_one_gives_no_negative_share():
    # nothing of the own image is looked at
    method, attention = create("mixpro", scale=1), torch.tensor([[0.0, 0, 0, 1]] * 2)
    for seed in range(50):
        p = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed)) + 0.01
        target = p / p.sum(1, keepdim=True)
        ctx = dataclasses.replace(context(3, draws={"cells": CELLS, "partner": [1, 0]}), target=lambda y, t=target: t)
        mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
        out = FakeOutput((mixed.weights @ target).log(), attention, (2, 2))
        assert (method.relabel(ctx, mixed, Y, out) >= 0).all()


def test_autocast_rounds_neither_the_cosine_nor_the_target():
    plain = example(create("mixpro", scale=1), smoothing=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lam, loss, _ = example(create("mixpro", scale=1), smoothing=0.1)
    assert (lam.item(), loss.item()) == (plain[0].item(), plain[1].item())


@pytest.mark.parametrize(
    ("pal", "step", "expected"),
    [
        ("none", 0, LAM_AREA),
        ("equal", 0, (LAM_AREA + LAM_ATTN) / 2),
        ("linear", 0, LAM_AREA),
        ("linear", 30, 0.7 * LAM_AREA + 0.3 * LAM_ATTN),
        ("parabolic", 30, 0.91 * LAM_AREA + 0.09 * LAM_ATTN),
        ("learnable", 0, (LAM_AREA + LAM_ATTN) / 2),
    ],
)
def test_progress_factors(pal, step, expected):
    lam, _, _ = example(create("mixpro", scale=1, pal=pal), step=step, total_steps=100)
    assert lam.item() == pytest.approx(expected, abs=1e-6)


def test_the_learnable_factor_is_trained_through_lambda():
    """dL / d factor = (lam_attn - lam_area) (CE_own - CE_partner), then through the sigmoid; and as finite differences
    say."""
    method = create("mixpro", "learnable", scale=1)
    a = method.progress.a
    a.data.fill_(0.3)
    _, loss, _ = example(method)
    loss.backward()
    s = 1 / (1 + np.exp(-0.3))
    ce_own, ce_other = -np.log(0.6), -np.log(0.3)
    expected = (LAM_ATTN - LAM_AREA) * (ce_own - ce_other) * s * (1 - s)
    assert expected == pytest.approx(0.125 * -0.693147 * 0.244458, abs=1e-6)  # by hand
    assert a.grad.item() == pytest.approx(expected, rel=1e-5)
    losses = []
    for value in (0.3 - 0.05, 0.3 + 0.05):
        a.data.fill_(value)
        losses.append(example(method)[1].item())
    assert (losses[1] - losses[0]) / 0.1 == pytest.approx(expected, rel=1e-3)


def test_the_learnable_factor_has_a_group_of_its_own_without_weight_decay():
    method = create("mixpro", "learnable")
    assert (
        method.param_groups() == [{"params": [method.progress.a], "weight_decay": 0.0}]
        and method.progress.a.item() == 0
    )
    assert list(method.state_dict()) == ["progress.a"]
    assert create("mixpro").param_groups() == [] and not list(create("mixpro").parameters())


def test_progress_in_whole_epochs():
    """100 steps in 4 epochs: T / T_max is 0, 1/4, 1/2, 3/4; more epochs than the steps divide by begin with the next
    step."""
    for kind, power in (("linear", 1), ("parabolic", 2)):
        method = create("mixpro", pal=kind, pal_epochs=4)
        got = [method.progress(context(step=t, total_steps=100), None, None, None) for t in (0, 24, 25, 49, 50, 99)]
        assert got == [v**power for v in (0, 0, 0.25, 0.25, 0.5, 0.75)]
    by_step = create("mixpro", pal="linear").progress
    assert [by_step(context(step=t, total_steps=7), None, None, None) for t in range(7)] == [t / 7 for t in range(7)]


def test_lambda_lies_between_area_and_attention():
    g = torch.Generator().manual_seed(0)
    method, ctx = create("mixpro", scale=1), context(3, smoothing=0.1, seed=1)
    for _ in range(50):
        mixed = method.mix(ctx, index_images(6, 8, 12), torch.arange(6) % 3, FakeNet(4))
        out = FakeOutput(3 * torch.randn(6, 3, generator=g), torch.rand(6, 6, generator=g), (2, 3))
        lam = method.relabel(ctx, mixed, torch.arange(6) % 3, out)
        own = mixed.mask[:, 0, ::4, ::4].flatten(1)
        attn = (own * out.attention).sum(1) / out.attention.sum(1)
        alone = mixed.partner == torch.arange(6)
        low, high = torch.minimum(attn, own.mean(1)), torch.maximum(attn, own.mean(1))
        got = own_weight(lam)
        assert ((got >= low - 1e-6) & (got <= high + 1e-6))[~alone].all() and torch.allclose(
            got[alone], torch.tensor(1.0)
        )
        assert torch.allclose(lam.sum(1), torch.ones(6), atol=1e-6) and (lam >= 0).all()


def test_the_cosine_uses_the_smoothed_area_label():
    ctx = context(3, smoothing=0.3, draws={"cells": CELLS, "partner": [1, 0]})
    method = create("mixpro", scale=1)
    mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
    a = method.progress(ctx, mixed, Y, FakeOutput(P.log(), A, (2, 2)))
    area = 0.75 * np.array([0.8, 0.1, 0.1]) + 0.25 * np.array([0.1, 0.8, 0.1])
    p = np.array([0.6, 0.3, 0.1])
    assert a[0].item() == pytest.approx(p @ area / np.linalg.norm(p) / np.linalg.norm(area), abs=1e-6)


def test_on_a_cutmix_box():
    method = create("mixpro", mask="region")
    ctx = context(3, draws={"box": (0, 2, 2, 4), "partner": [1, 0]})
    mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
    lam = own_weight(method.relabel(ctx, mixed, Y, FakeOutput(P.log(), A, (2, 2))))[0].item()
    cosine = F.cosine_similarity(P[0], torch.tensor([0.75, 0.25, 0]), dim=0).item()
    assert lam == pytest.approx(cosine * 0.5 + (1 - cosine) * 0.75, abs=1e-6)


def test_on_blocks():
    """TokenMix's mask with the cosine label: one mask for both samples."""
    method = create("mixpro", mask="block", scale=1)
    ctx = context(3, draws={"cells": [[1, 0, 1, 1]] * 2, "partner": [1, 0]})
    mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
    assert mixed.mask[:, 0, ::2, ::2].flatten(1).tolist() == [[1, 0, 1, 1]] * 2
    lam = own_weight(method.relabel(ctx, mixed, Y, FakeOutput(P.log(), A, (2, 2))))[0].item()
    cosine = F.cosine_similarity(P[0], torch.tensor([0.75, 0.25, 0]), dim=0).item()
    assert lam == pytest.approx(cosine * 0.5 + (1 - cosine) * 0.75, abs=1e-6)


@pytest.mark.parametrize("residual", [True, False])
def test_attention_by_rollout(residual):
    asked = []

    def rollout(patches, prefix, residual):
        asked.append((patches, prefix, residual))
        return (A[:, :, None] * patches).sum(1)  # as if A were the row of the class token

    method = create("mixpro", scale=1, attn_depth="rollout", rollout_residual=residual)
    assert method.attention == "rollout"
    ctx = context(3, draws={"cells": CELLS, "partner": [1, 0]})
    mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
    lam = own_weight(method.relabel(ctx, mixed, Y, FakeOutput(P.log(), None, (2, 2), rollout=rollout)))
    assert lam[0].item() == pytest.approx(0.872391, abs=1e-6)
    ((patches, prefix, flag),) = asked
    assert (
        patches[..., 0].tolist() == CELLS and (patches[..., 1] == 1).all() and (prefix == 0).all() and flag is residual
    )


def test_literal_attention_is_not_normalised():
    ctx = context(3, draws={"cells": CELLS, "partner": [1, 0]})
    method = create("mixpro", scale=1, pal="equal", normalize_attn=False)
    mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
    weights = method.relabel(ctx, mixed, Y, FakeOutput(P.log(), A, (2, 2)))
    assert weights[0].tolist() == pytest.approx([(0.75 + 0.7) / 2, (0.25 + 0.3) / 2])


def test_half_a_patch_takes_the_top_left_pixel_or_the_mean():
    cells = np.zeros((2, 4, 4), bool)
    cells[:, 0, 0] = cells[:, 1, 3] = True  # a quarter of patch 0 with its top-left pixel, a quarter of patch 1 without
    for down, expected in (("nearest", 0.1 / 0.8), ("area", (0.1 + 0.4) / 4 / 0.8)):
        method = create("mixpro", scale=0.5, mask_down=down, pal="linear")
        ctx = context(3, draws={"cells": cells, "partner": [1, 0]}, step=1)
        mixed = method.mix(ctx, index_images(2, 4, 4), Y, FakeNet(2))
        lam = own_weight(method.relabel(ctx, mixed, Y, FakeOutput(P.log(), A, (2, 2))))[0].item()
        assert lam == pytest.approx(expected, abs=1e-6)


def test_attention_is_that_of_the_mixed_batch_in_the_same_pass():
    torch.manual_seed(0)
    net, calls = TinyAttention(), []
    net.register_forward_pre_hook(lambda m, args, kwargs: calls.append((args[0], kwargs)), with_kwargs=True)
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4)
    from evalkit.train import train_step

    ctx, method = context(draws={"lam": 0.5}), create("mixpro", scale=1, pairing="flip")
    train_step(ctx, net, method, x, y).backward()
    (seen, kwargs), mixed = calls[0], method.mix(context(draws={"lam": 0.5}), x, y, net)
    assert len(calls) == 1 and kwargs["attention"] is True and torch.equal(seen, mixed.x) and not torch.equal(seen, x)


def test_what_is_asked_of_the_network():
    assert create("mixpro", attn_depth=2).attention == 2
    assert create("mixpro", pal="none").attention is False


def test_cells_of_swin():
    """56 pixels over an attention grid of stride 32: its rows 0 to 6 see cells 0, 0, 1, 1, 2, 2, 3."""
    cells = np.arange(16).reshape(1, 4, 4) % 5 < 3
    x, grid = torch.randn(1, 3, 224, 224), torch.tensor([0, 0, 1, 1, 2, 2, 3])
    mixed = create("mixpro", "swin").mix(context(draws={"cells": cells}), x, Y[:1], FakeNet(32))
    own = torch.from_numpy(cells)
    assert torch.equal(mixed.mask[0, 0] > 0, own[0].repeat_interleave(56, 0).repeat_interleave(56, 1))
    assert torch.equal(F.interpolate(mixed.mask, (7, 7))[0, 0] > 0, own[0][grid][:, grid])


def test_presets_differ_only_by_the_documented_flags():
    def flags(preset):
        method = create("mixpro", preset)
        return {k: v for m in (method, method.images) for k, v in vars(m).items() if not k.startswith("_")}

    default = flags("default")

    def changed(preset):
        return {k: v for k, v in flags(preset).items() if v != default.get(k)}

    assert changed("paper") == {"pairing": "flip", "count_rounding": "floor", "normalize_attn": False}
    assert changed("released") == {"lam_from_count": True, "pal_detach": False, "pal_hard_ce": True}
    for pal in ("equal", "linear", "parabolic", "learnable"):
        assert changed(pal) == {"pal": pal}
    assert changed("misaligned") == {"misaligned": True} and changed("reduced") == {"scale": 0.5}
    assert changed("swin") == {"scale": 1.75}
    region, grid = create("mixpro", "pal_cutmix"), create("mixpro")
    assert type(region.images).__name__ == "CutMix" and (region.images.pairing, region.pal) == (
        grid.images.pairing,
        grid.pal,
    )
    assert [
        type(create("mixpro", p).progress).__name__ for p in ("default", "equal", "linear", "parabolic", "learnable")
    ] == [*("Cosine", "Equal", "Elapsed", "Elapsed", "Learnable")]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mask", "cutmix", "'random', 'block' or 'region'"),
        ("pal", "sine", "'cosine', 'equal', 'linear', 'parabolic', 'learnable' or 'none'"),
        ("pal_detach", "no", "true or false"),
        ("pal_epochs", 0, "a whole number of epochs"),
        ("attn_depth", "last", "the number of a block, 1 or more, 'rollout' for all of them"),
        ("rollout_residual", 1, "true or false"),
        ("scale", -1, "a number of patches larger than 0"),
    ],
)
def test_wrong_values(key, value, said):
    with pytest.raises(ValueError, match=f"Expected argument `{key}` to be {said}.*but got {value!r}"):
        create("mixpro", **{key: value})


def test_the_factors_of_the_newest_batch_can_be_seen():
    method = create("mixpro", scale=1)
    assert method.measured(0) == {}
    example(method, step=7)
    # of the worked example: lambda = a 0.875 + (1 - a) 0.75
    assert method.measured(7)["progress"][0].item() == pytest.approx((0.872391 - LAM_AREA) / 0.125, abs=1e-5)
    assert method.measured(8) == {} and not method.measured(7)["progress"].requires_grad
    example(create("mixpro", scale=1, pal="equal"), step=7)  # a constant is not worth showing


DIFFERS = """
combining them: as the code, cells are rounded up
= ::test_the_count_of_the_example | golden:mixpro
each image has a mask of its own (in the paper's algorithm 1, which the preset "paper" follows but for this, a batch has
one)
= test_maskmix.py::test_every_sample_has_its_own_cells_and_every_cell_is_equally_likely
= ::test_presets_differ_only_by_the_documented_flags | golden:mixpro_algorithm1
A is normalised
= ::test_worked_example_without_smoothing | golden:mixpro
as the paper, lam_area is the true share of pixels
= test_maskmix.py::test_the_share_is_the_mean_of_the_mask_exactly | golden:mixpro_algorithm1
the loss uses smoothed labels
= ::test_worked_example_with_smoothing
the cosine, about whose gradient the paper is silent, is detached.
= ::test_the_gradient_that_leaks_through_the_cosine
Of the ablations, which the code lacks and the paper describes in a line, B's offset, C's half a patch and the sigmoid
are our reading.
= test_maskmix.py::test_the_offset_of_the_shifted_grid | ::test_half_a_patch_takes_the_top_left_pixel_or_the_mean
= ::test_the_learnable_factor_is_trained_through_lambda
"""
