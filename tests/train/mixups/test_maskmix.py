import numpy as np
import pytest
import torch
from scipy import stats

from evalkit.errors import EvalkitError
from evalkit.train import create
from evalkit.train.mixups.maskmix import pixel_mask, pixel_share
from evalkit.train.mixups.parts.masks import token_block_mask

from .fakes import FakeNet, context, index_images, own_share, own_weight

NET = FakeNet(4)


def patches(x, size):
    """(B, N, pixels) of (B, 1, H, W)."""
    return x.unfold(2, size, size).unfold(3, size, size).flatten(4).flatten(1, 3)


def test_injected_cells_become_the_mask():
    cells = np.random.default_rng(0).random((3, 2, 3)) < 0.5
    x = index_images(3, 8, 12)
    mixed = create("maskmix", scale=1).mix(
        context(draws={"cells": cells.reshape(3, 6), "partner": [1, 2, 0]}), x, torch.arange(3), NET
    )
    expected = np.stack([np.kron(c, np.ones((4, 4))) for c in cells])
    assert np.array_equal(mixed.mask[:, 0].numpy(), expected)
    assert np.array_equal(
        mixed.x[:, 0].numpy(), np.where(expected == 1, np.arange(3)[:, None, None], np.array([1, 2, 0])[:, None, None])
    )
    assert own_weight(mixed.weights).tolist() == pytest.approx(cells.mean((1, 2)).tolist())


@pytest.mark.parametrize(("rounding", "count"), [("ceil", 3), ("floor", 2)])
def test_the_number_of_own_cells(rounding, count):
    method = create("maskmix", scale=1, count_rounding=rounding, pairing="flip")
    mixed = method.mix(context(draws={"lam": 0.6}), index_images(6, 8, 8), torch.arange(6), NET)
    assert (own_weight(mixed.weights) * 4).tolist() == [count] * 6
    assert (own_share(mixed.x) * 4).tolist() == [count] * 6


def test_every_sample_has_its_own_cells_and_every_cell_is_equally_likely():
    ctx, method, total = context(seed=1), create("maskmix", scale=1), torch.zeros(16)
    for _ in range(60):
        mixed = method.mix(ctx, index_images(32, 16, 16), torch.arange(32), NET)
        shares = mixed.mask.mean((1, 2, 3))
        assert (shares == shares[0]).all()  # one count per batch
        if 0.1 < shares[0] < 0.9:
            assert len(mixed.mask.flatten(1).unique(dim=0)) > 1
        total += mixed.mask[:, 0, ::4, ::4].flatten(1).sum(0)
    assert stats.chisquare(total.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("rounding", "expected"), [("ceil", 17 / 32), ("floor", 15 / 32)])
def test_mean_share_of_own_cells(rounding, expected):
    """(S + 1) / 2S rounded up, (S - 1) / 2S rounded down, S = 16."""
    ctx, method, x = context(seed=2), create("maskmix", scale=1, count_rounding=rounding), index_images(1, 16, 16)
    share = [method.mix(ctx, x, torch.arange(1), NET).mask.mean().item() for _ in range(3000)]
    assert np.mean(share) == pytest.approx(expected, abs=4 * np.std(share) / np.sqrt(3000))


@pytest.mark.parametrize(
    ("scale", "size"), [(1, (32, 48)), (2, (24, 32)), (4, (32, 40)), (1.5, (24, 24)), (7, (28, 28))]
)
def test_a_cell_of_whole_patches_never_splits_a_patch(scale, size):
    ctx, x = context(seed=3), index_images(4, *size)
    unit = 4 if scale == int(scale) else 2
    for _ in range(10):
        mixed = create("maskmix", scale=scale).mix(ctx, x, torch.arange(4), NET)
        whole = patches(mixed.x, unit)
        assert (whole == whole[:, :, :1]).all()


def test_half_a_patch_and_a_shifted_grid_do_split_patches():
    for arguments in ({"scale": 0.5}, {"scale": 1, "misaligned": True}):
        mixed = create("maskmix", pairing="flip", **arguments).mix(
            context(draws={"lam": 0.5}), index_images(4, 16, 16), torch.arange(4), NET
        )
        whole = patches(mixed.x, 4)
        assert not (whole == whole[:, :, :1]).all()
        assert torch.allclose(own_share(mixed.x).float(), own_weight(mixed.weights), atol=1e-6)


def test_cells_cut_by_the_border_weigh_what_is_left_of_them():
    """224 = 3.5 cells of 64: inner cells weigh 0.0816, those at an edge 0.0408, the corner 0.0204; 6 of 16 cells weigh
    0.224 to 0.490."""
    one = np.eye(16, dtype=bool).reshape(16, 4, 4)
    share = pixel_share(one, 64, (0, 0), 224, 224).reshape(4, 4)
    assert np.allclose(share[:3, :3], 0.081633, atol=1e-6) and np.allclose(share[3, :3], 0.040816, atol=1e-6)
    assert share[3, 3] == pytest.approx(0.020408, abs=1e-6) and share.sum() == pytest.approx(1, abs=1e-15)
    ordered = np.sort(share.ravel())
    assert (ordered[:6].sum(), ordered[-6:].sum()) == (pytest.approx(0.2245, abs=1e-4), pytest.approx(0.4898, abs=1e-4))


def test_the_share_is_the_mean_of_the_mask_exactly():
    rng = np.random.default_rng(4)
    for _ in range(40):
        height, width, cell = rng.integers(5, 40), rng.integers(5, 40), rng.integers(1, 9)
        offset = rng.integers(0, cell, size=2)
        cells = rng.random((2, -(-height // cell) + 1, -(-width // cell) + 1)) < 0.5
        mask = pixel_mask(torch.from_numpy(cells), cell, offset, height, width)
        assert mask.shape == (2, 1, height, width)
        brute = np.array(
            [
                [c[(r + offset[0]) // cell, (k + offset[1]) // cell] for r in range(height) for k in range(width)]
                for c in cells
            ]
        )
        assert np.array_equal(mask.flatten(1).numpy(), brute)
        assert np.array_equal(pixel_share(cells, cell, offset, height, width), brute.mean(1))


def test_lam_from_count_ignores_the_border():
    # own: the corner cell, cut to 2 x 2 of 6 x 6 pixels
    draws = {"cells": np.eye(4, dtype=bool)[[3, 0]].reshape(2, 2, 2), "partner": [1, 0]}
    for lam_from_count, expected in ((False, [1 / 9, 4 / 9]), (True, [0.25, 0.25])):
        method = create("maskmix", scale=1, lam_from_count=lam_from_count)
        weights = method.mix(context(draws=draws), index_images(2, 6, 6), torch.arange(2), NET).weights
        assert own_weight(weights).tolist() == pytest.approx(expected)


def test_the_offset_of_the_shifted_grid():
    draws = {"cells": np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0]] * 2), "partner": [1, 0], "offset": (1, 3)}
    mixed = create("maskmix", scale=1, misaligned=True).mix(
        context(draws=draws), index_images(2, 8, 8), torch.arange(2), NET
    )
    expected = torch.zeros(8, 8)
    expected[:3, :1] = 1  # cell 0 spans 4 pixels from (-1, -3)
    assert torch.equal(mixed.mask[0, 0], expected)
    ctx = context(seed=5)
    offsets = set()
    for _ in range(80):
        method = create("maskmix", scale=1, misaligned=True)
        mask = method.mix(ctx, index_images(1, 8, 8), torch.arange(1), NET).mask[0, 0]
        rows = (mask[1:] != mask[:-1]).any(1).nonzero().flatten()
        offsets |= {int(r + 1) % 4 for r in rows}
    assert offsets == {1, 2, 3}  # borders lie everywhere but on those of the patches


def unique_images(batch, height, width):
    return torch.arange(batch * height * width, dtype=torch.float32).view(batch, 1, height, width)


@pytest.mark.parametrize("shuffle", ["crop", "canvas", "both"])
def test_shuffling_moves_whole_patches_among_their_own_places(shuffle):
    x = unique_images(4, 16, 24)
    draws = {"lam": 0.5, "partner": [1, 2, 3, 0]}
    clean = create("maskmix", scale=2).mix(context(seed=6, draws=draws), x, torch.arange(4), NET)
    noisy = create("maskmix", scale=2, shuffle=shuffle).mix(context(seed=6, draws=draws), x, torch.arange(4), NET)
    assert torch.equal(clean.mask, noisy.mask) and torch.equal(clean.weights, noisy.weights)
    before, after = patches(clean.x, 4), patches(noisy.x, 4)
    own = patches(clean.mask, 4)[:, :, 0].bool()
    for i in range(4):
        for places, moved in ((own[i], shuffle in ("canvas", "both")), (~own[i], shuffle in ("crop", "both"))):
            old, new = before[i, places], after[i, places]
            assert torch.equal(old[old[:, 0].argsort()], new[new[:, 0].argsort()])  # the same patches
            assert torch.equal(old, new) != moved


def test_injected_noise_says_which_patch_goes_where():
    # One row of five patches of one pixel, own cells 0, 2 and 4. Places are filled in the order of the noise: own 2, 4,
    # 0; the partner's 3, 1.
    draws = {"cells": [[1, 0, 1, 0, 1]] * 2, "partner": [1, 0], "noise": np.array([[0.9, 0.5, 0.2, 0.3, 0.4]] * 2)}
    x = torch.tensor([[10.0, 11, 12, 13, 14], [20, 21, 22, 23, 24]]).view(2, 1, 1, 5)
    mixed = create("maskmix", scale=1, shuffle="both").mix(context(draws=draws), x, torch.arange(2), FakeNet(1))
    assert mixed.x.flatten(1).tolist() == [[12, 23, 14, 21, 10], [22, 13, 24, 11, 20]]


@pytest.mark.parametrize("shuffle", ["crop", "canvas", "both"])
def test_shuffling_keeps_the_memory_format_and_the_batch(shuffle):
    x = torch.randn(3, 3, 8, 16).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    mixed = create("maskmix", scale=1, shuffle=shuffle).mix(context(), x, torch.arange(3), NET)
    assert mixed.x.is_contiguous(memory_format=torch.channels_last) and torch.equal(x, before)


@pytest.mark.parametrize("shuffle", ["crop", "canvas", "both"])
def test_whole_cells_are_shuffled_too(shuffle):
    x, draws = unique_images(4, 16, 24), {"lam": 0.5, "partner": [1, 2, 3, 0]}
    clean = create("maskmix", scale=2).mix(context(seed=6, draws=draws), x, torch.arange(4), NET)
    noisy = create("maskmix", scale=2, shuffle=shuffle, shuffle_cells=True).mix(
        context(seed=6, draws=draws), x, torch.arange(4), NET
    )
    assert torch.equal(clean.mask, noisy.mask) and torch.equal(clean.weights, noisy.weights)
    before, after = patches(clean.x, 8), patches(noisy.x, 8)
    own, moved = patches(clean.mask, 8)[:, :, 0].bool(), 0
    for i in range(4):
        for places, allowed in ((own[i], shuffle in ("canvas", "both")), (~own[i], shuffle in ("crop", "both"))):
            old, new = before[i, places], after[i, places]
            assert torch.equal(old[old[:, 0].argsort()], new[new[:, 0].argsort()])
            assert allowed or torch.equal(old, new)
            moved += not torch.equal(old, new)
    assert moved


def test_all_orders_are_equally_likely():
    ctx, counts = context(seed=7, draws={"cells": [[0, 0, 0, 1]], "partner": [0]}), {}
    method, x = create("maskmix", scale=1, shuffle="crop"), torch.arange(4.0).view(1, 1, 1, 4)
    for _ in range(1200):
        order = tuple(method.mix(ctx, x, torch.arange(1), FakeNet(1)).x.flatten().tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and all(o[3] == 3 for o in counts) and stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_blocks_are_tokenmix_s():
    """4/7 of the patches come from the partner, in one mask for the batch; every patch from one image."""
    method, x = create("maskmix", "block"), index_images(6, 56, 56)
    shares = []
    for seed in range(20):
        mixed = method.mix(context(seed=seed), x, torch.arange(6), NET)
        assert (mixed.mask == mixed.mask[:1]).all() and mixed.partner.tolist() == [5, 4, 3, 2, 1, 0]
        whole = patches(mixed.mask, 4)
        assert (whole == whole[:, :, :1]).all() and torch.allclose(
            own_share(mixed.x).float(), own_weight(mixed.weights)
        )
        shares.append(round((1 - own_weight(mixed.weights)[0].item()) * 196))
    assert max(shares) == 112 and min(shares) >= 100 and shares.count(112) > 15
    expected = token_block_mask(np.random.default_rng(3), (14, 14), 112)
    assert np.array_equal(method.mix(context(seed=3), x, torch.arange(6), NET).mask[0, 0, ::4, ::4].numpy(), expected)


def test_presets_differ_only_by_the_documented_flags():
    def flags(preset):
        return {k: v for k, v in vars(create("maskmix", preset)).items() if not k.startswith("_")}

    default = flags("default")
    for preset, arguments in create("maskmix").PRESETS.items():
        assert {k: v for k, v in flags(preset).items() if v != default[k]} == {
            k: v for k, v in arguments.items() if v != default[k]
        }
    assert flags("random4x") == default and flags("random")["scale"] == 1 and flags("block")["mask"] == "block"


def test_cells_in_pixels_need_no_patches():
    mixed = create("maskmix", cell=8).mix(
        context(draws={"lam": 0.5}), index_images(2, 16, 16), torch.arange(2), FakeNet(None)
    )
    assert mixed.mask.mean((1, 2, 3)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "patch", "size", "said"),
    [
        ({"scale": 16}, 4, (32, 32), "cell 64 is larger than image 32; use a multiple of patch size 4 up to 32"),
        ({"scale": 6}, 4, (20, 32), "cell 24 is larger than image 20x32; use a multiple of patch size 4 up to 20"),
        (
            {"scale": 0.3},
            4,
            (32, 32),
            "cell 1.2 is not a whole number of pixels; use a multiple of patch size 4 up to 32",
        ),
        ({"cell": 64}, None, (32, 32), "cell 64 is larger than image 32; use at most 32"),
        (
            {},
            None,
            (32, 32),
            "this model has no patches to take the mask's cells from; give maskmix a cell size in pixels, e.g. cell=16",
        ),
        (
            {"scale": 2, "shuffle": "crop", "shuffle_cells": True},
            4,
            (28, 32),
            "shuffle_cells needs image 28x32 to be a multiple of cell 8",
        ),
        (
            {"scale": 0.5, "shuffle": "crop"},
            4,
            (32, 32),
            "shuffle=crop needs cell 2 and image 32 to be multiples of patch size 4",
        ),
    ],
)
def test_sizes_that_do_not_fit(arguments, patch, size, said):
    with pytest.raises(EvalkitError) as error:
        create("maskmix", **arguments).mix(context(), index_images(2, *size), torch.arange(2), FakeNet(patch))
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": 0}, "`scale` to be a number of patches larger than 0, but got 0"),
        ({"cell": 2.5}, "`cell` to be a whole number of pixels larger than 0, but got 2.5"),
        ({"mask": "region"}, "`mask` to be 'random' or 'block', but got 'region'"),
        ({"shuffle_cells": 1}, "`shuffle_cells` to be true or false, but got 1"),
        ({"count_rounding": "round"}, "`count_rounding` to be 'ceil' or 'floor', but got 'round'"),
        ({"shuffle": "all"}, "`shuffle` to be 'crop', 'canvas' or 'both', but got 'all'"),
        ({"shuffle": "crop", "misaligned": True}, "`misaligned` to be false where patches are shuffled, but got True"),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError) as error:
        create("maskmix", **arguments)
    assert said in str(error.value)


DIFFERS = """
combining them: n is rounded up
= ::test_the_number_of_own_cells | golden:maskmix
each image has a mask of its own as in the code (the paper rounds down, its algorithm 1 has one mask per batch)
= ::test_every_sample_has_its_own_cells_and_every_cell_is_equally_likely | golden:mixpro_algorithm1
lam is the true share of pixels as in the paper
= ::test_the_share_is_the_mean_of_the_mask_exactly
(the code's n / S is wrong where c does not divide the image).
= ::test_lam_from_count_ignores_the_border | ::test_cells_cut_by_the_border_weigh_what_is_left_of_them
"""
