"""What methods and recipes say of other code, where that code is installed or its rule is a line."""

import dataclasses
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.data import Mixup, create_transform
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision import transforms

from evalkit.train import create
from evalkit.train.mixups import Mixed, arguments
from evalkit.train.mixups.supermix import shows
from evalkit.train.mixups.switch import Switch

from . import test_adautomix, test_automix, test_samix
from .fakes import FakeNet, FakeOutput, context


def test_timm_refuses_odd_batches():
    with pytest.raises(AssertionError, match="even"):
        Mixup()(torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.long))
    mixed = create("switch").mix(context(), torch.rand(3, 3, 8, 8), torch.arange(3), FakeNet())
    assert mixed.weights[1].tolist() == [0, 1, 0]


def test_timm_leaves_colour_jitter_out_beside_randaugment():
    """DeiT passes 0.3, MixPro 0.4; neither has an effect."""
    with_both = create_transform(224, is_training=True, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1")
    alone = create_transform(224, is_training=True, color_jitter=0.4)
    assert not any(isinstance(t, transforms.ColorJitter) for t in with_both.transforms)
    assert any(isinstance(t, transforms.ColorJitter) for t in alone.transforms)


def test_timm_floors_the_size_of_a_crop_of_95_percent():
    """235 pixels, where OpenMixup's configurations of ResNet strikes back say 236."""
    resize = next(t for t in create_transform(224, crop_pct=0.95).transforms if hasattr(t, "size"))
    assert resize.size == 235 == math.floor(224 / 0.95)


def test_timms_sgd_is_nesterovs_and_its_momentum_is_not():
    layer = nn.Linear(2, 2)
    for name, nesterov in (("sgd", True), ("momentum", False)):
        (group,) = create_optimizer_v2(layer.parameters(), opt=name, lr=0.1, momentum=0.9).param_groups
        assert group["nesterov"] is nesterov


def test_timms_lamb_clips_inside():
    from timm.optim import Lamb

    assert inspect.signature(Lamb).parameters["max_grad_norm"].default == 1.0


def test_supermixs_code_asks_for_an_arbitrary_class_where_two_images_share_one():
    """Its rule: the K highest classes of the prediction are the K highest of the target. Where the target has one
    class, the other of the two is any of those with share 0."""
    logits = torch.tensor([[4.0, 3.0, 0.0, 0.0, 0.0], [4.0, 0.0, 0.0, 3.0, 0.0]])
    classes, target = torch.tensor([[0, 0], [0, 0]]), torch.tensor([[1.0, 0, 0, 0, 0]] * 2)
    official = [set(p.topk(2).indices.tolist()) == set(q.topk(2).indices.tolist()) for p, q in zip(logits, target)]
    assert not all(official) and shows(logits, classes).tolist() == [True, True]
    apart = torch.tensor([[0, 1], [0, 3]])  # of distinct classes both rules are the same
    target = torch.zeros(2, 5).scatter(1, apart, 0.5)
    official = [set(p.topk(2).indices.tolist()) == set(q.topk(2).indices.tolist()) for p, q in zip(logits, target)]
    assert official == shows(logits, apart).tolist() == [True, True]


def test_gridmixs_code_exceeds_the_image_in_about_half_of_the_draws():
    """Crops of area A in (0.5, 1) and shape R in (0.5, 2), OpenMixup's ranges: w = sqrt(H W A / R), h = w R."""
    rng, side = np.random.default_rng(0), 224
    area, shape = rng.uniform(0.5, 1, 20_000), rng.uniform(0.5, 2, 20_000)
    width = np.floor(np.sqrt(np.floor(side * side * area) / shape))
    assert 0.4 < np.mean((width > side) | (np.floor(width * shape) > side)) < 0.56


def test_openmixups_alignmix_is_a_choice():
    """With Manifold Mixup; neither of the two then blends images, but for Manifold Mixup's layer 0."""
    choice = create("choice", methods=["manifold", {"name": "alignmix", "input_prob": 0.0}])
    align = choice.methods[1]
    x = torch.rand(2, 3, 16, 16)
    for seed in range(5):
        mixed = align.mix(context(seed=seed), x, torch.arange(2), SimpleNamespace(model=nn.Identity()))
        assert torch.equal(mixed.x, x) and mixed.inject is not None


@pytest.mark.parametrize("module", [test_automix, test_samix, test_adautomix])
def test_infinite_features_show_in_the_loss_of_learned_methods(module):
    net, method = module.made()
    with torch.no_grad():
        [p for p in method.block.value.parameters() if p.ndim == 4][-1].fill_(torch.inf)
    assert not sum(module.terms(net, method, module.moment())[1].values()).isfinite()


def test_timms_switch_has_a_key_that_ours_has_not():
    assert "cutmix_minmax" in inspect.signature(Mixup).parameters and "cutmix_minmax" not in arguments(Switch)


@pytest.mark.parametrize("name", ["gridmix", "manifold"])
def test_methods_without_a_loss_of_their_own(name):
    """The criterion alone, whatever the images are."""
    ctx = dataclasses.replace(context(), criterion=lambda logits, target: 3 * logits.sum() + target.sum())
    method, x, y = create(name), torch.rand(4, 3, 16, 16), torch.arange(4)
    logits = torch.randn(4, 5)
    mixed = Mixed(x, torch.eye(4))
    loss = method.loss(ctx, x, y, mixed, FakeOutput(logits), None)
    assert loss.item() == pytest.approx(3 * logits.sum().item() + 4, rel=1e-5)
