import numpy as np
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from evalkit.train import create
from evalkit.train.mixups.guidedmixup import GuidedMixup, farthest_cycle

from .fakes import context, own_weight
from .saliency_fakes import SaliencyNet, smooth_images, smooth_saliency


def reference_cycle(distance):
    """The greedy pairing, on the host."""
    d = distance.copy()
    np.fill_diagonal(d, -np.inf)
    partner = [None] * len(d)
    first, nearest = np.unravel_index(d.argmax(), d.shape)
    row, column = first, nearest
    partner[row] = column
    taken = {row}
    for _ in range(len(d) - 2):
        row = column
        taken.add(row)
        column = max((j for j in range(len(d)) if j not in taken), key=lambda j: d[row, j])
        partner[row] = column
    partner[column] = first
    return partner


@pytest.mark.parametrize("batch", [2, 3, 4, 9, 16])
def test_partners_are_one_greedy_cycle(batch):
    points = np.random.default_rng(batch).random((batch, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    partner = farthest_cycle(torch.from_numpy(distance))
    assert partner.tolist() == [int(j) for j in reference_cycle(distance)]
    seen, i = [], 0
    while i not in seen:
        seen.append(i)
        i = partner[i].item()
    assert len(seen) == batch and i == 0


@pytest.mark.parametrize("kind", ["ap", "sr"])
def test_pixels_are_mixed_by_their_saliency(kind):
    x, saliency = smooth_images(5, 24, 0), smooth_saliency(5, 24, 1)
    before = x.clone()
    mixed = GuidedMixup(kind).mix(context(), x, torch.arange(5), SaliencyNet(saliency))
    if kind == "ap":
        s = gaussian_blur(saliency, [7, 7], [3.0, 3.0]).double()
        s = (s / s.sum((1, 2), keepdim=True)).numpy()
        partner = reference_cycle(np.linalg.norm((s[:, None] - s).reshape(5, 5, -1), axis=2))
        assert mixed.partner.tolist() == [int(j) for j in partner]
        mask = s / (s + s[mixed.partner])
        assert np.allclose(mixed.mask[:, 0], mask, atol=1e-4)
    assert torch.equal(x, before)
    assert torch.allclose(mixed.x, mixed.mask * x + (1 - mixed.mask) * x[mixed.partner], atol=1e-5)
    assert torch.allclose(own_weight(mixed.weights), mixed.mask.mean((1, 2, 3))) and torch.allclose(
        mixed.weights.sum(1), torch.ones(5)
    )


def test_two_images_share_every_pixel():
    x = smooth_images(2, 24, 0)
    mixed = GuidedMixup().mix(context(), x, torch.arange(2), SaliencyNet(smooth_saliency(2, 24, 1)))
    assert torch.allclose(mixed.mask.sum(0), torch.ones(1, 24, 24)) and torch.allclose(
        mixed.x[0], mixed.x[1], atol=1e-5
    )


@pytest.mark.parametrize("saliency", [torch.ones(4, 16, 16), torch.zeros(4, 16, 16)])
def test_equal_saliency_is_mixup_with_one_half(saliency):
    x = smooth_images(4, 16, 0)
    mixed = GuidedMixup().mix(context(), x, torch.arange(4), SaliencyNet(saliency))
    assert torch.allclose(mixed.x, (x + x[mixed.partner]) / 2, atol=1e-6)
    assert own_weight(mixed.weights).tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("kind", ["ap", "sr"])
@pytest.mark.parametrize("batch", [1, 3])
def test_half_precision_shapes_and_one_image(kind, batch):
    x = smooth_images(batch, 32, 0)[:, :, :20].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = GuidedMixup(kind).mix(context(), x, torch.arange(batch), SaliencyNet(torch.rand(batch, 20, 32)))
    assert mixed.x.dtype == torch.bfloat16 and mixed.x.shape == x.shape and mixed.weights.dtype == torch.float32
    if batch == 1:
        assert torch.equal(mixed.x, x) and mixed.weights.tolist() == [[1.0]]


def test_saliency_is_only_asked_for_where_it_is_needed():
    net = SaliencyNet(torch.rand(2, 16, 16))
    GuidedMixup("sr").mix(context(), smooth_images(2, 16, 0), torch.arange(2), net)
    assert net.modes == []
    with pytest.raises(ValueError, match="Expected argument `saliency` to be 'ap' or 'sr', but got 'grad'"):
        GuidedMixup("grad")


def test_the_mode_in_which_saliency_is_taken():
    """In evaluation mode, but as the network is where it trains on the clean batch too and as the code has it."""
    x, saliency = smooth_images(2, 16, 0), torch.rand(2, 16, 16)
    for arguments, training in (({}, False), ({"clean_lam": 1.0}, True), ({"preset": "released"}, True)):
        net = SaliencyNet(saliency)
        net.train()
        create("guidedmixup", **arguments).mix(context(), x, torch.arange(2), net)
        assert net.modes == [training] and net.training


DIFFERS = """
applying to every batch: a smaller probability is a choice with vanilla
= test_choice.py::test_a_smaller_probability_is_a_choice_with_vanilla
the pairing, which is the paper's
= ::test_partners_are_one_greedy_cycle
the code for CIFAR and Tiny-ImageNet asks for "greedy_c", a name its pairing does not know, and so pairs at random
= read: 3neutronstar/GuidedMixup, mixup.py: pairing, mixup_process
evaluation mode for the saliency (see `saliency_training`)
= ::test_the_mode_in_which_saliency_is_taken | golden:guidedmixup
one more forward pass if clean_lam > 0
= parts/test_saliency.py::test_the_loss_of_the_clean_batch
the losses, as Co-Mixup.
= parts/test_saliency.py::test_the_loss_of_the_clean_batch | read: 3neutronstar/GuidedMixup, main.py: train
"""
