import numpy as np
import pytest
import torch

from evalkit.train.mixups.checks import interval
from evalkit.train.mixups.masks import blend, outer_mask


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("own", [0.3, torch.rand(1, 1, 5, 7), torch.rand(4, 1, 5, 7)])
def test_the_equation(own):
    x, partner = images(4, 3, 5, 7), torch.tensor([2, 2, 3, 0])
    before = x.clone()
    exact = own * x.double() + (1 - own) * x[partner].double()
    assert torch.allclose(blend(x, partner, own).double(), exact, atol=1e-6)
    assert torch.equal(x, before)


def test_zeros_and_ones_are_exact():
    x, partner = 1e4 * images(4, 3, 5, 7), torch.tensor([2, 2, 3, 0])
    own = torch.rand(4, 1, 5, 7).round()
    assert torch.equal(blend(x, partner, own), torch.where(own == 1, x, x[partner]))
    assert torch.equal(blend(x, partner, 1.0), x) and torch.equal(blend(x, partner, 0.0), x[partner])


def test_an_image_mixed_with_itself_stays():
    x = images(3, 3, 5, 7)
    for own in (0.37, torch.rand(3, 1, 5, 7)):
        assert torch.equal(blend(x, torch.arange(3), own), x)


def test_half_precision_and_memory_format():
    x = images(4, 3, 6, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    own = torch.rand(1, 1, 6, 6)
    mixed = blend(x, torch.tensor([1, 0, 3, 2]), own)
    exact = own * x.double() + (1 - own) * x[[1, 0, 3, 2]].double()
    assert mixed.dtype == torch.bfloat16 and mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(mixed.double(), exact, rtol=2**-7, atol=2**-6)


def test_gradients_reach_both_images():
    x = images(2, 1, 2, 2).requires_grad_()
    weight = images(2, 1, 2, 2, seed=1)
    (blend(x, torch.tensor([1, 0]), 0.3) * weight).sum().backward()
    assert torch.allclose(x.grad, 0.3 * weight + 0.7 * weight.flip(0))


def test_outer_mask():
    rows, columns = np.array([[0, 1, 1], [0.5, 0.5, 0.5]]), np.array([[1, 0], [1, 0.2]])
    mask = outer_mask(rows, columns, torch.empty(0))
    assert mask.dtype == torch.float32 and mask.shape == (2, 1, 3, 2)
    assert torch.allclose(mask[:, 0], torch.tensor([[[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], [[0.5, 0.9]] * 3]))


def test_intervals():
    assert interval("a", [1, 2], 0) == (1, 2) and interval("a", 0.5, 0, 1) == (0.5, 0.5)
    for wrong in ([2, 1], [1], [1, 2, 3], "12", [0, float("nan")], [-1, 2], [0, 11], None):
        with pytest.raises(ValueError, match="Expected argument `a` to be two numbers in order, from 0 to 10, but got"):
            interval("a", wrong, 0, 10)
