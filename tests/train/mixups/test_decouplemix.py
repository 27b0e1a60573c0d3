import math

import pytest
import torch

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import create, train_step
from evalkit.train.mixups.decouplemix import decoupled_loss

from .fakes import FakeNet, TinyAttention, context

YES = torch.tensor([True])


def test_by_hand():
    """exp(z) = (1, 2, 3), classes 0 and 2: phi = 1 / (1 + 2) and 3 / (3 + 2), so ln 3 + ln 5 - ln 3 = ln 5."""
    z, a, b = torch.tensor([[1.0, 2.0, 3.0]]).log(), torch.tensor([0]), torch.tensor([2])
    assert decoupled_loss(z, a, b, YES).item() == pytest.approx(math.log(5))
    # symmetric, and blind to a shift of all logits
    assert decoupled_loss(z + 7, b, a, YES).item() == pytest.approx(math.log(5))
    twice = decoupled_loss(
        z.repeat(4, 1), torch.tensor([0, 0, 1, 2]), torch.tensor([2, 2, 1, 0]), torch.tensor([True, False, True, False])
    )
    assert twice.item() == pytest.approx(math.log(5) / 4)  # one of four: the others show one image or one class


def test_weights_of_the_two_terms():
    """The terms by hand are ln 3 and ln 5 - ln 3; lam = 0.36 and lam_idx = 0.5 weigh them by 0.6 and 0.8."""
    z, a, b = torch.tensor([[1.0, 2.0, 3.0]]).log(), torch.tensor([0]), torch.tensor([2])
    expected = 0.6 * math.log(3) + 0.8 * math.log(5 / 3)
    assert decoupled_loss(z, a, b, YES, (0.6, 0.8)).item() == pytest.approx(expected)
    x, y, net = torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), TinyAttention()
    draws = {"lam": 0.36, "partner": [1, 0]}
    none, half = (
        train_step(context(draws=draws), net, create("decouplemix", eta=eta, lam_idx=0.5), x, y) for eta in (0, 0.3)
    )
    logits = net(0.36 * x + 0.64 * x.flip(0)).logits
    torch.testing.assert_close(half - none, 0.3 * decoupled_loss(logits, y, y.flip(0), YES.repeat(2), (0.6, 0.8)))


def test_the_codes_order_of_the_shares():
    """OpenMixup's soft_mix_cross_entropy gave these regularisers for lam = 0.3: the shares are swapped where the first
    image's own class is the larger number, which here is a matter of the weights' order; for lam = 0.5 it gave 0."""
    z = (torch.arange(18.0).view(3, 6) * 7 % 5) / 2
    small, large, all_mixed = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), YES.repeat(3)
    for own, other, power, official, swapped in (
        (small, large, 1, 1.882062, False),
        (large, small, 1, 1.882063, True),
        (small, large, 0.5, 2.570925, False),
    ):
        weights = (0.3**power, 0.7**power)
        order = weights[::-1] if swapped else weights
        assert decoupled_loss(z, own, other, all_mixed, order).item() == pytest.approx(official, abs=5e-6)
        assert abs(decoupled_loss(z, own, other, all_mixed, order[::-1]).item() - official) > 0.05
    assert decoupled_loss(z, small, large, all_mixed, (0.5, 0.5)).item() > 1


def test_the_two_classes_do_not_compete():
    """phi^(a,b) does not depend on z_b: raising both logits together lowers the loss without limit, which no softmax
    over all classes allows."""
    a, b = torch.tensor([0]), torch.tensor([1])
    losses = [decoupled_loss(torch.tensor([[s, s, 0.0, 0.0]]), a, b, YES).item() for s in (0.0, 5.0, 20.0)]
    assert losses == pytest.approx([2 * math.log(3), 2 * math.log1p(2 * math.exp(-5)), 0], abs=1e-6)
    z = torch.tensor([[1.0, 2.0, 0.5, -1.0]], requires_grad=True)
    decoupled_loss(z, a, b, YES).backward()
    rest = z.detach().exp()[0, 2:].sum()
    assert z.grad[0, 0].item() == pytest.approx((math.e / (math.e + rest) - 1).item(), rel=1e-5)


@pytest.mark.parametrize("method", ["mixup", "cutmix", "transmix", {"name": "resizemix"}])
def test_it_adds_to_the_methods_own_loss(method):
    torch.manual_seed(0)
    net, x, y = TinyAttention(), torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 2, 1, 0])
    spec = method if isinstance(method, str) else method["name"]
    partner = [3, 2, 1, 0, 5, 4]
    plain, decoupled, none = (
        create(spec),
        create("decouplemix", method=method, eta=0.3),
        create("decouplemix", method=method, eta=0),
    )
    losses = [train_step(context(seed=1, draws={"partner": partner}), net, m, x, y) for m in (plain, decoupled, none)]
    mixed = plain.mix(context(seed=1, draws={"partner": partner}), x, y, FakeNet(4))
    p = net(mixed.x).logits.exp()
    want = 0
    for i, j in enumerate(partner):
        a, b = y[i], y[j]
        assert 0.001 < mixed.weights[i, i] < 0.999 and a != b
        want -= (p[i, a] / (p[i].sum() - p[i, b])).log() + (p[i, b] / (p[i].sum() - p[i, a])).log()
    torch.testing.assert_close(losses[1], losses[0] + 0.3 * want / 6)
    assert torch.equal(losses[2], losses[0])


def test_what_the_method_asks_for_is_asked_for():
    net = models.create("vit_nano_patch4_32", num_classes=3, depth=1)
    assert create("decouplemix", method="transmix").attention is True and create("decouplemix").attention is False
    token = create("decouplemix", method={"name": "mixtoken", "dense_weight": 0.5})
    token.setup(net)
    assert (
        token.features
        and token.inject_layers
        and len(token.param_groups()) == 2
        and set(token.state_dict()) == {"method.head.weight", "method.head.bias"}
    )
    assert token.eval_network(net) is net
    loss = train_step(context(3), net, token, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert token.method.head.weight.grad.abs().sum() > 0


def test_single_images_hardly_shown_are_left_out():
    net, x, y = TinyAttention(), torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    for lam in (0.0, 0.0005, 0.9995, 1.0):
        draws = {"lam": lam, "partner": [1, 0]}
        first, second = (
            train_step(context(draws=draws), net, create(*m), x, y) for m in (("mixup",), ("decouplemix",))
        )
        assert torch.equal(first, second)


def test_refused():
    with pytest.raises(EvalkitError, match="needs a method that mixes pairs of images, but got Vanilla"):
        create("decouplemix", method="vanilla").mix(context(), torch.randn(2, 3, 8, 8), torch.arange(2), FakeNet())
    with pytest.raises(ValueError, match="Expected argument `method` to be one mixup method"):
        create("decouplemix", method="choice")
    with pytest.raises(ValueError, match="Expected argument `eta` to be a number of at least 0, but got -1"):
        create("decouplemix", eta=-1)
    with pytest.raises(EvalkitError, match="Did you mean 'cutmix'"):
        create("decouplemix", method="cutmx")


DIFFERS = """
giving each term the power of its own share: the code orders the two shares by the classes of the first image that is
mixed, so that it swaps them for the whole batch where that one's own class is the larger number, and leaves the
regulariser out where lam = 1/2.
= ::test_the_codes_order_of_the_shares | ::test_weights_of_the_two_terms | golden:decouplemix
"""
