import numpy as np
import pytest
import torch
from timm.data import Mixup as TimmMixup

from evalkit.train import create

from .fakes import context, own_weight


def test_the_equation():
    x, y = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    draws = {"lam": 0.3, "partner": [2, 0, 3, 1]}
    mixed = create("mixup").mix(context(draws=draws), x, y, None)
    assert torch.allclose(mixed.x, 0.3 * x + 0.7 * x[[2, 0, 3, 1]], atol=1e-6)
    expected = torch.zeros(4, 4)
    for i, j in enumerate(draws["partner"]):
        expected[i, i], expected[i, j] = 0.3, 0.7
    assert torch.allclose(mixed.weights, expected)
    assert torch.allclose(mixed.mask, torch.tensor(0.3)) and mixed.mask.shape == (4, 1, 5, 7)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_are_exact(lam):
    x, y = torch.randn(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    mixed = create("mixup").mix(context(draws={"lam": lam, "partner": [1, 2, 0]}), x, y, None)
    assert torch.equal(mixed.x, x if lam else x[[1, 2, 0]])


def test_alpha_zero_leaves_the_batch_alone():
    x = torch.randn(4, 3, 4, 4)
    mixed = create("mixup", alpha=0).mix(context(), x, torch.arange(4), None)
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(4))


def test_whole_batches_equal_timms():
    method = create("mixup", "timm", alpha=0.8)
    for seed in range(60):
        x, y = torch.randn(6, 3, 8, 12, generator=torch.Generator().manual_seed(seed)), torch.arange(6) % 5
        np.random.seed(seed)
        timm_x, timm_target = TimmMixup(mixup_alpha=0.8, cutmix_alpha=0, label_smoothing=0.1, num_classes=5)(
            x.clone(), y
        )
        np.random.seed(seed)
        np.random.rand()  # timm asks whether to mix at all
        ctx = context(5, smoothing=0.1, draws={"lam": np.random.beta(0.8, 0.8)})
        mixed = method.mix(ctx, x, y, None)
        assert torch.allclose(mixed.x, timm_x, atol=5e-7)
        assert torch.allclose(mixed.weights @ ctx.target(y), timm_target, atol=1e-6)


def test_one_lambda_per_batch_that_is_not_folded():
    ctx, method, x = context(seed=1), create("mixup", pairing="flip"), torch.zeros(4, 1, 2, 2)
    lam = np.array([own_weight(method.mix(ctx, x, torch.arange(4), None).weights).numpy() for _ in range(500)])
    assert (lam == lam[:, :1]).all() and 0.4 < (lam[:, 0] < 0.5).mean() < 0.6


def test_a_half_precision_blend_is_the_rounded_exact_one():
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    mixed = create("mixup", pairing="flip").mix(context(draws={"lam": 0.3}), x, torch.arange(4), None)
    exact = 0.3 * x.double() + 0.7 * x.flip(0).double()
    assert mixed.x.dtype == torch.bfloat16
    assert torch.allclose(mixed.x.double(), exact, rtol=2**-8, atol=2**-9)


def test_wrong_values():
    with pytest.raises(ValueError, match="Expected argument `alpha` to be a number of at least 0, but got -1"):
        create("mixup", alpha=-1)
    with pytest.raises(ValueError, match="`alpha`"):
        create("mixup", alpha=float("nan"))
    with pytest.raises(ValueError, match="`pairing`"):
        create("mixup", pairing="random")


DIFFERS = """
(one lambda per batch, never folded to max(lam, 1 - lam)).
= ::test_one_lambda_per_batch_that_is_not_folded | golden:mixup
"""
