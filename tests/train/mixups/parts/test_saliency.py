import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from evalkit.train.mixups.base import Mixed
from evalkit.train.mixups.parts.saliency import (
    SaliencyMethod,
    blur,
    evaluating,
    fine_grained,
    fine_grained_of_floats,
    gaussian,
    shares,
    spectral_residual,
    to_bytes,
)

from ..fakes import FakeOutput, context
from ..saliency_fakes import SaliencyNet, smooth_images


def reference_map(centre, field):
    """Centre-surround map of (H, W) arrays, pixel by pixel, as OpenCV's source writes it."""
    height, width = field.shape
    sums = np.zeros((height + 1, width + 1), field.dtype)
    sums[1:, 1:] = field.cumsum(0).cumsum(1)
    on, off = np.zeros((height, width), np.int64), np.zeros((height, width), np.int64)
    for n in (12, 24, 48, 28, 56, 112):
        for y in range(height):
            y1, y2 = np.clip([y - n + 1, y + n + 1], 0, height)
            for x in range(width):
                x1, x2 = np.clip([x - n + 1, x + n + 1], 0, width)
                total = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
                mean = np.float32(total - centre[y, x]) / np.float32((y2 - y1) * (x2 - x1) - 1)
                difference = np.float32(centre[y, x]) - mean
                if difference > 0:
                    on[y, x] += int(difference) % 256
                else:
                    off[y, x] += int(-difference) % 256
    on, off = (255 * m // max(m.max(), 1) for m in (on, off))
    return 255 * (on + off) // max(on.max(), off.max(), 1) % 256


def reference_smooth(grey, whole):
    for _ in range(2):
        p = np.pad(grey, 1, mode="reflect")
        height, width = grey.shape
        weighted = sum(
            a * b * p[i : i + height, j : j + width] for i, a in enumerate((1, 2, 1)) for j, b in enumerate((1, 2, 1))
        )
        grey = (weighted + 8) >> 4 if whole else weighted / np.float32(16)
    return grey


def reference_fine_grained(pixels):
    red, green, blue = pixels.astype(np.int64)
    grey = reference_smooth((3735 * blue + 19235 * green + 9798 * red + 2**14) >> 15, whole=True)
    return reference_map(grey, grey)


@pytest.mark.parametrize(("height", "width", "seed"), [(32, 32, 0), (24, 40, 1), (61, 30, 2), (2, 2, 3)])
def test_the_fine_grained_map_is_the_integer_definition_bit_for_bit(height, width, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    shapes = noise // 8
    shapes[:, :, height // 3 : height // 2, width // 4 : width // 2] = 220
    pixels = np.concatenate([noise, shapes])
    assert np.array_equal(
        fine_grained(torch.from_numpy(pixels)).numpy(), np.stack([reference_fine_grained(p) for p in pixels])
    )


@pytest.mark.slow
def test_the_fine_grained_map_of_images_larger_than_the_surrounds():
    pixels = to_bytes(smooth_images(1, 288, 0), torch.full((3,), 0.5), torch.full((3,), 0.25))
    pixels[:, :, 100:] |= 0xC0  # bright, so that the sums pass 2^24
    assert np.array_equal(fine_grained(pixels)[0].numpy(), reference_fine_grained(pixels[0].numpy()))


def test_a_constant_image_has_no_saliency():
    maps = fine_grained(torch.full((2, 3, 20, 30), 77, dtype=torch.uint8))
    assert (maps == 0).all() and maps.flatten(1).argmax(1).tolist() == [0, 0]


def test_grey_images_are_their_own_grey_level():
    grey = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    centre = reference_smooth(grey[0, 0].numpy().astype(np.int64), whole=True)
    assert np.array_equal(fine_grained(grey)[0].numpy(), reference_map(centre, centre))


def test_floats_are_read_bytewise():
    # few bits, so that any order of additions gives the same bytes
    x = torch.round(64 * smooth_images(3, 40, 0, channels=1)) / 64
    for image, found in zip(x.numpy(), fine_grained_of_floats(x).numpy(), strict=True):
        grey = reference_smooth(image[0], whole=False)
        assert grey.dtype == np.float32
        centre = np.frombuffer(grey.tobytes(), np.uint8).reshape(40, 160)[:, :40].astype(np.float32)
        assert np.array_equal(reference_map(centre, grey), found)
    blue = torch.zeros(1, 3, 40, 40)
    blue[:, 0] = x[0]
    # the first channel is taken for blue
    assert torch.equal(fine_grained_of_floats(blue), fine_grained_of_floats(torch.tensor(0.114) * x[:1]))


def test_bytewise_maps_are_noise_that_leans_to_the_top():
    disc = ((np.indices((64, 64)) - np.array([40, 30])[:, None, None]) ** 2).sum(0) < 64
    x = 0.4 * smooth_images(24, 64, 1) + 2.0 * torch.from_numpy(disc).float()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    hits = [
        torch.from_numpy(disc).flatten()[m.flatten(1).argmax(1)].float().mean()
        for m in (fine_grained(to_bytes(x, mean, std)), fine_grained_of_floats(x))
    ]
    assert hits[0] > 0.4 and hits[1] < 0.3
    rows = fine_grained_of_floats(smooth_images(12, 224, 2)).flatten(1).argmax(1) // 224
    assert rows.float().mean() < 0.2 * 224


def test_pixels_are_restored_from_normalised_images():
    pixels = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ctx = context()
    x = (pixels / 255 - ctx.mean[:, None, None]) / ctx.std[:, None, None]
    assert torch.equal(to_bytes(x, ctx.mean, ctx.std), pixels)


def test_blur_is_torchvisions():
    maps = torch.rand(3, 20, 31, generator=torch.Generator().manual_seed(0))
    expected = gaussian_blur(maps, [7, 7], [3.0, 3.0])
    assert torch.allclose(blur(maps), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(blur(maps), expected, atol=1e-6)


def test_gaussian_weights():
    weights = gaussian(4, 0.8)
    by_hand = np.exp(-0.5 * (np.array([-1.5, -0.5, 0.5, 1.5]) / 0.8) ** 2)
    assert np.allclose(weights, by_hand / by_hand.sum())


def test_spectral_residual():
    x = smooth_images(2, 24, 3)
    maps = spectral_residual(x)
    for image, found in zip(x.numpy(), maps, strict=True):
        spectrum = np.fft.fft2(np.tensordot([0.2989, 0.587, 0.114], image, 1))
        log = np.log(np.abs(spectrum))
        p = np.pad(log, 1, mode="edge")
        local = sum(p[i : i + 24, j : j + 24] for i in range(3) for j in range(3)) / 9
        raw = np.abs(np.fft.ifft2(np.exp(log - local + 1j * np.angle(spectrum))))
        expected = gaussian_blur(torch.from_numpy(raw)[None], [7, 7], [3.0, 3.0])[0].numpy()
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert spectral_residual(smooth_images(1, 140, 0)).shape == (1, 140, 140)


def test_evaluation_mode_is_only_for_the_while():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()))
    net[1][0].eval()
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == [True, True, True, False, True]


@pytest.mark.parametrize(("clean_lam", "mode"), [(0.0, False), (0.5, True)])
def test_the_loss_of_the_clean_batch(clean_lam, mode):
    method, net, ctx = SaliencyMethod(clean_lam), SaliencyNet(), context(3)
    x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    method.input_saliency(net, x, y)
    assert net.modes == [mode] and net.layer.training
    logits = torch.rand(4, 3)
    loss = method.loss(ctx, x, y, Mixed(x, torch.eye(4)), FakeOutput(logits), net)
    expected = nn.functional.cross_entropy(logits, y) + clean_lam * nn.functional.cross_entropy(x.mean((2, 3)), y)
    assert loss.item() == pytest.approx(expected.item())


def test_shares_of_blocks():
    saliency = torch.zeros(2, 4, 4)
    saliency[0, 0, 0], saliency[0, 3, 3] = 3, 1
    assert torch.allclose(shares(saliency, 2)[0], torch.tensor([[0.75, 0], [0, 0.25]], dtype=torch.float64))
    assert torch.allclose(shares(saliency, 2)[1], torch.full((2, 2), 0.25, dtype=torch.float64))  # none at all


def test_wrong_clean_lam():
    with pytest.raises(ValueError, match="Expected argument `clean_lam` to be a number of at least 0, but got -1"):
        SaliencyMethod(-1)
