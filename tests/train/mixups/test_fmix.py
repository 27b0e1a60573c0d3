import numpy as np
import pytest
import torch
from scipy import stats

from evalkit.train.mixups.fmix import FMix, brightest, grey_image, noise_shape

from .fakes import context, index_images, own_share, own_weight

SIZES = [(32, 32), (24, 40), (33, 32), (20, 41)]


def sines(z, height, width):
    """The real image of a half spectrum (rows of frequencies, columns 0 .. width // 2), summed wave by wave."""
    y, x = np.arange(height)[:, None], np.arange(width)
    image = np.zeros((height, width))
    for u, row in enumerate(z):
        for c, value in enumerate(row):
            wave = value * np.exp(2j * np.pi * (u * y / height + c * x / width))
            image += wave.real * (1 if c == 0 or 2 * c == width else 2)
    return image / (height * width)


@pytest.mark.parametrize("size", SIZES)
def test_the_reference_spectrum_is_the_published_slip(size):
    """Rows 0 and 1 of the scaled noise are the real and imaginary parts; frequencies of the width become rows, the
    pair's two entries columns."""
    height, width = size
    columns = width // 2 + (2 if width % 2 else 1)
    noise = np.random.default_rng(0).standard_normal((height, columns, 2))
    z = np.empty((columns, 2), complex)
    for u in range(columns):
        fx = u / width if 2 * u < width else u / width - 1
        scale = [max(np.hypot(fy, fx), 1 / max(size)) ** -3.0 for fy in (0, 1 / height)]
        z[u] = scale[0] * noise[0, u] + 1j * scale[1] * noise[1, u]
    expected = sines(z[:height], height, width)
    assert noise_shape(*size, "reference") == (2, columns, 2)
    for rows in (noise, noise[:2]):  # of the rows the published code draws it uses two
        assert np.allclose(
            grey_image(rows, *size, 3.0, "reference"), expected, rtol=0, atol=1e-9 * np.abs(expected).max()
        )


@pytest.mark.parametrize("size", [(16, 16), (12, 21)])
def test_the_isotropic_spectrum_is_the_formula(size):
    """Real part of the inverse Fourier transform of the whole plane, wave by wave."""
    height, width = size
    noise, expected = np.random.default_rng(1).standard_normal((height, width, 2)), 0
    y, x = np.arange(height)[:, None], np.arange(width)
    for v in range(height):
        for u in range(width):
            f = np.hypot(min(v, height - v) / height, min(u, width - u) / width)
            z = complex(*noise[v, u]) / max(f, 1 / max(size)) ** 2.5
            expected = expected + (z * np.exp(2j * np.pi * (v * y / height + u * x / width))).real
    expected = expected / (height * width)
    assert noise_shape(*size, "isotropic") == (height, width, 2)
    assert np.allclose(grey_image(noise, *size, 2.5, "isotropic"), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def energy(spectrum, draws=200, side=32):
    """Mean power by frequency of the height and of the width."""
    rng, power = np.random.default_rng(2), 0
    for _ in range(draws):
        grey = grey_image(rng.standard_normal(noise_shape(side, side, spectrum)), side, side, 3.0, spectrum)
        spread = np.abs(np.fft.fft2(grey)) ** 2
        spread[0, 0] = 0
        power = power + spread / spread.sum()
    return power.sum(1) / draws, power.sum(0) / draws


def test_reference_masks_have_one_period_across():
    rows, columns = energy("reference")
    assert columns[2:-1].sum() < 1e-20 and rows[2:-1].sum() > 1e-3


def test_isotropic_masks_have_the_same_energy_both_ways():
    rows, columns = energy("isotropic", 600)
    assert np.allclose(rows, columns, atol=0.03) and columns[2:-1].sum() > 0.01


@pytest.mark.parametrize("lam", [0.0, 0.001, 0.25, 0.5, 0.7771, 1.0])
@pytest.mark.parametrize("up", [False, True])
def test_exactly_the_brightest_pixels(lam, up):
    grey = np.random.default_rng(3).standard_normal((13, 17)).round(1)  # with ties
    mask = brightest(grey, lam, up, 0.0)
    count = int(np.ceil(lam * 221) if up else np.floor(lam * 221))
    assert set(np.unique(mask)) <= {0.0, 1.0} and mask.sum() == count
    if 0 < count < 221:
        assert grey[mask == 1].min() >= grey[mask == 0].max()


def test_a_soft_mask_is_a_ramp_around_the_border():
    grey = np.random.default_rng(4).permutation(100).reshape(10, 10)
    rank = 99 - grey  # 0 is the brightest
    mask = brightest(grey, 0.3, False, 0.1)
    assert np.array_equal(mask == 1, rank <= 20) and np.array_equal(mask == 0, rank >= 39)
    for k, value in zip(range(20, 40), np.linspace(1, 0, 20)):
        assert mask[rank == k] == pytest.approx(value)
    assert mask.mean() == pytest.approx(0.3)
    narrow = brightest(grey, 0.04, False, 0.5)  # at most lam on either side
    assert (narrow > 0).sum() == 7 and narrow.mean() == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("lam", "up", "ones", "zeros"),
    [(0.055, True, 1, 89), (0.945, False, 89, 1), (0.055, False, 0, 90), (0.945, True, 90, 0)],
)
def test_a_ramp_takes_whole_pixels_of_the_smaller_share(lam, up, ones, zeros):
    """As the published code: floor(100 x 0.055) = 5 pixels on either side of the border, which may be at 5 or at 6."""
    mask = brightest(np.random.default_rng(4).permutation(100).reshape(10, 10), lam, up, 0.5)
    assert np.allclose(np.sort(mask.ravel()), [*[0] * zeros, *np.linspace(0, 1, 10), *[1] * ones])


def test_injected_draws_make_the_batch():
    noise = np.random.default_rng(5).standard_normal((2, 9, 2))
    x = index_images(3, 12, 16)
    for up, count in ((False, 57), (True, 58)):
        draws = {"lam": 0.3, "noise": noise, "coin": up, "partner": [1, 2, 0]}
        mixed = FMix().mix(context(draws=draws), x, torch.arange(3), None)
        rank = (-grey_image(noise, 12, 16, 3.0, "reference")).ravel().argsort().argsort().reshape(12, 16)
        assert np.array_equal(mixed.mask[0, 0].numpy() == 1, rank < count)
        assert torch.equal(mixed.x[0] == 0, mixed.mask[0] == 1) and torch.equal(mixed.x[0] == 1, mixed.mask[0] == 0)
        assert torch.allclose(own_share(mixed.x).float(), own_weight(mixed.weights)) and own_weight(mixed.weights)[
            0
        ] == pytest.approx(count / 192)
        sampled = FMix(lam="sampled").mix(context(draws=draws), x, torch.arange(3), None)
        assert torch.equal(sampled.x, mixed.x) and own_weight(sampled.weights)[0] == pytest.approx(0.3)


@pytest.mark.parametrize("spectrum", ["reference", "isotropic"])
def test_every_pixel_is_equally_often_own(spectrum):
    ctx, method, x, n = context(seed=6), FMix(spectrum=spectrum), index_images(2, 16, 16), 1500
    total, lam = torch.zeros(16, 16), []
    for _ in range(n):
        mixed = method.mix(ctx, x, torch.arange(2), None)
        total += mixed.mask[0, 0]
        lam.append(mixed.mask.mean().item())
    assert ((total / n - 0.5).abs() < 5 * 0.5 / np.sqrt(n)).all()
    assert stats.kstest(lam, "uniform").statistic < 1.95 / np.sqrt(n) + 1 / 256


def test_the_reformulated_objective_keeps_the_own_label():
    """lam ~ Beta(alpha + 1, alpha) has the mean (alpha + 1) / (2 alpha + 1)."""
    ctx, method, x = context(seed=7), FMix(alpha=1.0, reformulate=True, pairing="flip"), index_images(2, 16, 16)
    mixes = [method.mix(ctx, x, torch.arange(2), None) for _ in range(1500)]
    assert all(torch.equal(m.weights, torch.eye(2)) for m in mixes)
    assert np.mean([m.mask.mean().item() for m in mixes]) == pytest.approx(2 / 3, abs=4 * 0.236 / np.sqrt(1500))


def test_alpha_zero_and_presets():
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(FMix(alpha=0).mix(context(), x, torch.arange(4), None).x, x)
    for preset, arguments in FMix.PRESETS.items():
        method = FMix(**arguments)
        assert (method.spectrum == "isotropic") == (preset == "paper") and (method.lam == "sampled") == (
            preset in ("released", "openmixup")
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"alpha": -1}, "`alpha` to be a number of at least 0"),
        ({"decay": "fast"}, "`decay` to be a number of at least 0"),
        ({"max_soft": 0.6}, "`max_soft` to be a number from 0 to 0.5"),
        ({"spectrum": "white"}, "`spectrum` to be 'reference' or 'isotropic'"),
        ({"lam": "mean"}, "`lam` to be 'realised' or 'sampled'"),
        ({"reformulate": 1}, "`reformulate` to be true or false"),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError, match=said):
        FMix(**arguments)


DIFFERS = """
the label by default: the share of pixels, at most 1 / (H W) from lam.
= ::test_injected_draws_make_the_batch | ::test_exactly_the_brightest_pixels
The masks are the code's.
= ::test_the_reference_spectrum_is_the_published_slip | golden:fmix
"""
