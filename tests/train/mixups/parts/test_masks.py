import math

import numpy as np
import pytest
import torch

from evalkit.train.mixups.parts.checks import interval
from evalkit.train.mixups.parts.masks import blend, outer_mask, token_block_mask, token_count


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


def test_how_many_tokens_the_partner_fills():
    assert token_count((14, 14)) == 98 + 14  # the published size
    assert token_count((14, 14), lam=0.999, least=3) == 3 and token_count((14, 14), lam=0.0) == 196
    assert token_count((7, 7)) == 24 + 4 and token_count((4, 6), least=0) == 12


class Script:
    """A generator that returns what it was given, and remembers the ranges asked for."""

    def __init__(self, *values):
        self.values, self.asked = list(values), []

    def uniform(self, low, high):
        self.asked.append((low, high))
        return self.values.pop(0)

    def integers(self, high):
        self.asked.append(high)
        return self.values.pop(0)


def test_blocks_by_hand():
    """4 x 5 tokens, 7 to fill: a block of 2 x 3; one of 2 x 2 with 2 new tokens does not fit into the last 1; one that
    adds nothing; one of 1 x 1."""
    wide = math.log(2 / 3)
    rng = Script(6, wide, 1, 0, 4, 0.0, 2, 2, 1, 0.0, 1, 1, 1, 0.0, 3, 4)
    own = token_block_mask(rng, (4, 5), 7)
    assert own.astype(int).tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 1, 0]]
    ratios = (math.log(0.3), math.log(1 / 0.3))
    assert [a for a in rng.asked if isinstance(a, tuple)][::2] == [(1, 7), (1, 1), (1, 1), (1, 1)]
    assert all(a == pytest.approx(ratios) for a in [a for a in rng.asked if isinstance(a, tuple)][1::2])
    assert [a for a in rng.asked if not isinstance(a, tuple)] == [3, 3, 3, 4, 4, 5, 4, 5] and not rng.values


def test_ten_blocks_in_a_row_that_do_not_fit_are_enough():
    # 2 x 2 on 5 x 5 tokens, then nine times 5 x 5, which is not smaller than the grid, and one token that is filled
    # already
    rng = Script(4, 0.0, 0, 0, *[25, 0.0] * 9, 1, 0.0, 0, 0)
    own = token_block_mask(rng, (5, 5), 20)
    assert (~own).sum() == 4 and not rng.values


def test_blocks_nearly_always_reach_their_count():
    rng = np.random.default_rng(0)
    masks = np.array([token_block_mask(rng, (14, 14), 112) for _ in range(1000)])
    counts = (~masks).sum((1, 2))
    assert counts.max() == 112 and counts.min() >= 95 and 0.97 <= (counts == 112).mean() <= 1
    assert (~masks).mean(0).min() > 0.05  # corners are rarer than the middle, but no token is left out
    assert token_block_mask(rng, (14, 14), 0).all()


def test_intervals():
    assert interval("a", [1, 2], 0) == (1, 2) and interval("a", 0.5, 0, 1) == (0.5, 0.5)
    for wrong in ([2, 1], [1], [1, 2, 3], "12", [0, float("nan")], [-1, 2], [0, 11], None):
        with pytest.raises(ValueError, match="Expected argument `a` to be two numbers in order, from 0 to 10, but got"):
            interval("a", wrong, 0, 10)
