import numpy as np
import pytest
import torch
from timm.data import Mixup as TimmMixup

from evalkit.train import create

from .fakes import context, index_images, own_share, own_weight


def test_whole_batches_equal_timms():
    method = create("cutmix", "timm")
    for seed in range(100):
        x, y = torch.randn(6, 3, 24, 40, generator=torch.Generator().manual_seed(seed)), torch.arange(6) % 5
        np.random.seed(seed)
        timm_x, timm_target = TimmMixup(mixup_alpha=0, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)(
            x.clone(), y
        )
        np.random.seed(seed)
        np.random.rand()
        draws = {"lam": np.random.beta(1.0, 1.0), "centre": (np.random.randint(0, 24), np.random.randint(0, 40))}
        ctx = context(5, smoothing=0.1, draws=draws)
        mixed = method.mix(ctx, x, y, None)
        assert torch.equal(mixed.x, timm_x)
        assert torch.allclose(mixed.weights @ ctx.target(y), timm_target, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (20, 33)])
def test_the_label_is_the_share_of_pixels(size):
    ctx, method, x = context(seed=4), create("cutmix"), index_images(5, *size)
    for _ in range(50):
        mixed = method.mix(ctx, x, torch.arange(5), None)
        sources = torch.stack([torch.arange(5.0), mixed.partner.float()], 1)[:, :, None, None]
        assert (mixed.x == sources).any(1).all()  # every pixel is the own one or the partner's
        alone = mixed.partner == torch.arange(5)
        assert torch.allclose(own_share(mixed.x)[~alone].float(), own_weight(mixed.weights)[~alone], atol=1e-6)
        assert (own_weight(mixed.weights)[alone] == 1).all()


def test_the_edges_differ_by_the_odd_pixel():
    draws = {"lam": 0.75, "centre": (5, 5), "partner": [1, 0]}
    x = index_images(2, 10, 10)
    count = {
        edge: 100 - (create("cutmix", edge=edge).mix(context(draws=draws), x, torch.arange(2), None).x[0] == 0).sum()
        for edge in ("old", "new")
    }
    assert count == {"old": 16, "new": 25}


def test_openmixup_never_pairs_an_image_with_itself():
    ctx, method = context(), create("cutmix", "openmixup")
    for _ in range(30):
        assert (method.mix(ctx, index_images(5, 4, 4), torch.arange(5), None).partner != torch.arange(5)).all()


def test_wrong_edge():
    with pytest.raises(ValueError, match="Expected argument `edge` to be 'old' or 'new', but got 'sharp'"):
        create("cutmix", edge="sharp")


DIFFERS = """
applying to every batch: a smaller probability is a choice with vanilla
= test_choice.py::test_a_smaller_probability_is_a_choice_with_vanilla
"""
