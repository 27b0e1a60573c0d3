import math

import numpy as np
import pytest
import torch

from evalkit.train.mixups.gridmix import GridMix

from .fakes import context, index_images, own_share, own_weight


def holes_one_by_one(height, width, lam, holes, hole_aspect, area, aspect, offset):
    """The published loop over holes, in a crop that is clamped to the image. (H, W) bool, true in holes, and the
    crop."""
    crop_w = min(int(math.sqrt(int(height * width * area) / aspect)), width)
    crop_h = min(int(crop_w * aspect), height)
    x0, y0 = int((width - crop_w) * offset[0]), int((height - crop_h) * offset[1])
    patch_w = math.ceil(crop_w / holes)
    patch_h = int(patch_w * hole_aspect)
    hole_w = min(max(int(patch_w * math.sqrt(1 - lam)), 1), patch_w - 1)
    hole_h = min(max(int(patch_h * math.sqrt(1 - lam)), 1), patch_h - 1)
    mask = np.zeros((height, width), bool)
    for i in range(holes + 1):
        for j in range(math.ceil(crop_h / patch_h) + 1):
            left, top = min(i * patch_w, crop_w), min(j * patch_h, crop_h)
            mask[y0 + top : y0 + min(top + hole_h, crop_h), x0 + left : x0 + min(left + hole_w, crop_w)] = True
    return mask, (y0, y0 + crop_h, x0, x0 + crop_w)


@pytest.mark.parametrize("size", [(32, 32), (48, 30), (40, 77)])
def test_the_closed_form_is_the_loop_over_holes(size):
    rng, x, method = np.random.default_rng(0), index_images(2, *size), GridMix()
    for _ in range(300):
        draws = {
            "lam": rng.random(),
            "holes": int(rng.integers(1, 7)),
            "hole_aspect": rng.uniform(0.7, 1.5),
            "crop": (rng.uniform(0.5, 1), rng.uniform(0.5, 2)),
            "offset": tuple(rng.random(2)),
            "partner": [1, 0],
        }
        mask, (top, bottom, left, right) = holes_one_by_one(
            *size, draws["lam"], draws["holes"], draws["hole_aspect"], *draws["crop"], draws["offset"]
        )
        mixed = method.mix(context(draws=draws), x, torch.arange(2), None)
        assert np.array_equal(mixed.x[0, 0].numpy() == 1, mask) and np.array_equal(mixed.x[1, 0].numpy() == 0, mask)
        assert own_weight(mixed.weights).tolist() == pytest.approx([1 - mask.mean()] * 2, abs=1e-7)
        assert (
            not mask[:top].any() and not mask[bottom:].any() and not mask[:, :left].any() and not mask[:, right:].any()
        )


def test_by_hand():
    """12 x 12 pixels, the whole image as the crop: 3 holes across, patches of 4, holes of floor(4 sqrt(1/2)) = 2."""
    draws = {"lam": 0.5, "holes": 3, "hole_aspect": 1.0, "crop": (1.0, 1.0), "offset": (0.9, 0.9), "partner": [1, 0]}
    mixed = GridMix().mix(context(draws=draws), index_images(2, 12, 12), torch.arange(2), None)
    line = torch.tensor([0.0, 0.0, 1.0, 1.0] * 3)
    assert torch.equal(mixed.mask[0, 0], torch.maximum(line[:, None], line)) and own_weight(mixed.weights)[0] == 0.75


@pytest.mark.parametrize(("side", "expected"), [(32, 0.736), (224, 0.668)])
def test_mean_label_share(side, expected):
    """Against simulated draws of the published code with the clamped crop, alpha = 0.2."""
    ctx, method = context(seed=1), GridMix()
    lam = []
    for _ in range(6000):
        rows, columns = method.draw_holes(ctx, side, side)
        lam.append(1 - rows.mean() * columns.mean())
    assert np.mean(lam) == pytest.approx(expected, abs=4 * np.std(lam) / np.sqrt(len(lam)) + 0.002)


def test_there_are_always_holes_and_they_count():
    ctx, x, method = context(seed=2), index_images(3, 16, 20), GridMix(**GridMix.PRESETS["released"])
    for _ in range(50):
        mixed = method.mix(ctx, x, torch.arange(3), None)
        alone = mixed.partner == torch.arange(3)
        assert mixed.mask.min() == 0
        assert torch.allclose(own_share(mixed.x)[~alone].float(), own_weight(mixed.weights)[~alone], atol=1e-6)


def test_uniform_lambda_and_the_ranges_of_the_draws():
    """100 columns in 2, 3 or 4 patches of 50, 34 or 25, holes of sqrt(0.49) = 0.7 of them."""
    ctx, x, first = context(seed=3), index_images(2, 100, 100), set()
    method = GridMix(alpha=(0.5099, 0.51), holes=(2, 4), area=1.0, aspect=1.0)
    for _ in range(60):
        line = method.mix(ctx, x, torch.arange(2), None).mask[0, 0, 0].tolist()
        hole = line.index(1.0)
        first.add((hole, line.index(0.0, hole)))
    assert first == {(35, 50), (23, 34), (17, 25)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"alpha": 0}, "`alpha` to be larger than 0"),
        ({"alpha": [0.9, 0.1]}, "`alpha` to be two numbers in order, from 0 to 1"),
        ({"holes": [0, 3]}, "`holes` to be two numbers in order, from 1"),
        ({"holes": [1.5, 3]}, "`holes` to be whole numbers"),
        ({"area": [0.5, 1.5]}, "`area` to be two numbers in order"),
        ({"aspect": 0}, "`aspect` to be two numbers in order"),
        ({"pairing": "random"}, "`pairing`"),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError, match=said):
        GridMix(**arguments)


DIFFERS = """
clamping the crop to the image (there it exceeds it in about half of the draws)
= ::test_the_closed_form_is_the_loop_over_holes
= test_sources.py::test_gridmixs_code_exceeds_the_image_in_about_half_of_the_draws
the number of holes to the crop
= ::test_there_are_always_holes_and_they_count
from the paper in leaving out its patch-wise loss, as the code does.
= test_sources.py::test_methods_without_a_loss_of_their_own | golden:gridmix
"""
