"""The loop over mmengine's parts: weights that survive it, an order of samples that depends on the step alone."""

import importlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from evalkit import checkpoint, config
from evalkit.downstream import seg
from evalkit.downstream.mm import require
from evalkit.downstream.run import transfer
from evalkit.downstream.seg import SegConfig
from evalkit.runtime import seed_torch

require("mmseg")
engine = importlib.import_module("evalkit.downstream.mm.run")
feed = importlib.import_module("evalkit.downstream.mm.feed")
backbones = importlib.import_module("evalkit.downstream.mm.backbone")
BaseModule = importlib.import_module("mmengine.model").BaseModule


def backbone(weights, kind=None):
    folder = str(checkpoint.find_folder(weights))
    return (kind or backbones.EvalkitTimmBackbone)("vit_nano_patch4_32", 32, [0], True, {"depth": 1}, folder, "raw")


class Whole(BaseModule):
    """A model as mmseg and mmdet build theirs: parts in a module whose init_weights goes through them."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.backbone = part


def same(model, weights):
    tensors = checkpoint.read_weights(weights)[0]
    return all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())


def test_weights_survive_the_initialisation_of_the_whole(weights):
    whole = Whole(backbone(weights))
    whole.init_weights()
    assert same(whole.backbone.model, weights)


def test_without_the_override_they_would_not(weights):
    """The trap itself: mmengine initialises whatever has a method of that name, and timm's models have one."""
    wiped = Whole(backbone(weights).model)
    wiped.init_weights()
    assert not same(wiped.backbone, weights)


def test_weights_survive_a_run(weights, shapes, tmp_path):
    """One step at a learning rate too small to move anything: what is saved is what was loaded."""
    tiny = [f"data={shapes}", "crop=32", "stride=32", "steps=1", "warmup_steps=0", "batch_size=4", "opt=sgd", "lr=1e-30", "min_lr=0", "weight_decay=0"]
    assert transfer(seg.TASK, str(weights), config.load(SegConfig, "digits-scenes", [*tiny, "device=cpu"], folder="seg"), tmp_path / "run") == 0
    saved = torch.load(tmp_path / "run/checkpoints/step-000000001.pth", weights_only=True)["state_dict"]
    tensors = checkpoint.read_weights(weights)[0]
    compared = [k for k in tensors if k not in ("head.weight", "head.bias")]
    assert len(compared) > 10 and all(torch.allclose(saved[f"backbone.model.{k}"], tensors[k], rtol=0, atol=1e-20) for k in compared)


def test_the_backbone_is_registered_once_for_both():
    for package in ("mmseg", "mmdet"):
        if importlib.util.find_spec(package):
            assert importlib.import_module(f"{package}.registry").MODELS.get("EvalkitTimmBackbone") is backbones.EvalkitTimmBackbone


# ---- places


class Draws:
    """A data set that draws from every generator there is."""

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def stream(start, stop, rank=0, world=1, batch=4, monkeypatch=None):
    """The samples of steps start to stop of one process, as its loader would make them; every image 10 times over."""
    monkeypatch.setattr(feed, "rank", lambda: rank)
    monkeypatch.setattr(feed, "world_size", lambda: world)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(10), 20))[rank::world].tolist()
    size = batch // world
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    data = feed.Seeded(Draws(), seed=5)
    taken = []
    for step, batch_ in enumerate(feed.Places(batches, start), start):
        if step == stop:
            return taken
        taken.append([data[key] for key in batch_])


def test_a_resumed_run_sees_what_the_whole_run_saw(monkeypatch):
    whole = stream(0, 12, monkeypatch=monkeypatch)
    torch.rand(7), np.random.rand(7), random.random()  # whatever was drawn before must not matter
    assert stream(5, 12, monkeypatch=monkeypatch) == whole[5:] and len(whole) == 12


def test_processes_share_the_samples_of_one(monkeypatch):
    whole = stream(0, 6, monkeypatch=monkeypatch)
    halves = [stream(0, 6, rank, 2, monkeypatch=monkeypatch) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves)] == [sorted(batch) for batch in whole]


def test_every_sample_draws_for_itself(monkeypatch):
    drawn = [sample[1:] for batch in stream(0, 12, monkeypatch=monkeypatch) for sample in batch]
    assert len(set(drawn)) == len(drawn) == 48


def test_seed_reaches_every_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    feed.seed_everything(1, "x")
    first = draw()
    seed_torch(9)
    feed.seed_everything(1, "x")
    assert draw() == first
    feed.seed_everything(2, "x")
    assert all(a != b for a, b in zip(draw(), first))


# ---- files


def test_newest_passes_over_what_was_not_written_whole(tmp_path):
    folder = tmp_path / "checkpoints"
    assert engine.newest(tmp_path) is None
    folder.mkdir()
    (folder / ".partial").write_text("half")
    assert engine.newest(tmp_path) is None
    for step in (5, 20, 100):
        (folder / f"step-{step:09d}.pth").write_text("")
    assert engine.newest(tmp_path) == (folder / "step-000000100.pth", 100)


def test_missing_packages_are_named(monkeypatch):
    from evalkit.errors import EvalkitError

    with pytest.raises(EvalkitError, match=r"not installed \(No module named 'mmnothing'\).*pip install 'evalkit\[downstream\]'"):
        require("mmnothing")
