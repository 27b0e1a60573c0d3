"""Training on a real GPU; skipped without one."""

import json

import pytest
import torch

from evalkit.cli import invoke

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
    kept, save = [], loop.session.save

    def save_once_then_die(s, run):
        folder = save(s, run)
        kept.append(folder)
        raise KeyboardInterrupt  # dies right after the first checkpoint

    monkeypatch.setattr(loop.session, "save", save_once_then_die)
    assert invoke([*settings, "--out", str(tmp_path / "run")])[0] == 130
    monkeypatch.undo()
    code, message = invoke(["train", "--resume", str(tmp_path / "run"), "workers=0"])
    assert code == 0, message
    assert kept and digest(tmp_path / "run") == digest(tmp_path / "whole")
