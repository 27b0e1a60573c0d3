import numpy as np
import pytest
import torch

from evalkit.train.mixups.parts.saliency import fine_grained, to_bytes
from evalkit.train.mixups.saliencymix import SaliencyMix

from .fakes import context, index_images, own_share, own_weight
from .saliency_fakes import smooth_images


def peaks(x, ctx):
    """Row and column of the first maximum of each image's map."""
    maps = fine_grained(to_bytes(x, ctx.mean, ctx.std)).numpy()
    return [np.unravel_index(m.argmax(), m.shape) for m in maps]


def box(peak, height, width, h, w):
    """(H, W) bool: h x w pixels around the peak, as far as they are in the image."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[max(peak[0] - h // 2, 0) : peak[0] + h // 2, max(peak[1] - w // 2, 0) : peak[1] + w // 2] = True
    return inside


def test_the_box_of_the_batch_sits_on_the_first_partners_peak():
    x, order = smooth_images(3, 48, 0)[:, :, :32], [1, 2, 0]
    ctx = context(draws={"lam": 0.75, "partner": order})
    mixed = SaliencyMix().mix(ctx, x, torch.arange(3), None)
    inside = box(peaks(x, ctx)[1], 32, 48, 16, 24)  # half of each side
    assert torch.equal(mixed.x, torch.where(inside, x[order], x))
    assert torch.equal(mixed.mask, (~inside).float().expand(3, 1, -1, -1))
    assert own_weight(mixed.weights).tolist() == pytest.approx([1 - inside.float().mean().item()] * 3)


def test_each_samples_own_box():
    x, order = smooth_images(5, 48, 1)[:, :, :32], [1, 2, 0, 4, 3]
    ctx = context(draws={"lam": 0.4, "partner": order})
    mixed = SaliencyMix(**SaliencyMix.PRESETS["paper"]).mix(ctx, x, torch.arange(5), None)
    places = peaks(x, ctx)
    assert len(set(places)) > 1
    for i, j in enumerate(order):
        inside = box(places[j], 32, 48, int(32 * 0.6**0.5), int(48 * 0.6**0.5))
        assert torch.equal(mixed.x[i], torch.where(inside, x[j], x[i]))
        assert mixed.weights[i, i].item() == pytest.approx(1 - inside.float().mean().item())


@pytest.mark.parametrize("preset", SaliencyMix.PRESETS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_label_is_the_share_of_pixels(preset, batch):
    method, ctx = SaliencyMix(**SaliencyMix.PRESETS[preset]), context(seed=batch)
    for _ in range(8):
        x = index_images(batch, 20, 33, channels=3)
        before = x.clone()
        mixed = method.mix(ctx, x, torch.arange(batch), None)
        assert torch.equal(x, before)
        sources = torch.stack([torch.arange(batch).float(), mixed.partner.float()], 1)[:, :, None, None]
        assert (mixed.x[:, :1] == sources).any(1).all()
        alone = mixed.partner == torch.arange(batch)
        assert torch.allclose(own_share(mixed.x)[~alone].float(), own_weight(mixed.weights)[~alone], atol=1e-6)
        assert torch.allclose(mixed.weights.sum(1), torch.ones(batch)) and (mixed.weights >= 0).all()


def test_half_precision_and_one_image():
    x = smooth_images(3, 24, 0).bfloat16()
    mixed = SaliencyMix().mix(context(draws={"lam": 0.5, "partner": [2, 0, 1]}), x, torch.arange(3), None)
    assert mixed.x.dtype == torch.bfloat16 and torch.equal(mixed.x, torch.where(mixed.mask > 0, x, x[[2, 0, 1]]))
    one = SaliencyMix().mix(context(), x[:1], torch.arange(1), None)
    assert torch.equal(one.x, x[:1]) and one.weights.tolist() == [[1.0]]


def test_no_mixing():
    x = smooth_images(3, 16, 0)
    mixed = SaliencyMix(alpha=0).mix(context(), x, torch.arange(3), None)
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3))


def test_wrong_arguments():
    with pytest.raises(
        ValueError, match="Expected argument `saliency` to be 'uint8' or 'float_compat', but got 'float'"
    ):
        SaliencyMix(saliency="float")
    with pytest.raises(ValueError, match="Expected argument `per_sample` to be true or false, but got 1"):
        SaliencyMix(per_sample=1)


DIFFERS = """
taking the saliency of the pixels where the code takes noise (preset "released" does as the code)
= ::test_the_box_of_the_batch_sits_on_the_first_partners_peak | parts/test_saliency.py::test_floats_are_read_bytewise
= parts/test_saliency.py::test_bytewise_maps_are_noise_that_leans_to_the_top | golden:saliencymix
applying to every batch: a smaller probability is a choice with vanilla
= test_choice.py::test_a_smaller_probability_is_a_choice_with_vanilla
"""
