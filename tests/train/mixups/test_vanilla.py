import torch

from evalkit.train import create

from .fakes import context


def test_nothing_is_mixed_and_nothing_drawn():
    x, y, ctx = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2]), context()
    before = ctx.rng.bit_generator.state
    mixed = create("vanilla").mix(ctx, x, y, None)
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3))
    assert ctx.rng.bit_generator.state == before


DIFFERS = """
there is nothing to draw.
= ::test_nothing_is_mixed_and_nothing_drawn
"""
