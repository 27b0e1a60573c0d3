import numpy as np
import pytest
import torch

from evalkit.train.mixups.smoothmix import SmoothMix

from .fakes import context, own_weight


def rolled_grid(side, shift_y, shift_x, sigma):
    """The published construction: a Gaussian on a grid of twice the size, rolled cyclically, its middle cut out."""
    middle = (2 * side - 1) / 2
    line = np.exp(-((np.arange(2 * side) - middle) ** 2) / (2 * sigma**2))
    half = slice(side // 2, side // 2 + side)
    return np.outer(np.roll(line, shift_y)[half], np.roll(line, shift_x)[half])


@pytest.mark.parametrize("side", [16, 32])
def test_the_closed_form_is_the_rolled_grid(side):
    rng, x = np.random.default_rng(0), torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 1, side, side)
    for _ in range(100):
        pixel, share = rng.integers(side, size=2), rng.uniform(0.25, 0.5)
        g = rolled_grid(side, *(pixel - side // 2), share * side)
        mixed = SmoothMix().mix(
            context(draws={"centre": pixel, "sigma": share, "partner": [1, 0]}), x, torch.arange(2), None
        )
        assert np.allclose(mixed.x[0, 0].numpy(), 1 - g, atol=1e-6) and np.allclose(mixed.x[1, 0].numpy(), g, atol=1e-6)
        assert np.allclose(mixed.mask[0, 0].numpy(), 1 - g, atol=1e-6)
        assert own_weight(mixed.weights).tolist() == pytest.approx([1 - g.mean()] * 2, abs=1e-6)


def test_a_gaussian_on_an_image_that_is_not_square():
    draws = {"centre": (3, 20), "sigma": 0.3, "partner": [1, 0]}
    mixed = SmoothMix().mix(context(draws=draws), torch.zeros(2, 1, 10, 30), torch.arange(2), None)
    r, c = np.mgrid[:10, :30]
    g = np.exp(-((r - 2.5) ** 2 + (c - 19.5) ** 2) / (2 * 3.0**2))
    assert (
        np.allclose(1 - mixed.mask[0, 0].numpy(), g, atol=1e-6)
        and np.linalg.matrix_rank(1 - mixed.mask[0, 0].numpy(), tol=1e-4) == 1
    )


def test_mean_label_share():
    """0.57 for the own image over 400,000 simulated draws; OpenMixup gives it 0.43."""
    x = torch.zeros(2, 1, 64, 64)
    for arguments, expected in (({}, 0.57), (SmoothMix.PRESETS["openmixup"], 0.43)):
        ctx, method = context(seed=1), SmoothMix(pairing="flip", **arguments)
        lam = [own_weight(method.mix(ctx, x, torch.arange(2), None).weights)[0].item() for _ in range(2500)]
        assert np.mean(lam) == pytest.approx(expected, abs=4 * np.std(lam) / np.sqrt(2500) + 0.004)
        assert 0.1 < 1 - max(lam if expected > 0.5 else [1 - v for v in lam]) < 0.2  # from 0.11 to 0.73 of the partner


def test_swapped_labels_change_nothing_but_the_label():
    x = torch.randn(4, 3, 8, 8)
    right, swapped = (SmoothMix(swap_labels=s).mix(context(seed=2), x, torch.arange(4), None) for s in (False, True))
    assert torch.equal(right.x, swapped.x) and torch.equal(right.mask, swapped.mask)
    alone = right.partner == torch.arange(4)
    assert torch.allclose(own_weight(right.weights)[~alone], 1 - own_weight(swapped.weights)[~alone], atol=1e-6)


def test_alpha_is_accepted_with_a_warning():
    with pytest.warns(UserWarning, match="`alpha` has no effect"):
        SmoothMix(alpha=0.2)


def test_wrong_values():
    with pytest.raises(ValueError, match="`sigma` to be two numbers in order"):
        SmoothMix(sigma=(0.5, 0.25))
    with pytest.raises(ValueError, match="`swap_labels` to be true or false"):
        SmoothMix(swap_labels="yes")


DIFFERS = """
nothing known by default (no official code is public)
= ::test_a_gaussian_on_an_image_that_is_not_square | read: the paper names no repository
OpenMixup swaps the labels (preset "openmixup"; "released" is the same).
= ::test_swapped_labels_change_nothing_but_the_label | test_preset_sources.py::test_a_preset_is_its_source
= golden:smoothmix
"""
