"""Precise batch norm, by direct computation, and that a run keeps it."""

from pathlib import Path

import pytest
import torch

from evalkit import checkpoint, config
from evalkit.runtime import init_processes
from evalkit.train import loop, precise_bn, session
from evalkit.train.config import TrainConfig
from evalkit.train.run import train

KEYS = ["epochs=1", "batch_size=64", "micro_batch=32", "threads=1", "workers=0", "device=cpu", "model=resnet10_cifar"]
CPU = torch.device("cpu")


def run_of(*keys):
    return config.load(TrainConfig, "digits", [*KEYS, "model_args={}", "precise_bn=150", *keys])


@pytest.mark.parametrize("mixup", ["cutmix", "automix"])
def test_the_mean_over_the_batches_of_what_each_layer_saw(monkeypatch, mixup):
    init_processes(CPU)
    s = session.build(run_of(f"mixup={mixup}", "methods={}"), CPU)
    s.step, layers = 5, [m for m in s.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    seen = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: seen[m].append(args[0].double()))
    contexts = []
    before = [p.detach().clone() for p in s.trainee.parameters()]
    context = loop.context_maker(s, s.total_steps)
    passes = []

    def forward(ctx, batch):
        contexts.append((ctx.step, float(ctx.rng.random()), batch.x.shape[0]))
        ctx = loop.context_maker(s, s.total_steps)(ctx.step, batch.group)
        for inputs in seen.values():
            inputs.clear()
        out = loop.forward(s, s.trainee, ctx, batch)
        passes.append([inputs[-1] for inputs in seen.values()])  # the last pass of the micro-batch
        return out

    precise_bn.precise_statistics(s, forward, context)
    assert len(passes) == 4  # of 32: two whole batches of 64 go into 150
    assert len({draw for _, draw, _ in contexts}) == 4 and {(step, n) for step, _, n in contexts} == {(4, 32)}
    for i, layer in enumerate(layers):
        mean = torch.stack([inputs[i].mean((0, 2, 3)) for inputs in passes]).mean(0)
        var = torch.stack([inputs[i].transpose(0, 1).flatten(1).var(1) for inputs in passes]).mean(0)
        assert torch.allclose(layer.running_mean.double(), mean, atol=1e-5, rtol=1e-4)
        assert torch.allclose(layer.running_var.double(), var, atol=1e-5, rtol=1e-4)
        assert layer.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, s.trainee.parameters()))
    if mixup == "automix":
        encoder = s.method.encoder
        assert encoder.statistics.counts == [0, 0]
        first = next(m for m in encoder.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
        assert not torch.equal(first.running_var, torch.ones_like(first.running_var))


def test_a_run_does_it_at_the_end_of_each_epoch_and_trains_the_same_weights(tmp_path, monkeypatch):
    called = []
    original = precise_bn.precise_statistics
    monkeypatch.setattr(loop, "precise_statistics", lambda s, *args: (called.append(s.step), original(s, *args)))
    weights = {}
    for name, keys in (("precise", []), ("plain", ["precise_bn=null"])):
        assert train(run_of("mixup=mixup", *keys), Path(tmp_path / name)) == 0
        weights[name] = checkpoint.read_weights((tmp_path / name / "last").resolve(), "raw")[0]
    assert called == [21]  # 1347 images, 64 a step
    for key, value in weights["plain"].items():
        same = torch.equal(value, weights["precise"][key])
        assert same is not key.endswith(("running_mean", "running_var")) or key.endswith("num_batches_tracked")
