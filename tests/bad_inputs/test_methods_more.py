"""A user's own method that touches what it must leave alone, or is written in names that nothing calls."""

import random

import numpy as np
import pytest
import torch

from evalkit.train.mixups.base import Mixed, MixMethod

from .cases import Case
from .test_methods import KIND as KIND
from .test_methods import mixes, own, stepped, trained


def touches(change) -> type[MixMethod]:
    """Its `mix` does this to the network before it mixes nothing."""

    def mix(self, ctx, x, y, net):
        change(net)
        return Mixed(x, torch.eye(len(x)))

    return own(mix=mix)


def shifted(net):
    with torch.no_grad():
        net.model.head.bias.add_(1)


def frozen_later(self, ctx, net):
    for weight in net.parameters():
        weight.requires_grad_(False)


def noted(folder, cls):
    """What a training says in its record."""
    code, line = trained(folder, cls)
    return (code, line) if code else (folder / "run" / "results.jsonl").read_text()


def keeps(generator, draw) -> type[MixMethod]:
    """Its lambda comes from a generator that it was made with."""

    def begin(self):
        MixMethod.__init__(self)
        self.own = generator()

    def mix(self, ctx, x, y, net):
        lam = float(draw(self.own))
        return Mixed(
            lam * x + (1 - lam) * x.roll(1, 0), lam * torch.eye(len(x)) + (1 - lam) * torch.eye(len(x)).roll(1, 1)
        )

    return own(__init__=begin, mix=mix)


CASES = [
    *(
        Case(f"draws from {what} of its own, train", trained, says="a generator of its own, `Mine.own`", argument=cls)
        for what, cls in (
            ("a NumPy generator", keeps(lambda: np.random.default_rng(0), lambda g: g.random())),
            ("a RandomState", keeps(lambda: np.random.RandomState(0), lambda g: g.rand())),
            ("a random.Random", keeps(lambda: random.Random(0), lambda g: g.random())),
            ("a torch generator", keeps(torch.Generator, lambda g: torch.rand((), generator=g))),
        )
    ),
    *(
        Case(f"{what}, train", trained, says=says, argument=cls)
        for what, cls, says in (
            (
                "gradients left switched off",
                touches(lambda net: torch.set_grad_enabled(False)),
                "left gradients switched off; use `with",
            ),
            (
                "another default dtype",
                touches(lambda net: torch.set_default_dtype(torch.float64)),
                "changed torch's default dtype",
            ),
            ("weights of the network changed in place", touches(shifted), "changed weights of the network in place"),
            ("the network frozen by after_step", own(after_step=frozen_later), "depends on no weight that is trained"),
        )
    ),
    *(
        Case(f"images {what}, own loop", stepped, says="pixels reach to", argument=mixes(make))
        for what, make in (
            ("of 0 to 255", lambda x, w: Mixed((x + 1) * 255, w)),
            ("added up over the batch", lambda x, w: Mixed(torch.full_like(x, 40.0), w)),
        )
    ),
    *(
        Case(
            f"a function called {name}",
            noted,
            f"Mine.{name} is never looked at; was {meant} meant",
            "said",
            own(**{name: value}),
        )
        for name, meant, value in (
            ("re_label", "relabel", lambda self, ctx, mixed, y, out: mixed.weights / 0),
            ("afterstep", "after_step", lambda self, ctx, net: None),
            ("attentions", "attention", True),
            ("set_up", "setup", lambda self, net: None),
            ("rowsum", "row_sum", None),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
