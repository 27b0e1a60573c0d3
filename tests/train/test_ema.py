import math

import pytest
import torch
from torch import nn

from evalkit.train.config import TrainConfig
from evalkit.train.ema import WeightAverage, beginning_left, decay_at


def test_recursion_by_hand():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    net[0].weight.data.fill_(1.0)
    average = WeightAverage(net)
    for value in (2.0, 4.0):
        net[0].weight.data.fill_(value)
        net[1].num_batches_tracked += 1
        average.update(net, 0.9)
    assert torch.allclose(average.network[0].weight, torch.tensor(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4))
    assert average.network[1].num_batches_tracked == 2
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_warm_up_is_openmixups(accumulate):
    """Its EMAHook counts iterations from 0 and looks after every `accumulate`-th: momentum (1 - (1 - i / W) 0.1)."""
    keys = {"epochs": 9, "batch_size": 4, "micro_batch": 2, "accumulate": accumulate, "lr": 1, "ema": 0.99}
    cfg = TrainConfig(model="m", data="digits", ema_warmup_epochs=3, **keys)
    steps, theirs = 5, []
    warmup = 3 * steps * accumulate
    for iteration in range(9 * steps * accumulate):
        if (iteration + 1) % accumulate == 0:
            warm = 0.99 * (1 - (1 - iteration / warmup) * (1 - 0.9))
            theirs.append(0.99 if iteration > warmup else warm)
    ours = decay_at(cfg, steps)
    assert [ours(step) for step in range(9 * steps)] == pytest.approx(theirs, abs=1e-15)
    for done in (0, 4, 15, 40):
        assert beginning_left(cfg, steps, done) == pytest.approx(math.prod(theirs[:done]))
