import pytest
import torch
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.train import Mixed, MixMethod, create, train_step
from tests.train.mixups.fakes import FakeOutput, TinyCNN, context


class Spy:
    """A network that notes how it was called."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, **kwargs):
        self.calls.append((x, kwargs))
        return FakeOutput(torch.zeros(len(x), 5))


class Asks(MixMethod):
    attention, features, inject_layers = 3, True, ("blocks.0",)
    inject = ("blocks.0", lambda h: h)

    def mix(self, ctx, x, y, net):
        return Mixed(x + 1, torch.eye(len(x)), inject=self.inject)

    def loss(self, ctx, x, y, mixed, out, net):
        return out.logits.sum() + x.sum()


def test_one_forward_pass_of_the_mixed_batch_with_what_the_method_asks_for():
    net, x = Spy(), torch.ones(2, 3, 4, 4)
    loss = train_step(context(), net, Asks(), x, torch.arange(2))
    ((seen, kwargs),) = net.calls
    assert torch.equal(seen, x + 1)
    assert kwargs == {"attention": 3, "features": True, "inject": Asks.inject}
    assert loss.item() == x.sum().item()  # the loss sees the images before mixing


def test_a_switch_runs_the_picked_branch():
    net = Spy()
    switch = create("choice", methods=["vanilla", Asks()])
    train_step(context(draws={"branch": 1}), net, switch, torch.ones(2, 3, 4, 4), torch.arange(2))
    train_step(context(draws={"branch": 0}), net, switch, torch.ones(2, 3, 4, 4), torch.arange(2))
    assert net.calls[0][1]["attention"] == 3 and net.calls[1][1] == {
        "attention": False,
        "features": False,
        "inject": None,
    }


def test_a_mixup_step_is_the_textbook_one():
    torch.manual_seed(0)
    net, x, y = TinyCNN(), torch.randn(4, 3, 9, 9), torch.tensor([0, 3, 2, 1])
    loss = train_step(context(draws={"lam": 0.3}), net, create("mixup", pairing="flip"), x, y)
    loss.backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    logits = net(0.3 * x + 0.7 * x.flip(0)).logits
    expected = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y.flip(0))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, p in zip(got, net.parameters(), strict=True):
        assert torch.allclose(a, p.grad, atol=1e-6)


def test_a_plain_module_trains_by_methods_that_ask_for_logits_alone():
    """The same number as by hand; wrapped too."""
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    mine = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    for name in ("vanilla", "cutmix", "mixup", "regmixup"):
        loss = train_step(context(), mine, create(name), x, y)
        loss.backward()
        assert loss.isfinite() and mine[1].weight.grad.abs().sum() > 0
    mixed = create("cutmix").mix(context(), x, y, None)
    by_hand = context().criterion(mine(mixed.x), mixed.weights @ context().target(y))
    for net in (mine, torch.nn.DataParallel(mine), torch.compile(mine, backend="eager")):
        assert train_step(context(), net, create("cutmix"), x, y).item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize("name, what", [("transmix", "class attention"), ("manifold", "`"), ("puzzlemix", "`")])
def test_what_a_plain_module_lacks_is_named(name, what):
    mine = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    line = (
        f"asks the network for {what}.*, and Sequential gives logits alone; take a network of `evalkit.models.create`"
    )
    with pytest.raises(EvalkitError, match=line):
        train_step(context(), mine, create(name), torch.randn(4, 3, 32, 32), torch.arange(4))
