import pytest
import torch
from torch.nn import functional as F

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import train_step
from evalkit.train.mixups import mergemix
from evalkit.train.mixups.mergemix import MergeMix
from evalkit.train.mixups.parts.token_merging import merged_attention

from .fakes import context, own_share, own_weight

# the rank of each patch's attention
ORDER = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(i)) for i in range(3)])


@pytest.fixture(name="net", scope="module")
def _net():
    torch.manual_seed(0)
    return models.create("vit_nano_patch4_32", num_classes=3, depth=3).train()


@pytest.mark.parametrize(("lam", "count"), [(0.4, 25), (0.999, 63), (1.0, 64), (0.01, 0)])
def test_the_most_attending_patches_stay(net, monkeypatch, lam, count):
    monkeypatch.setattr(mergemix, "merged_attention", lambda *_: 64.0 - ORDER)
    x = torch.arange(3.0)[:, None, None, None].expand(3, 3, 32, 32).clone()
    mixed = MergeMix().mix(context(draws={"lam": lam, "partner": [1, 2, 0]}), x, torch.arange(3), net)
    for i, partner in enumerate([1, 2, 0]):
        for patch in range(64):
            r, c = 4 * (patch // 8), 4 * (patch % 8)
            assert (mixed.x[i, :, r : r + 4, c : c + 4] == (i if ORDER[i, patch] < count else partner)).all()
    assert own_weight(mixed.weights).tolist() == pytest.approx([count / 64] * 3)
    assert torch.allclose(own_weight(mixed.weights), own_share(mixed.x).float(), atol=1e-6)


def test_of_equal_patches_the_first_stay(net, monkeypatch):
    monkeypatch.setattr(mergemix, "merged_attention", lambda *_: torch.ones(3, 64))
    mixed = MergeMix().mix(
        context(draws={"lam": 0.5, "partner": [1, 2, 0]}), torch.randn(3, 3, 32, 32), torch.arange(3), net
    )
    assert (mixed.mask[:, :, :16] == 1).all() and (mixed.mask[:, :, 16:] == 0).all()


def test_it_asks_for_what_it_says(net):
    """A quarter of the patches merged, the block asked for; the patches chosen are those of largest attention."""
    x = torch.randn(3, 3, 32, 32)
    for args, share, block in (({}, 0.25, None), ({"merged": 0.5, "attn_depth": 2}, 0.5, 2)):
        mixed = MergeMix(**args).mix(context(draws={"lam": 0.3}), x, torch.arange(3), net)
        best = merged_attention(net.model, x, share, block).argsort(dim=1, descending=True, stable=True)[:, :19]
        chosen = mixed.mask[:, 0, ::4, ::4].flatten(1).nonzero()[:, 1].view(3, 19)
        assert torch.equal(chosen, best.sort(1).values)
        assert (mixed.partner != torch.arange(3)).all()


def test_resampled_labels_by_hand(net):
    """lam = 1/2 and a quarter merged: N(1/4, 1/2) at -1, 0, 1 is -1/4, 1/4, 3/4, stretched to 0, 1/2, 1. The image
    stays the same."""
    draws = {"lam": 0.5, "partner": [1, 2, 0], "noise": torch.tensor([-1.0, 0.0, 1.0]).double().numpy()}
    x = torch.randn(3, 3, 32, 32)
    plain, noisy = (MergeMix(resample=r).mix(context(draws=draws), x, torch.arange(3), net) for r in (False, True))
    assert own_weight(noisy.weights).tolist() == pytest.approx([0, 0.5, 1], abs=2e-5)
    assert torch.equal(plain.x, noisy.x) and own_weight(plain.weights).tolist() == [0.5] * 3


def test_loss_is_that_of_both_mixes(net):
    x, y = torch.randn(3, 3, 32, 32), torch.tensor([2, 0, 1])
    draws = {"lam": 0.5, "partner": [1, 2, 0], "mixup_lam": 0.7, "mixup_partner": [2, 0, 1]}
    ctx = context(3, smoothing=0.1, draws=draws)
    mixed = MergeMix().mix(ctx, x, y, net)
    loss = train_step(ctx, net, MergeMix(), x, y)

    target = F.one_hot(y, 3) * 0.9 + 0.1 / 3
    first = -((0.5 * target + 0.5 * target[[1, 2, 0]]) * net(mixed.x).logits.log_softmax(1)).sum(1).mean()
    second = (
        -((0.7 * target + 0.3 * target[[2, 0, 1]]) * net(0.7 * x + 0.3 * x[[2, 0, 1]]).logits.log_softmax(1))
        .sum(1)
        .mean()
    )
    torch.testing.assert_close(loss, first + second)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_other_models_and_arguments_are_refused():
    with pytest.raises(EvalkitError, match=r"plain vit_\* and deit_\* models only"):
        MergeMix().setup(models.create("resnet10_cifar", num_classes=3))
    with pytest.raises(EvalkitError, match="block 9 asked for"):
        MergeMix(attn_depth=9).setup(models.create("vit_nano_patch4_32", num_classes=3))
    with pytest.raises(ValueError, match="Expected argument `merged` to be a number from 0 to below 1, but got 1"):
        MergeMix(merged=1)
    with pytest.raises(ValueError, match="`attn_depth`"):
        MergeMix(attn_depth=0)


DIFFERS = """
ties, which merged patches always are (the first ones win here)
= ::test_of_equal_patches_the_first_stay
taking the attention and the map of merged tokens at the same block
= parts/test_token_merging.py::test_a_pass_equals_brute_force
the pass for the attention, which keeps no gradient
= parts/test_token_merging.py::test_mode_and_batch_norm_are_left_alone
partners: no image is its own.
= ::test_it_asks_for_what_it_says
"""
