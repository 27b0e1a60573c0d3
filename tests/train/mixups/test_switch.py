import numpy as np
import pytest
import torch
from timm.data import Mixup as TimmMixup

from evalkit.train.mixups.switch import Switch

from .fakes import context, index_images, own_share, own_weight


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def timm_draws(mode, batch, height, width, mixup_alpha, cutmix_alpha, prob, switch_prob):
    """What timm draws from numpy's global state, in its order."""
    if mode == "batch":
        if np.random.rand() >= prob:
            return {"apply": False}
        cutmix = bool(np.random.rand() < switch_prob)
        alpha = cutmix_alpha if cutmix else mixup_alpha
        draws = {"apply": True, "cutmix": cutmix, "lam": np.random.beta(alpha, alpha)}
        return draws | ({"centre": (np.random.randint(height), np.random.randint(width))} if cutmix else {})
    n = batch if mode == "elem" else batch // 2
    cutmix = np.random.rand(n) < switch_prob
    lam = np.where(cutmix, np.random.beta(cutmix_alpha, cutmix_alpha, n), np.random.beta(mixup_alpha, mixup_alpha, n))
    apply = np.random.rand(n) < prob
    centre = np.zeros((n, 2), int)
    for i in range(n):
        if cutmix[i] and apply[i] and np.float32(lam[i]) != 1:
            centre[i] = np.random.randint(height), np.random.randint(width)
    return {"apply": apply, "cutmix": cutmix, "lam": lam, "centre": centre}


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("prob", [1.0, 0.7])
def test_equals_timm(mode, prob):
    arguments = {"mixup_alpha": 0.4, "cutmix_alpha": 0.7, "prob": prob, "switch_prob": 0.6}
    method = Switch(mode, edge="new", **arguments)
    theirs = TimmMixup(mode=mode, label_smoothing=0.1, num_classes=5, **arguments)
    for seed in range(60):
        x, y = images(6, 3, 24, 40, seed=seed), torch.arange(6) % 5
        np.random.seed(seed)
        timm_x, timm_target = theirs(x.clone(), y)
        np.random.seed(seed)
        ctx = context(5, smoothing=0.1, draws=timm_draws(mode, 6, 24, 40, **arguments))
        mixed = method.mix(ctx, x, y, None)
        assert torch.allclose(mixed.x, timm_x, atol=1e-6)
        assert torch.allclose(mixed.weights @ ctx.target(y), timm_target, atol=1e-6)


def test_boxes_equal_timms_on_large_images():
    """224 pixels, many boxes: a box off by one row would show as a wrong pixel."""
    method = Switch("elem", mixup_alpha=0, cutmix_alpha=0.2, edge="new")
    theirs = TimmMixup(mixup_alpha=0, cutmix_alpha=0.2, mode="elem", num_classes=2)
    x, y = index_images(64, 224, 224), torch.zeros(64, dtype=torch.int64)
    np.random.seed(0)
    timm_x, _ = theirs(x.clone(), y)
    np.random.seed(0)
    lam, _, centre = np.random.beta(0.2, 0.2, 64), np.random.rand(64), np.zeros((64, 2), int)
    for i in range(64):
        if np.float32(lam[i]) != 1:
            centre[i] = np.random.randint(224), np.random.randint(224)
    mixed = method.mix(context(draws={"lam": lam, "centre": centre}), x, y, None)
    assert torch.equal(mixed.x, timm_x)
    assert torch.allclose(own_share(mixed.x).float(), own_weight(mixed.weights), atol=1e-6)


def test_a_pair_swaps_its_content():
    x = images(7, 3, 12, 20)
    for seed in range(20):
        mixed = Switch("pair").mix(context(seed=seed), x, torch.arange(7), None)
        assert torch.allclose(mixed.x + mixed.x.flip(0), x + x.flip(0), atol=1e-5)
        lam = own_weight(mixed.weights)
        assert torch.equal(lam, lam.flip(0)) and torch.equal(mixed.x[3], x[3]) and lam[3] == 1


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_one_decision_per_batch_pair_or_image(mode):
    ctx, x = context(seed=1), index_images(8, 16, 16)
    masks = [Switch(mode, switch_prob=1.0).mix(ctx, x, torch.arange(8), None).mask for _ in range(5)]
    distinct = max(len(mask.flatten(1).unique(dim=0)) for mask in masks)
    assert {"batch": distinct == 1, "pair": 2 <= distinct <= 4, "elem": 5 <= distinct <= 8}[mode]


def test_the_share_of_cutmix_and_the_mean_label():
    """E[lam] = (1 - q) / 2 + q 0.7008, the mean label share of CutMix with alpha = 1 at 32 pixels; Var of Beta(0.8,
    0.8) = 1 / 10.4."""
    ctx, x, q = context(seed=2), index_images(64, 32, 32), 0.3
    lam, binary = [], []
    for _ in range(60):
        mixed = Switch("elem", switch_prob=q).mix(ctx, x, torch.arange(64), None)
        lam += own_weight(mixed.weights).tolist()
        binary += (mixed.mask.flatten(1) * (1 - mixed.mask.flatten(1)) == 0).all(1).tolist()
    n = len(lam)
    assert np.mean(binary) == pytest.approx(q, abs=4 * np.sqrt(q * (1 - q) / n))
    assert np.mean(lam) == pytest.approx((1 - q) / 2 + q * 0.7008, abs=4 * np.std(lam) / np.sqrt(n))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_unmixed_where_not_applied(mode):
    x = images(5, 3, 8, 8)
    mixed = Switch(mode, prob=0.0).mix(context(), x, torch.arange(5), None)
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(5)) and (mixed.mask == 1).all()


def test_one_of_the_two_can_be_off():
    x = images(6, 3, 8, 8)
    for mode in ("batch", "elem"):
        cut = Switch(mode, mixup_alpha=0).mix(context(), x, torch.arange(6), None)
        mix = Switch(mode, cutmix_alpha=0).mix(context(), x, torch.arange(6), None)
        assert set(cut.mask.unique().tolist()) <= {0.0, 1.0} and ((mix.mask > 0) & (mix.mask < 1)).any()


def test_the_old_edge_loses_the_odd_pixel():
    draws = {"lam": [0.75, 0.75], "cutmix": [True, True], "centre": [[5, 5], [5, 5]], "apply": [True, True]}
    for edge, count in (("old", 16), ("new", 25)):
        mixed = Switch("elem", edge=edge).mix(context(draws=draws), index_images(2, 10, 10), torch.arange(2), None)
        assert (mixed.x[0] == 1).sum() == (mixed.x[1] == 0).sum() == count


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "half"}, "`mode` to be 'batch', 'pair' or 'elem'"),
        ({"mixup_alpha": -1}, "`mixup_alpha` to be a number of at least 0"),
        ({"mixup_alpha": 0, "cutmix_alpha": 0}, "`mixup_alpha` to be larger than 0"),
        ({"switch_prob": 1.5}, "`switch_prob` to be a number from 0 to 1"),
        ({"edge": "round"}, "`edge` to be 'old' or 'new'"),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError, match=said):
        Switch(**arguments)


DIFFERS = """
odd batches, which timm refuses; the image in the middle stays unmixed.
= test_sources.py::test_timm_refuses_odd_batches
By default the box is the one of CutMix, which loses a pixel of odd sides; the preset "timm" keeps it.
= ::test_the_old_edge_loses_the_odd_pixel | ::test_equals_timm | golden:switch
timm's cutmix_minmax is left out.
= test_sources.py::test_timms_switch_has_a_key_that_ours_has_not
"""
