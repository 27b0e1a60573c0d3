import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import create, train_step
from evalkit.train.batchnorm import BatchNormStatistics
from evalkit.train.mixups.automix import AutoMix, scaled_to
from evalkit.train.mixups.parts.momentum import rising_momentum

from .fakes import context
from .learned_fakes import CLASSES, Reference, attention64, enlarge, images, point, toy, up_nearest

PARTNERS = {"partner": np.array([2, 0, 3, 1, 4]), "partner_k": np.array([1, 4, 2, 0, 3])}
Y = torch.tensor([0, 3, 1, 4, 1])


def made(seed=0, factor=1.0, **kwargs):
    """A toy network and AutoMix with a mix block whose masks are far from one half."""
    net = toy(seed)
    method = AutoMix(feature_layer="act", **kwargs)
    method.setup(net)
    enlarge(method.block, seed, factor)
    return net, method.train()


def moment(step=1, total_steps=4, **draws):
    return context(CLASSES, step=step, total_steps=total_steps, draws={"lam": 0.7, "lam_k": 0.2, **PARTNERS, **draws})


def terms(net, method, ctx, x=None):
    x = images(5) if x is None else x
    mixed = method.mix(ctx, x, Y, net)
    return mixed, method.losses(ctx, x, Y, mixed, net(mixed.x, features=True), net)


def mask(phi, z_a, z_b, lam):
    """The partner's share by AutoMix's block, without its code."""
    a, b = (
        torch.cat([z_a, torch.full_like(z_a[:, :1], lam)], 1),
        torch.cat([z_b, torch.full_like(z_b[:, :1], 1 - lam)], 1),
    )
    query, key = (point(phi["theta.0.weight"], phi["theta.0.bias"], z) for z in (a, b))
    logits = attention64(query, key, point(phi["value.weight"], phi["value.bias"], b))
    return 1 / (1 + torch.exp(-up_nearest(logits, 2)))


def penalty(m, lam):
    return torch.clamp((1 - m.mean() - lam).abs() - 0.1, min=0)


def test_two_training_steps_are_those_of_algorithm_1():
    """Losses, gradients, all parameters after SGD and moving average, and k's batch-norm statistics."""
    net, method = made(momentum=0.9, momentum_end=0.99, momentum_start=0.0)
    reference = Reference(net, method, mask, penalty)
    optimizer = torch.optim.SGD(
        [*net.parameters(), *(p for group in method.param_groups() for p in group["params"])], lr=0.5
    )
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    for step, lam, lam_k in ((0, 0.3, 0.6), (1, 0.45, 0.85)):
        x, ctx = images(5, step), moment(step, lam=lam, lam_k=lam_k)
        expected = reference.losses(x, Y, ctx.draws, 0.1 * (1 + math.cos(math.pi * step / 4)) / 2)
        mixed, got = terms(net, method, ctx, x)
        assert torch.allclose(mixed.x.double(), reference.x_q, atol=1e-6)
        assert {k: v.item() for k, v in got.items()} == pytest.approx(
            {k: v.item() for k, v in expected.items()}, abs=2e-6
        )
        optimizer.zero_grad()
        sum(got.values()).backward()
        momentum = 0.99 - 0.09 * (1 + math.cos(math.pi * step / 4)) / 2
        trained = [*net.parameters(), *method.encoder.head.parameters(), *method.block.parameters()]
        for p, g in zip(trained, reference.step(expected, 0.5, momentum), strict=True):
            assert torch.allclose(p.grad.double(), g, atol=2e-6)
        optimizer.step()
        method.after_step(ctx, net)
        reference.check(net, method)
        for m, v in reference.statistics[-2:]:
            mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v
        norm = method.encoder.network.model.norm
        assert torch.allclose(norm.running_mean.double(), mean, atol=1e-6) and torch.allclose(
            norm.running_var.double(), var, atol=1e-6
        )


def test_train_step_is_the_sum():
    net, method = made()
    ctx = moment()
    loss = train_step(ctx, net, method, images(5), Y)
    assert loss.item() == pytest.approx(sum(t.item() for t in terms(net, method, ctx)[1].values()), rel=1e-6)


@pytest.mark.parametrize(
    ("term", "updated"),
    [("one", {"net"}), ("q", {"net", "mixup head"}), ("k", {"block"}), ("lam", {"block"})],
)
def test_which_loss_updates_which_parameters(term, updated):
    net, method = made()
    terms(net, method, moment(lam_k=0.05))[1][term].backward()
    groups = {
        "net": [p for n, p in net.named_parameters() if "fc" not in n],
        "mixup head": list(method.encoder.head.parameters()),
        "block": list(method.block.parameters()),
    }
    for name, parameters in groups.items():
        moved = [p.grad is not None and bool((p.grad != 0).any()) for p in parameters]
        assert any(moved) == (name in updated)
        # batch norm takes away the bias before it, and softmax the constant part of the scores: the keys' bias
        assert name not in updated or sum(moved) >= len(moved) - 2
    assert (net.model.fc.weight.grad is not None) == (term == "one")
    slow = [*method.encoder.network.parameters(), *method.encoder.head_k.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in slow)


def test_the_mixed_images_of_the_network_have_no_graph():
    net, method = made()
    mixed = method.mix(moment(), images(5), Y, net)
    assert mixed.x.grad_fn is None and not mixed.mask.requires_grad and not mixed.state.z.requires_grad
    assert ((mixed.mask > 0) & (mixed.mask < 1)).all() and mixed.mask.std() > 0.05
    assert torch.allclose(mixed.weights @ torch.ones(5), torch.ones(5)) and mixed.weights[0, 2].item() == pytest.approx(
        0.3
    )


def test_partners_that_are_oneself_change_nothing():
    net, method = made()
    x, own = images(5), np.arange(5)
    assert torch.equal(method.mix(moment(partner=own), x, Y, net).x, x)


def test_the_mask_loss_by_hand():
    method = AutoMix()
    half = torch.full((2, 1, 4, 4), 0.5)
    assert 0.1 * method.mask_penalty(half, 0.8).item() == pytest.approx(0.02)
    own = 1 - torch.tensor([0.613516, 0.5]).view(1, 1, 1, 2)
    assert (
        0.1 * method.mask_penalty(own, 0.8).item() == pytest.approx(0.0256758, abs=1e-7)
        and method.mask_penalty(own, 0.5) == 0
    )
    both = torch.cat([torch.full((1, 1, 2, 2), 0.1), torch.full((1, 1, 2, 2), 0.9)])
    assert method.mask_penalty(both, 0.5) == 0  # of all masks together, not of each


@pytest.mark.parametrize("preset", ["default", "cifar"])
def test_the_weight_of_the_mask_loss(preset):
    net, method = made(factor=0.0, **AutoMix.PRESETS[preset])  # masks of one half
    for step in (0, 1, 2, 3):
        gamma = 0.1 if preset == "cifar" else 0.1 * (1 + math.cos(math.pi * step / 4)) / 2
        assert terms(net, method, moment(step, lam_k=0.8))[1]["lam"].item() == pytest.approx(gamma * 0.2, rel=1e-5)


@pytest.mark.parametrize(("lam", "plain"), [(0.08, True), (0.0801, False), (0.92, True), (0.9199, False), (0.01, True)])
def test_close_to_0_and_1_the_network_sees_a_blend(lam, plain):
    net, method = made(mask_adjust=1.0)
    x = images(5)
    mixed = method.mix(moment(lam=lam, lam_k=lam), x, Y, net)
    blend = lam * x + (1 - lam) * x[PARTNERS["partner"]]
    assert torch.allclose(mixed.x, blend, atol=1e-6) == plain and torch.allclose(mixed.mask, torch.tensor(lam)) == plain
    own = method.own_share(mixed.state.z, mixed.state.partner, lam, None, (8, 8))
    assert own.std() > 0.05  # the mix block itself learns from masks all the same


def test_masks_scaled_to_lambda():
    """One above, one below, one that is right: by the formula, pixel by pixel."""
    rng = np.random.default_rng(0)
    masks = np.stack([rng.uniform(0.5, 1, (4, 4)), rng.uniform(0, 0.5, (4, 4)), np.full((4, 4), 0.6), np.ones((4, 4))])
    got = scaled_to(torch.from_numpy(masks)[:, None], 0.6)[:, 0].numpy()
    assert np.allclose(got[0], masks[0] * 0.6 / masks[0].mean())
    assert np.allclose(got[1], 1 - (1 - masks[1]) * 0.4 / (1 - masks[1].mean()))
    assert np.allclose(got[2], 0.6) and np.allclose(got[3], 0.6)
    assert np.allclose(got.mean((1, 2)), 0.6) and got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize(("kwargs", "target"), [({}, 0.7), ({"adjust_to_k": True}, 0.2), (None, None)])
def test_when_masks_are_scaled(kwargs, target):
    net, method = made(**(kwargs or {}))
    means = method.mix(moment(adjust=kwargs is not None), images(5), Y, net).mask.mean((1, 2, 3))
    if target is None:
        assert means.std() > 0.01
    else:
        assert torch.allclose(means, torch.full((5,), target), atol=1e-6)


def test_how_often_masks_are_scaled_and_the_block_trained():
    net, method = made(mask_adjust=0.25, switch_off=0.8)
    ctx = context(CLASSES, 3)
    x, count = images(2), 600
    mixes = [method.mix(ctx, x, Y[:2], net) for _ in range(count)]
    assert np.mean([m.state.train_block for m in mixes]) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / count))
    masked = [
        (m.mask.mean((1, 2, 3)) - m.weights[0, 0]).abs().max() < 1e-6
        for m in mixes
        if m.mask.std() > 0 and m.partner[0] == 1
    ]
    assert np.mean(masked) == pytest.approx(0.25, abs=4 * math.sqrt(0.19 / len(masked)))
    assert all(AutoMix(switch_off=s).trains_block(context(seed=i)) for s in (0.0, 1.0) for i in range(20))


def test_without_the_blocks_loss_its_mask_loss_remains():
    net, method = made()
    _, got = terms(net, method, moment(train_block=False))
    assert set(got) == {"one", "q", "lam"}
    sum(got.values()).backward()
    assert all(p.grad is not None for p in method.block.parameters())


def test_lambdas_are_beta_and_independent():
    net, method = made(factor=0.0, lam_margin=1.0)  # blends: the mask is lambda
    ctx, x, lams = context(CLASSES, 1), images(1), []
    for _ in range(1000):
        mixed = method.mix(ctx, x, Y[:1], net)
        lams.append((mixed.state.lam, mixed.mask[0, 0, 0, 0].item()))
    lam_k, lam = np.array(lams).T
    for values in (lam_k, lam):  # Beta(2, 2): mean 1/2, variance 1/20
        assert values.mean() == pytest.approx(0.5, abs=0.03) and values.var() == pytest.approx(0.05, abs=0.006)
    assert abs(np.corrcoef(lam_k, lam)[0, 1]) < 0.13


def test_clean_images_may_be_mixed_by_hand():
    net, method = made(head_one_mix=True)
    x = images(5)
    partner = np.array([4, 2, 0, 1, 3])
    _, got = terms(net, method, moment(one={"branch": 0, "lam": 0.6, "partner": partner}))
    logits = net.model(0.6 * x + 0.4 * x[partner])
    assert got["one"].item() == pytest.approx(
        (0.6 * F.cross_entropy(logits, Y) + 0.4 * F.cross_entropy(logits, Y[partner])).item(), rel=1e-5
    )
    _, got = terms(net, method, moment(one={"branch": 1, "box": (0, 4, 0, 8), "partner": partner}))
    pasted = torch.cat([x[partner][:, :, :4], x[:, :, 4:]], 2)
    logits = net.model(pasted)
    assert got["one"].item() == pytest.approx(
        (F.cross_entropy(logits, Y) + F.cross_entropy(logits, Y[partner])).item() / 2, rel=1e-5
    )
    branches = [method.mix(context(CLASSES, i), x, Y, net).state.one.mask.unique().numel() > 1 for i in range(40)]
    assert 8 < sum(branches) < 32


def test_smoothing_and_the_recipes_loss_reach_every_term():
    net, method = made()
    ctx = moment()
    seen = []
    smooth = dataclasses.replace(
        context(CLASSES, smoothing=0.1),
        step=1,
        total_steps=4,
        draws=ctx.draws,
        criterion=lambda z, t: seen.append(t) or z.sum(),
    )
    terms(net, method, smooth)
    one_hot = torch.full((5, CLASSES), 0.02).scatter(1, Y[:, None], 0.92)
    assert torch.allclose(seen[0], one_hot, atol=1e-6)
    for target, (lam, partner) in zip(seen[1:], ((0.7, "partner"), (0.2, "partner_k")), strict=True):
        assert torch.allclose(target, lam * one_hot + (1 - lam) * one_hot[PARTNERS[partner]], atol=1e-6)


def test_what_is_evaluated_is_the_slow_network():
    net, method = made()
    slow = method.eval_network(net)
    assert slow is method.encoder.network and slow.model.state_dict().keys() == net.model.state_dict().keys()
    with torch.no_grad():
        net.model.fc.bias += 1
    method.after_step(moment(step=3), net)
    assert torch.allclose(slow.model.fc.bias, net.model.fc.bias - rising_momentum(3, 4, 0.999, 0.99999, 0.1), atol=1e-6)


def test_whose_batch_norm_statistics_q_keeps():
    """The clean images': they are seen last."""
    net, method = made()
    x, ctx, statistics = images(5), moment(), BatchNormStatistics(net)
    with statistics.micro_batch():
        train_step(ctx, net, method, x, Y)
    statistics.step()
    with torch.no_grad():
        features = F.conv2d(x, net.model.conv1.weight, net.model.conv1.bias, 2, 1)
    assert torch.allclose(net.model.norm.running_mean, 0.1 * features.mean((0, 2, 3)), atol=1e-6)


def test_presets_differ_by_what_is_published():
    default = dict(vars(AutoMix()))
    for preset, changed in {
        "cifar": {"lam_embed", "mask_loss_schedule", "momentum_end"},
        "cifar_vit": {"switch_off", "momentum_end", "momentum_start"},
        "convnext": {"switch_off", "momentum_end", "momentum_start"},
        "vit": {"switch_off", "momentum_start"},
    }.items():
        own = vars(create("automix", preset))
        assert {k for k, v in own.items() if not k.startswith("_") and v != default[k]} == changed


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"alpha": -1}, "`alpha`"),
        ({"norm": "gn"}, "`norm`"),
        ({"upsample": "bicubic"}, "`upsample`"),
        ({"switch_off": 1.1}, "`switch_off`"),
        ({"momentum": -0.1}, "`momentum`"),
        ({"mask_adjust": 2}, "`mask_adjust`"),
        ({"mask_loss_weight": -1}, "`mask_loss_weight`"),
        ({"mask_loss_schedule": "linear"}, "`mask_loss_schedule`"),
        ({"feature_layer": 3}, "`feature_layer`"),
        ({"block_lr": -1}, "`block_lr`"),
        ({"lam_embed": 1}, "`lam_embed`"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        AutoMix(**kwargs)


def test_a_network_without_a_known_middle():
    with pytest.raises(EvalkitError, match="feature_layer=NAME"):
        AutoMix().setup(toy())
    net = models.create("vit_nano_patch4_32", num_classes=5)
    with pytest.raises(EvalkitError, match="feature_layer 'bloks.1'. Did you mean 'blocks.1'"):
        AutoMix(feature_layer="bloks.1").setup(net)


DIFFERS = """
the schedule of gamma (`mask_loss_schedule`)
= parts/test_learned.py::test_the_mask_losss_weight_of_the_code_compounds | golden:mask_loss_weight
the scaling of masks, there to the wrong lambda
= ::test_when_masks_are_scaled
phi's batch norm, whose statistics are always the batch's
= parts/test_mixblock.py::test_automix_block_against_numpy | golden:automix
where features overflow: the code replaces a mask that is not a number, here the loss shows it and the run stops.
= test_sources.py::test_infinite_features_show_in_the_loss_of_learned_methods
= ../test_run.py::test_a_lost_loss_stops_with_the_batch_saved
The code shows q the clean images before the mixed ones and updates its batch-norm statistics by both; here the mixed
ones come first and the clean ones' statistics count, for `k_eval_mode` and where q itself is evaluated.
= ::test_whose_batch_norm_statistics_q_keeps
= parts/test_momentum.py::test_eval_mode_follows_the_trained_networks_statistics
"""
