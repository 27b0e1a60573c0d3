import torch
from torch import nn

from evalkit.train.batchnorm import BatchNormStatistics


def test_one_update_with_the_mean_of_the_micro_batches():
    """Two micro-batches of one step, by hand from mean and unbiased variance."""
    bn = nn.BatchNorm1d(3, momentum=0.1).double()
    bn.running_mean.fill_(0.5)
    statistics = BatchNormStatistics(bn)
    batches = [torch.randn(8, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) * (i + 1) for i in range(2)]
    for x in batches:
        with statistics.micro_batch():
            y = bn(x)
        assert torch.allclose(y.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)  # normalised by its own batch
    statistics.step()
    mean = sum(x.mean(0) for x in batches) / 2
    var = sum(x.var(0, unbiased=True) for x in batches) / 2
    assert torch.allclose(bn.running_mean, 0.9 * 0.5 + 0.1 * mean) and torch.allclose(bn.running_var, 0.9 + 0.1 * var)
    assert bn.momentum == 0.1 and bn.num_batches_tracked == 1


def test_a_pass_in_evaluation_mode_sees_the_same_statistics_in_every_micro_batch():
    bn, x = nn.BatchNorm1d(3), torch.randn(8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    statistics = BatchNormStatistics(bn)
    for step in range(2):
        seen = []
        for i in range(3):
            with statistics.micro_batch():
                seen.append(bn.eval()(x).detach())
                y = bn.train()((i + 1) * x)
            y.square().sum().backward()
        statistics.step()
        assert all(torch.equal(seen[0], other) for other in seen[1:])
        assert torch.equal(seen[0], nn.BatchNorm1d(3).eval()(x).detach()) == (step == 0)


def test_single_micro_batch_equals_pytorch():
    ours, theirs = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    statistics = BatchNormStatistics(ours)
    for seed in range(3):
        x = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
        with statistics.micro_batch():
            ours(x)
        statistics.step()
        theirs(x)
    assert torch.allclose(ours.running_mean, theirs.running_mean) and torch.allclose(ours.running_var, theirs.running_var)


def test_model_without_batch_norm():
    statistics = BatchNormStatistics(nn.Linear(2, 2))
    with statistics.micro_batch():
        pass
    statistics.step()
