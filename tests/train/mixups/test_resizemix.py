import math

import numpy as np
import pytest
import torch

from evalkit.train.mixups.resizemix import ResizeMix

from .fakes import context, index_images, own_share, own_weight


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shrink(image, tau):
    """Nearest neighbour: target pixel k shows source pixel floor(k / tau)."""
    rows, columns = (
        np.minimum((np.arange(int(n * tau)) * np.float32(1 / tau)).astype(int), n - 1) for n in image.shape[1:]
    )
    return image[:, rows][:, :, columns]


@pytest.mark.parametrize("size", [(40, 56), (32, 32), (33, 20)])
def test_equals_one_sample_after_the_other(size):
    rng, (height, width) = np.random.default_rng(0), size
    x, y = images(5, 3, *size), torch.arange(5)
    for _ in range(60):
        tau, centre, partner = rng.uniform(0.1, 0.8), rng.integers(size, size=(5, 2)), rng.permutation(5)
        mixed = ResizeMix().mix(context(draws={"tau": tau, "centre": centre, "partner": partner}), x, y, None)
        h, w = int(height * tau), int(width * tau)
        for i in range(5):
            top, left = max(centre[i, 0] - h // 2, 0), max(centre[i, 1] - w // 2, 0)
            bottom, right = min(top + h, height), min(left + w, width)
            top, left = bottom - h, right - w  # moved inside, never cut
            expected = x[i].numpy().copy()
            expected[:, top:bottom, left:right] = shrink(x[partner[i]].numpy(), tau)
            assert np.array_equal(mixed.x[i].numpy(), expected)
            mask = np.ones(size)
            mask[top:bottom, left:right] = 0
            assert np.array_equal(mixed.mask[i, 0].numpy(), mask)
            if partner[i] != i:
                assert (
                    mixed.weights[i, i].item()
                    == pytest.approx(1 - h * w / (height * width), abs=1e-6)
                    == pytest.approx(mask.mean(), abs=1e-6)
                )
                assert mixed.weights[i, partner[i]].item() == pytest.approx(h * w / (height * width), abs=1e-6)


def test_by_hand():
    """Half of a 4 x 4 image, pixels 0, 2, 8 and 10, in the corner nearest to the pixel drawn."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(2, 1, 1, 1) + torch.tensor([0.0, 100.0])[:, None, None, None]
    draws = {"tau": 0.5, "centre": [[0, 3], [3, 0]], "partner": [1, 0]}
    mixed = ResizeMix().mix(context(draws=draws), x, torch.arange(2), None)
    assert mixed.x[0, 0].tolist() == [[0, 1, 100, 102], [4, 5, 108, 110], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert mixed.x[1, 0, 2:, :2].tolist() == [[0, 2], [8, 10]] and own_weight(mixed.weights).tolist() == [0.75, 0.75]


def test_openmixup_clips_one_box_and_squeezes_the_partner_into_it():
    x = images(3, 2, 20, 30)
    draws = {"tau": 0.5, "centre": (2, 28), "partner": [1, 2, 0]}
    mixed = ResizeMix(**ResizeMix.PRESETS["openmixup"]).mix(context(draws=draws), x, torch.arange(3), None)
    # sides 10 and 15: rows 2 - 5 .. 2 + 5 and columns 28 - 7 .. 28 + 7, cut off at 0 and 30
    expected = x.clone()
    rows, columns = torch.arange(7) * 20 // 7, torch.arange(9) * 30 // 9
    for i, j in enumerate(draws["partner"]):
        expected[i, :, 0:7, 21:30] = x[j][:, rows][:, :, columns]
    assert torch.equal(mixed.x, expected)
    assert own_weight(mixed.weights).tolist() == pytest.approx([1 - 63 / 600] * 3)


@pytest.mark.parametrize(("preset", "side", "expected"), [("default", 64, None), ("openmixup", 32, 0.841)])
def test_mean_label_share(preset, side, expected):
    """Without rounding 1 - (0.8^3 - 0.1^3) / 2.1 = 0.7567; with it the mean over tau of 1 - floor(tau S)^2 / S^2.
    OpenMixup: simulated draws."""
    if expected is None:
        tau = np.linspace(0.1, 0.8, 70001)
        expected = (1 - (np.floor(tau * side) / side) ** 2).mean()
        assert expected == pytest.approx(0.7567, abs=0.01)
    ctx, method, x = (
        context(seed=1),
        ResizeMix(**ResizeMix.PRESETS[preset], pairing="flip"),
        index_images(2, side, side),
    )
    lam = [own_weight(method.mix(ctx, x, torch.arange(2), None).weights)[0].item() for _ in range(3000)]
    assert np.mean(lam) == pytest.approx(expected, abs=4 * np.std(lam) / np.sqrt(3000))


@pytest.mark.parametrize("preset", ["default", "openmixup"])
def test_the_label_is_the_share_of_pixels(preset):
    ctx, method, x = context(seed=2), ResizeMix(**ResizeMix.PRESETS[preset]), index_images(5, 20, 33)
    for _ in range(40):
        mixed = method.mix(ctx, x, torch.arange(5), None)
        alone = mixed.partner == torch.arange(5)
        sources = torch.stack([torch.arange(5.0), mixed.partner.float()], 1)[:, :, None, None]
        assert (mixed.x == sources).any(1).all() and (own_weight(mixed.weights)[alone] == 1).all()
        assert torch.allclose(own_share(mixed.x)[~alone].float(), own_weight(mixed.weights)[~alone], atol=1e-6)


def test_every_sample_has_its_own_place():
    mixed = ResizeMix().mix(context(seed=3), index_images(16, 32, 32), torch.arange(16), None)
    assert len(mixed.mask.flatten(1).unique(dim=0)) > 10 and (mixed.mask.mean((1, 2, 3)) == mixed.mask[0].mean()).all()


def test_beta_distributed_tau_stays_in_the_scope():
    rng, method = np.random.default_rng(4), ResizeMix(alpha=5.0, scope=(0.4, 0.6))
    tau = np.array([method.draw_tau(rng) for _ in range(4000)])
    inside = 4000 * 0.5  # Beta(5, 5) has 0.4666 of its mass in [0.4, 0.6]; the rest is redrawn uniformly
    assert tau.min() >= 0.4 and tau.max() <= 0.6 and (abs(tau - 0.5) < 0.05).sum() > inside * 1.005
    uniform = np.array([ResizeMix(scope=(0.4, 0.6)).draw_tau(rng) for _ in range(4000)])
    assert abs(uniform.mean() - 0.5) < 4 * 0.2 / math.sqrt(12 * 4000)


def test_partners_must_be_a_permutation():
    with pytest.raises(ValueError, match="Expected draw `partner` to be a permutation of 3 images"):
        ResizeMix().mix(context(draws={"partner": [0, 0, 1]}), images(3, 1, 16, 16), torch.arange(3), None)


def test_no_pixel_left_means_no_mixing():
    x = images(3, 1, 6, 6)
    for preset in ("default", "openmixup"):
        mixed = ResizeMix(**ResizeMix.PRESETS[preset]).mix(context(draws={"tau": 0.1}), x, torch.arange(3), None)
        assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scope": (0.8, 0.1)}, "`scope` to be two numbers in order, from 0 to 1"),
        ({"alpha": 0}, "`alpha` to be a number larger than 0"),
        ({"box": "round"}, "`box` to be 'inside' or 'clipped'"),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError, match=said):
        ResizeMix(**arguments)


DIFFERS = """
a batch of one image, and a tau for which no pixel is left, stay unmixed.
= ::test_equals_one_sample_after_the_other | test_closed_form.py::test_a_batch_of_one_stays
= ::test_no_pixel_left_means_no_mixing | golden:resizemix
"""
