"""The largest micro-batch that memory holds."""

from dataclasses import replace

import pytest
import torch

from evalkit import config, results
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.train import micro_batch, session
from evalkit.train.config import TrainConfig
from evalkit.train.micro_batch import FitsCPU, FitsGPU, kept_for_backward, settle_micro_batch

CPU = torch.device("cpu")
WORDS = ["model_args={depth: 1}", "epochs=1", "batch_size=24", "micro_batch=12", "auto_micro_batch=true", "limit=48"]
WORDS += ["ema=null", "threads=1", "device=cpu"]


def recipe(*words: str) -> TrainConfig:
    return config.load(TrainConfig, "digits", [*WORDS, *words])


@pytest.fixture(scope="module")
def images():
    return session.load_images(recipe())


@pytest.mark.parametrize("holds, expected", [(12, 12), (11, 6), (5, 4), (3, 3), (1, 1)])
def test_takes_the_largest_divisor_that_fits(holds, expected, images, monkeypatch):
    monkeypatch.setattr(micro_batch, "FitsCPU", lambda *a: lambda size: size <= holds)
    settled = settle_micro_batch(recipe(), CPU, images)
    assert settled.micro_batch == expected and not settled.auto_micro_batch and settled.batch_size == 24
    assert len(settled.picked) == (expected != 12) and settle_micro_batch(settled, CPU, images) == settled


def test_every_process_takes_what_fits_in_all(images, monkeypatch):
    monkeypatch.setattr(micro_batch, "FitsCPU", lambda *a: lambda size: size <= 6)
    monkeypatch.setattr(micro_batch, "gather_objects", lambda fits: [fits, True])  # the other has more memory
    assert settle_micro_batch(recipe(), CPU, images).micro_batch == 6


def test_refuses_what_cannot_be_settled(images, monkeypatch):
    with pytest.raises(EvalkitError, match="bn_batch=null"):
        settle_micro_batch(recipe("bn_batch=12"), CPU, images)
    monkeypatch.setattr(micro_batch, "FitsCPU", lambda *a: lambda size: False)
    with pytest.raises(EvalkitError, match="not hold a step of a single image"):
        settle_micro_batch(recipe(), CPU, images)


def test_what_is_kept_for_the_backward_pass_is_counted(images):
    """Two layers by hand: the input of each, and the output of the activation between them."""
    s = session.build(recipe("mixup=vanilla"), CPU, images)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.method = s.network, s.method
            self.first, self.second = torch.nn.Linear(100, 50), torch.nn.Linear(50, 10)

        def forward(self, ctx, x, y):
            return self.second(self.first(x.flatten(1)[:, :100].clone()).exp()).sum()

    s.trainee = Two()
    assert kept_for_backward(s) == 4 * 12 * (100 + 50)


def test_on_a_cpu_more_images_need_more_memory_in_proportion(images, monkeypatch):
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 2 * 10**9)
    cfg = replace(recipe("mixup={choice: [mixup, transmix]}"), auto_micro_batch=False)
    fits = FitsCPU(cfg, CPU, images)
    measured = kept_for_backward(session.build(cfg, CPU, images)) / 12
    assert fits.per_image == pytest.approx(measured, rel=0.15)  # masks and targets of a batch do not grow with it
    assert fits(int(1e9 / fits.per_image)) and not fits(int(1e9 / fits.per_image) + 1)
    monkeypatch.setattr(micro_batch, "available_memory", lambda: None)
    with pytest.raises(EvalkitError, match="give micro_batch=N"):
        FitsCPU(cfg, CPU, images)


def test_on_a_gpu_steps_are_tried_and_running_out_is_no_error(images, monkeypatch):
    """The decisions, with a GPU of 100 bytes that is not there."""
    free, peak, calls = [90], [0], []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 100))
    for name in ("memory_reserved", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: peak[0] if "max" in name else 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)

    def steps(cfg, device, images):
        calls.append(cfg.micro_batch)
        peak[0] = 10 * cfg.micro_batch
        if peak[0] > free[0]:
            raise torch.OutOfMemoryError("out of memory")
        return 20

    monkeypatch.setattr(micro_batch, "take_steps", steps)
    fits = FitsGPU(recipe(), CPU, images)
    assert [fits(size) for size in (12, 9, 8, 6)] == [False, False, True, True]  # 9 leaves nothing to spare
    monkeypatch.setattr(micro_batch, "world_size", lambda: 2)
    assert [fits(size) for size in (8, 6)] == [False, True]  # DDP keeps the gradients twice
    assert calls == [12, 9, 8, 6, 8, 6]


def test_steps_that_are_tried_take_every_branch(images, monkeypatch):
    taken = []
    forward = micro_batch.loop.forward
    monkeypatch.setattr(
        micro_batch.loop, "forward", lambda s, m, ctx, b: taken.append(ctx.draws) or forward(s, m, ctx, b)
    )
    choice = "mixup={choice: [mixup, cutmix, {name: mixpro, scale: 2}]}"
    assert micro_batch.take_steps(recipe(choice, "opt_kernels=fused"), CPU, images) > 0
    assert [draws["branch"] for draws in taken] == [0, 1, 2, 0]


def test_a_run_says_and_keeps_what_was_picked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(micro_batch, "FitsCPU", lambda *a: lambda size: size <= 6)
    code, message = invoke(["train", "digits", *WORDS, "checkpoint_steps=1", "--out", str(tmp_path / "run")])
    assert code == 0, message
    assert "micro_batch=6: memory does not hold a step of 12 images" in capsys.readouterr().out
    cfg = config.load(TrainConfig, tmp_path / "run" / "config.yaml", [])
    assert (cfg.micro_batch, cfg.auto_micro_batch, cfg.opt_kernels) == (6, False, "for-loop")
    assert (cfg.channels_last, cfg.compile) == (False, False)
    record = results.read([tmp_path / "run"])[0]
    assert record["config"]["micro_batch"] == 6 and any("micro_batch=6" in note for note in record["notes"])
    plain = [word for word in WORDS if "micro_batch" not in word]
    code, message = invoke(["train", "digits", *plain, "micro_batch=6", "--out", str(tmp_path / "plain")])
    assert code == 0, message
    assert results.read([tmp_path / "plain"])[0]["metrics"] == record["metrics"]
