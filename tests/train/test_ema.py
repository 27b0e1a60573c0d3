import torch
from torch import nn

from evalkit.train.ema import WeightAverage


def test_recursion_by_hand():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    net[0].weight.data.fill_(1.0)
    average = WeightAverage(net, 0.9)
    for value in (2.0, 4.0):
        net[0].weight.data.fill_(value)
        net[1].num_batches_tracked += 1
        average.update(net)
    assert torch.allclose(average.network[0].weight, torch.tensor(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4))
    assert average.network[1].num_batches_tracked == 2
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())
