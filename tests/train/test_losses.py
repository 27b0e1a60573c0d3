import numpy as np
import pytest
import torch
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F

from evalkit.train.losses import BinaryCrossEntropy, soft_cross_entropy, soft_target


def batch(seed=0, rows=7, classes=5):
    g = torch.Generator().manual_seed(seed)
    return (
        3 * torch.randn(rows, classes, generator=g),
        torch.rand(rows, classes, generator=g).softmax(1),
        torch.randint(classes, (rows,), generator=g),
    )


def test_smoothed_one_hot_by_hand():
    assert torch.allclose(
        soft_target(torch.tensor([2, 0]), 4, 0.1),
        torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]),
    )
    assert torch.equal(soft_target(torch.tensor([1]), 3), torch.tensor([[0.0, 1.0, 0.0]]))
    assert torch.allclose(soft_target(torch.arange(9), 9, 0.3).sum(1), torch.ones(9))


def test_soft_cross_entropy_equals_timm_and_torch():
    logits, target, y = batch()
    assert soft_cross_entropy(logits, target).item() == pytest.approx(
        SoftTargetCrossEntropy()(logits, target).item(), rel=1e-6
    )
    smooth = F.cross_entropy(logits, y, label_smoothing=0.1).item()
    assert soft_cross_entropy(logits, soft_target(y, 5, 0.1)).item() == pytest.approx(smooth, rel=1e-6)


def test_soft_cross_entropy_of_a_mixed_label_is_the_two_term_form_per_sample():
    logits, _, y = batch(1)
    lam, other = torch.linspace(0, 1, 7), y.flip(0)
    two_terms = (
        lam * F.cross_entropy(logits, y, reduction="none")
        + (1 - lam) * F.cross_entropy(logits, other, reduction="none")
    ).mean()
    target = lam[:, None] * soft_target(y, 5) + (1 - lam)[:, None] * soft_target(other, 5)
    assert soft_cross_entropy(logits, target).item() == pytest.approx(two_terms.item(), rel=1e-6)


def test_a_target_may_sum_to_less_than_one():
    logits = torch.zeros(1, 2)
    assert soft_cross_entropy(logits, torch.tensor([[0.4, 0.4]])).item() == pytest.approx(0.8 * np.log(2))


@pytest.mark.parametrize("seed", range(3))
def test_binary_cross_entropy_equals_timm(seed):
    logits, target, _ = batch(seed)
    ours, timms = BinaryCrossEntropy(0.2, "mean"), TimmBinaryCrossEntropy(target_threshold=0.2)
    assert ours(logits, target).item() == pytest.approx(timms(logits, target).item(), rel=1e-6)
    ours, timms = BinaryCrossEntropy(None, "sum_classes"), TimmBinaryCrossEntropy(sum_classes=True)
    assert ours(logits, target).item() == pytest.approx(timms(logits, target).item(), rel=1e-6)


def test_binary_cross_entropy_by_hand():
    # lam = 0.7: above 0.2 both classes count as present, so every term is log(1 + e^0)
    target = torch.tensor([[0.7, 0.3, 0.0]])
    assert BinaryCrossEntropy(0.2, "mean")(torch.zeros(1, 3), target).item() == pytest.approx(np.log(2))
    logits = torch.tensor([[1.0, -1.0, 0.0]])
    terms = [np.log1p(np.exp(z)) - t * z for z, t in zip([1.0, -1.0, 0.0], [0.7, 0.3, 0.0])]
    assert BinaryCrossEntropy()(logits, target).item() == pytest.approx(sum(terms), rel=1e-6)
    assert BinaryCrossEntropy(None, "mean")(logits, target).item() == pytest.approx(sum(terms) / 3, rel=1e-6)


def test_wrong_reduction():
    with pytest.raises(ValueError, match="Expected argument `reduction` to be 'mean' or 'sum_classes', but got 'sum'"):
        BinaryCrossEntropy(reduction="sum")


@pytest.mark.parametrize("loss", [soft_cross_entropy, BinaryCrossEntropy(), BinaryCrossEntropy(0.2, "mean")])
def test_half_precision_logits_are_summed_in_float32(loss):
    logits, target, _ = batch(4)
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(half, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(loss(half.float(), target).item(), rel=1e-7)


def test_soft_cross_entropy_gradients():
    logits, target, _ = batch(5, 3, 4)
    args = (logits.double().requires_grad_(), target.double().requires_grad_())
    assert torch.autograd.gradcheck(soft_cross_entropy, args)
    soft_cross_entropy(*args).backward()
    assert torch.allclose(args[0].grad, (args[0].softmax(1) - target) / 3)  # rows of the target sum to 1
