import numpy as np
import pytest
import torch
from timm.data.mixup import rand_bbox

from evalkit.train.mixups.parts.boxes import align_box, box_around, draw_box, paste_box

from ..fakes import context, index_images, own_share, own_weight


def test_the_new_edge_is_timms_box():
    for seed in range(300):
        lam = np.random.default_rng(seed).random()
        np.random.seed(seed)
        y0, y1, x0, x1 = rand_bbox((3, 48, 80), lam)
        np.random.seed(seed)
        centre = (np.random.randint(0, 48), np.random.randint(0, 80))
        assert box_around(centre, lam, 48, 80, "new") == (y0, y1, x0, x1)


def test_boxes_by_hand():
    # lam = 0.75: side = half the image. 10 x 6: 5 x 3, both odd.
    assert box_around((5, 3), 0.75, 10, 6, "old") == (3, 7, 2, 4)
    assert box_around((5, 3), 0.75, 10, 6, "new") == (3, 8, 2, 5)
    assert box_around((0, 5), 0.75, 10, 6, "old") == (0, 2, 4, 6)  # clipped
    assert box_around((9, 0), 0.75, 10, 6, "new") == (7, 10, 0, 2)
    assert box_around((4, 4), 0.0, 8, 8) == (0, 8, 0, 8)
    assert box_around((3, 3), 1.0, 8, 8) == (3, 3, 3, 3)
    # float32 would see sqrt(1 - 0.19) * 10 = 8.9999998
    assert box_around((5, 5), 0.19, 10, 10, "new") == (1, 10, 1, 10)


@pytest.mark.parametrize(
    ("size", "alpha", "edge", "expected"),
    [
        (32, 1.0, "old", 0.7008),
        (32, 1.0, "new", 0.6901),
        (32, 0.2, "old", 0.7237),
        (32, 0.2, "new", 0.7123),
        (224, 1.0, "old", 0.6825),
        (224, 0.2, "new", 0.7027),
    ],
)
def test_mean_label_share(size, alpha, edge, expected):
    """Against 400,000 simulated draws of the published code."""
    ctx, lam = context(seed=5), []
    for _ in range(16000):
        y0, y1, x0, x1 = draw_box(ctx, size, size, alpha, edge)
        lam.append(1 - (y1 - y0) * (x1 - x0) / size**2)
    assert np.mean(lam) == pytest.approx(expected, abs=4 * np.std(lam) / np.sqrt(len(lam)))


def test_share_of_empty_boxes():
    """17.4 % of the batches at 32 pixels with alpha 0.2 are not mixed at all."""
    ctx = context(seed=6)
    empty = np.mean([y0 == y1 or x0 == x1 for y0, y1, x0, x1 in (draw_box(ctx, 32, 32, 0.2) for _ in range(8000))])
    assert empty == pytest.approx(0.174, abs=4 * np.sqrt(0.174 * 0.826 / 8000))


def test_injected_draws():
    assert draw_box(context(draws={"lam": 0.75, "centre": (5, 3)}), 10, 6, 1.0) == (3, 7, 2, 4)
    assert draw_box(context(draws={"box": np.array([1, 2, 3, 4])}), 10, 6, 1.0) == (1, 2, 3, 4)


def test_alignment_rounds_every_edge_to_the_nearest_patch_border():
    assert align_box((7, 100, 9, 120), 16, 224, 224) == (0, 96, 16, 128)
    assert align_box((0, 20, 3, 22), 8, 20, 22) == (0, 20, 0, 22)  # never beyond the image


def test_pasting_counts_pixels():
    x, partner = index_images(3, 6, 10), torch.tensor([2, 0, 1])
    mixed = paste_box(x, partner, (1, 4, 2, 9))
    for i in range(3):
        expected = torch.full((6, 10), float(i))
        expected[1:4, 2:9] = partner[i].item()
        assert torch.equal(mixed.x[i, 0], expected)
    assert torch.equal(own_share(mixed.x).float(), own_weight(mixed.weights))
    assert own_weight(mixed.weights)[0].item() == pytest.approx(1 - 21 / 60)
    assert mixed.mask.shape == (3, 1, 6, 10) and mixed.mask.sum((1, 2, 3)).tolist() == [39] * 3
    assert torch.equal(x, index_images(3, 6, 10))
