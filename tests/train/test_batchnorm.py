import dataclasses

import pytest
import torch
from torch import nn

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import batchnorm
from evalkit.train.batchnorm import BatchNormStatistics, share_batch_norm
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import create


def test_one_update_with_the_mean_of_the_micro_batches():
    """Two micro-batches of one step, by hand from mean and unbiased variance."""
    bn = nn.BatchNorm1d(3, momentum=0.1).double()
    bn.running_mean.fill_(0.5)
    statistics = BatchNormStatistics(bn)
    batches = [
        torch.randn(8, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) * (i + 1) for i in range(2)
    ]
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
    assert torch.allclose(ours.running_mean, theirs.running_mean) and torch.allclose(
        ours.running_var, theirs.running_var
    )


def test_model_without_batch_norm():
    statistics = BatchNormStatistics(nn.Linear(2, 2))
    with statistics.micro_batch():
        pass
    statistics.step()


def resnet():
    return models.create("resnet10_cifar", num_classes=3, channels=(4, 4, 8, 8))


def cfg(bn_batch, micro_batch=32):
    return TrainConfig(
        model="m", data="digits", epochs=1, batch_size=256, micro_batch=micro_batch, lr=1e-3, bn_batch=bn_batch
    )


@pytest.mark.parametrize(
    "bn_batch, processes, message",
    [
        (128, 1, "see 32; run it with --gpus 4, or set bn_batch=32"),
        (128, 2, "see 64; run it with --gpus 4"),
        (48, 1, "see 32; set bn_batch=32 or bn_batch=null"),
        (64, 2, "needs GPUs"),
    ],
)
def test_batch_norm_is_never_silently_shared_otherwise(monkeypatch, bn_batch, processes, message):
    monkeypatch.setattr(batchnorm, "world_size", lambda: processes)
    net = resnet()
    with pytest.raises(EvalkitError, match=message):
        share_batch_norm(net, create("vanilla"), cfg(bn_batch), torch.device("cpu"))


def test_batch_norm_over_processes_is_pytorchs(monkeypatch):
    monkeypatch.setattr(batchnorm, "world_size", lambda: 4)
    net = resnet()
    names = set(net.model.state_dict())
    share_batch_norm(net, create("vanilla"), cfg(128), torch.device("cuda"))
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert layers and all(isinstance(m, nn.SyncBatchNorm) for m in layers) and set(net.model.state_dict()) == names
    assert len(BatchNormStatistics(net).layers) == len(layers)


def test_batch_norm_of_a_momentum_encoder_is_shared_too(monkeypatch):
    monkeypatch.setattr(batchnorm, "world_size", lambda: 4)
    for name in ("automix", "samix", "adautomix"):
        method, net = create(name), resnet()
        share_batch_norm(net, method, cfg(128), torch.device("cuda"))
        method.setup(net)
        layers = [m for m in method.encoder.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert layers and all(isinstance(m, nn.SyncBatchNorm) for m in layers)
        assert method.encoder.statistics.layers == layers


def test_passes_that_a_draw_leaves_out_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(batchnorm, "world_size", lambda: 4)
    step = dataclasses.replace(cfg(128), mix_draws="step")
    for method in (create("automix", switch_off=0.8), create("choice", methods=["automix", "mixup"])):
        with pytest.raises(EvalkitError, match="this mixup draws which ones it makes; set mix_draws=step, or bn_batch"):
            share_batch_norm(resnet(), method, cfg(128), torch.device("cuda"))
        share_batch_norm(resnet(), method, step, torch.device("cuda"))
    for method in (create("automix"), create("choice", methods=["cutmix", "mixup"])):
        share_batch_norm(resnet(), method, cfg(128), torch.device("cuda"))


def test_one_process_with_that_micro_batch_is_the_reference():
    """bn_batch = micro_batch: the momentum encoder normalises by the 32 images, as without bn_batch."""
    x, found = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)), []
    for bn_batch in (32, None):
        torch.manual_seed(0)
        net, method = resnet(), create("automix")
        share_batch_norm(net, method, cfg(bn_batch), torch.device("cpu"))
        method.setup(net.train())
        found.append(method.encoder.look(x)[0])
        with torch.no_grad():
            first = method.encoder.network.model.conv1(x)
        sums = method.encoder.statistics.sums[0]
        torch.testing.assert_close(sums[0], first.mean((0, 2, 3)))
    assert torch.equal(*found)


@pytest.mark.parametrize("bn_batch", [None, 32])
def test_one_process_keeps_its_batch_norm(bn_batch):
    net = resnet()
    share_batch_norm(net, create("vanilla"), cfg(bn_batch), torch.device("cpu"))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())


def test_a_network_without_batch_norm_has_nothing_to_share():
    net = models.create("vit_nano_patch4_32", depth=1)
    share_batch_norm(net, create("vanilla"), cfg(128), torch.device("cpu"))
