"""What both transfers share: the rate while it warms up, as mmengine's schedulers follow it."""

from dataclasses import replace

import pytest
import torch

from evalkit.config import load
from evalkit.downstream import config
from evalkit.downstream.seg import SegConfig

LinearLR = pytest.importorskip("mmengine.optim").LinearLR


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10])
def test_warmup_ends_at_the_full_rate(steps):
    """From a thousandth in equal steps; however short it is, the rate does not stay there."""
    cfg = replace(load(SegConfig, "pascal-context-linear", [], folder="seg"), warmup_steps=steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.lr)
    schedulers = [LinearLR(optimizer, **{k: v for k, v in s.items() if k != "type"}) for s in config.warmup(cfg)]
    rates = []
    for _ in range(steps + 3):
        rates.append(optimizer.param_groups[0]["lr"] / cfg.lr)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    expected = [0.001 + 0.999 * t / max(1, steps - 1) for t in range(steps)] + [1.0] * 3
    assert rates == pytest.approx(expected)
