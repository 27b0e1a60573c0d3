"""What every closed-form method must do, whatever its equation."""

import pytest
import torch
from torch import nn

from evalkit.models import Network
from evalkit.train import train_step
from evalkit.train.mixups.fmix import FMix
from evalkit.train.mixups.gridmix import GridMix
from evalkit.train.mixups.manifold import ManifoldMixup
from evalkit.train.mixups.patchmix import PatchMix
from evalkit.train.mixups.resizemix import ResizeMix
from evalkit.train.mixups.smoothmix import SmoothMix
from evalkit.train.mixups.switch import Switch

from .fakes import context

PIXELS = {
    "fmix": FMix(),
    "fmix-soft": FMix(max_soft=0.3, spectrum="isotropic"),
    "gridmix": GridMix(),
    "gridmix-released": GridMix(**GridMix.PRESETS["released"]),
    "patchmix": PatchMix(),
    "patchmix-uneven": PatchMix(grid=5),
    "smoothmix": SmoothMix(),
    "switch": Switch(),
    "switch-pair": Switch("pair"),
    "switch-elem": Switch("elem", prob=0.8),
    "manifold-input": ManifoldMixup(layers=["input"]),
}
METHODS = PIXELS | {"resizemix": ResizeMix(), "resizemix-openmixup": ResizeMix(**ResizeMix.PRESETS["openmixup"])}


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", PIXELS.values(), ids=PIXELS)
@pytest.mark.parametrize(("batch", "size"), [(2, (32, 32)), (5, (24, 40)), (8, (33, 20))])
def test_the_mask_is_what_is_seen_and_the_label_its_mean(method, batch, size):
    x, y = images(batch, 3, *size), torch.arange(batch)
    before = x.clone()
    for seed in range(8):
        mixed = method.mix(context(seed=seed), x, y, None)
        assert mixed.mask.shape == (batch, 1, *size) and mixed.mask.min() >= 0 and mixed.mask.max() <= 1
        assert torch.allclose(mixed.x, mixed.mask * x + (1 - mixed.mask) * x[mixed.partner], atol=1e-5)
        share = mixed.mask.double().mean((1, 2, 3)).expand(batch)
        expected = torch.zeros(batch, batch, dtype=torch.float64)
        for i, j in enumerate(mixed.partner.tolist()):
            expected[i, i] += share[i]
            expected[i, j] += 1 - share[i]
        assert mixed.weights.dtype == torch.float32 and (mixed.weights >= 0).all()
        assert torch.allclose(mixed.weights.double(), expected, atol=2e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_batch_of_one_stays(method):
    x = images(1, 3, 20, 28)
    for seed in range(5):
        mixed = method.mix(context(seed=seed), x, torch.tensor([2]), None)
        assert torch.equal(mixed.x, x) and mixed.weights.tolist() == [[1.0]]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_half_precision_and_memory_format(method):
    x = images(4, 3, 16, 24)
    for like in (x.bfloat16(), x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        mixed = method.mix(context(seed=3), like, torch.arange(4), None)
        plain = method.mix(context(seed=3), like.float().contiguous(), torch.arange(4), None)
        assert mixed.x.dtype == like.dtype and mixed.weights.dtype == torch.float32
        assert torch.allclose(
            mixed.x.float(), plain.x, rtol=2**-7, atol=2**-6 if like.dtype == torch.bfloat16 else 1e-6
        )
        assert torch.equal(mixed.weights, plain.weights)
        if like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
            assert mixed.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(method, dtype):
    x = images(4, 3, 16, 24).to(dtype)
    plain = method.mix(context(seed=3), x, torch.arange(4), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = method.mix(context(seed=3), x, torch.arange(4), None)
    for name in ("x", "weights", "mask"):
        assert getattr(cast, name).dtype == getattr(plain, name).dtype and torch.equal(
            getattr(cast, name), getattr(plain, name)
        )


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_nothing_is_read_back_from_the_device(method):
    """On the meta device there is nothing to read: .item(), bool(tensor), nonzero and copies to the host raise."""
    for seed in range(4):
        mixed = method.mix(
            context(seed=seed),
            torch.empty(5, 3, 32, 24, device="meta"),
            torch.empty(5, dtype=torch.int64, device="meta"),
            None,
        )
        assert mixed.x.shape == (5, 3, 32, 24) and {
            mixed.x.device.type,
            mixed.weights.device.type,
            mixed.mask.device.type,
        } == {"meta"}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_draws_follow_the_generator_alone(method):
    x, y = images(4, 3, 16, 16), torch.arange(4)
    torch.manual_seed(0)
    first = method.mix(context(seed=1), x, y, None)
    torch.manual_seed(1)
    again, other = method.mix(context(seed=1), x, y, None), method.mix(context(seed=2), x, y, None)
    assert (
        torch.equal(first.x, again.x)
        and torch.equal(first.weights, again.weights)
        and not torch.equal(first.x, other.x)
    )


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_training_step_has_gradients(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 5))
    model.num_classes = 5
    loss = train_step(context(seed=1), Network(model, "tiny"), method, images(3, 3, 16, 16), torch.tensor([0, 1, 4]))
    loss.backward()
    assert loss.isfinite() and all(p.grad.abs().sum() > 0 for p in model.parameters())
