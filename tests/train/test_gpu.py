"""Training on a real GPU; skipped without one."""

import json

import pytest
import torch

from evalkit import models
from evalkit.cli import invoke
from evalkit.runtime import leave_processes
from evalkit.train.batchnorm import share_batch_norm
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import create

from .test_resume import digest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

RECIPE = [
    "train",
    "digits",
    "epochs=4",
    "batch_size=64",
    "micro_batch=32",
    "mixup={choice: [mixup, cutmix, transmix, {name: mixpro, scale: 2}]}",
    "workers=2",
]


def losses(run) -> list[float]:
    return [v["loss"] for v in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "loss" in v]


@pytest.mark.parametrize(
    "extra", [[], ["amp=bf16"], ["amp=fp16"], ["compile=true"], ["compile=true", "amp=bf16", "ema=0.99"]], ids=" ".join
)
def test_trains(tmp_path, extra):
    code, message = invoke([*RECIPE, *extra, "log_steps=10", "--out", str(tmp_path / "run")])
    assert code == 0, message
    values = losses(tmp_path / "run")
    assert values[-1] < values[0] and all(v == v for v in values)


def test_resnet_channels_last(tmp_path):
    code, message = invoke(
        [
            *RECIPE,
            "model=resnet10_cifar",
            "mixup=cutmix",
            "channels_last=true",
            "amp=bf16",
            "log_steps=10",
            "--out",
            str(tmp_path / "run"),
        ]
    )
    assert code == 0, message
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


@pytest.mark.parametrize("extra", [[], ["amp=fp16"]], ids=["fp32", "fp16"])
def test_resume_is_exact_with_deterministic_kernels(tmp_path, extra, monkeypatch):
    from evalkit.train import loop

    settings = [*RECIPE, *extra, "deterministic=true", "checkpoint_steps=20"]
    assert invoke([*settings, "--out", str(tmp_path / "whole")])[0] == 0
    kept, save = [], loop.snapshot.save

    def save_once_then_die(s, run):
        folder = save(s, run)
        kept.append(folder)
        raise KeyboardInterrupt  # dies right after the first checkpoint

    monkeypatch.setattr(loop.snapshot, "save", save_once_then_die)
    assert invoke([*settings, "--out", str(tmp_path / "run")])[0] == 130
    monkeypatch.undo()
    code, message = invoke(["train", "--resume", str(tmp_path / "run"), "workers=0"])
    assert code == 0, message
    assert kept and digest(tmp_path / "run") == digest(tmp_path / "whole")


def half_a_batch(rank: int, address: str, x: torch.Tensor, out: str) -> None:
    """What the momentum encoder of one of two processes makes of its half of the images."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    features, statistics, gradient = encoder_on(x.chunk(2)[rank], bn_batch=len(x), micro_batch=len(x) // 2)
    torch.save((features, statistics, gradient), f"{out}-{rank}")
    leave_processes()


def encoder_on(x: torch.Tensor, bn_batch: int, micro_batch: int):
    """Features of the momentum encoder in training mode, its batch-norm statistics after a step and the gradient of its
    logits with respect to the images."""
    device = torch.device("cuda")
    torch.backends.cudnn.allow_tf32 = False  # its rounding depends on how many images a kernel sees
    torch.manual_seed(0)
    net, method = models.create("resnet10_cifar", num_classes=3).to(device).train(), create("automix")
    cfg = TrainConfig(
        model="m", data="d", epochs=1, batch_size=bn_batch, micro_batch=micro_batch, lr=1e-3, bn_batch=bn_batch
    )
    share_batch_norm(net, method, cfg, device)
    method.setup(net)
    encoder = method.to(device).encoder
    features = encoder.look(x.to(device))[0]
    shown = x.to(device).requires_grad_()
    logits = encoder.classify(shown)
    (gradient,) = torch.autograd.grad(logits.square().sum(), shown)
    encoder.update(net, 1.0)
    return features.cpu(), [b.cpu() for b in encoder.statistics.buffers()], gradient.cpu()


def test_two_processes_share_the_momentum_encoders_batch_norm(tmp_path):
    """Two processes with 8 images each and bn_batch=16 are one process with 16."""
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = str(tmp_path / "half")
    torch.multiprocessing.spawn(half_a_batch, (f"file://{tmp_path}/meet", x, out), nprocs=2)
    halves = [torch.load(f"{out}-{rank}") for rank in range(2)]
    features, statistics, gradient = encoder_on(x, 16, 16)
    torch.testing.assert_close(torch.cat([h[0] for h in halves]), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([h[2] for h in halves]), gradient, rtol=1e-3, atol=1e-5)
    for half in halves:
        for ours, one in zip(half[1], statistics, strict=True):
            torch.testing.assert_close(ours, one, rtol=1e-4, atol=1e-5)
