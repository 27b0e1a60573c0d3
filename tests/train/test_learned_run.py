"""A run of a method that trains networks of its own: learning rates, what is exported, what is kept."""

import math

import numpy as np
import pytest
import timm
import torch

from evalkit import checkpoint, config
from evalkit.train import measure, session, snapshot
from evalkit.train.config import TrainConfig
from evalkit.train.run import train
from tests.conftest import tiny

AUTOMIX = "mixup={name: automix, block_lr: 2e-3, block_min_lr: 1e-3, momentum: 0.5}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps of a one-layer ViT."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    recipe = ["batch_size=449", "micro_batch=449", "lr=1e-2", "min_lr=1e-4", "warmup_epochs=0", "schedule=cosine"]
    assert train(tiny(AUTOMIX, *recipe), folder) == 0
    return folder


def test_learning_rates_of_the_groups(run):
    groups = checkpoint.load_state((run / "last").resolve())["optimizer"]["param_groups"]
    wave = (1 + math.cos(math.pi * 2 / 3)) / 2  # in the last of three steps
    rates = [1e-4 + (1e-2 - 1e-4) * wave] * 4 + [1e-3 + (2e-3 - 1e-3) * wave] * 2
    # network and mixup head, with and without decay, then the mix block
    assert [g["lr"] for g in groups] == pytest.approx(rates)
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0] * 3


def test_the_slow_network_is_exported_and_the_trained_one_kept(run):
    folder = (run / "last").resolve()
    state, exported = checkpoint.load_state(folder), checkpoint.read_weights(folder)[0]
    slow = {
        k.removeprefix("encoder.network.model."): v
        for k, v in state["method"].items()
        if k.startswith("encoder.network.")
    }
    assert slow.keys() == exported.keys() == state["network"].keys()
    assert all(torch.equal(slow[k], v) for k, v in exported.items())
    assert any(not torch.equal(state["network"][k], v) for k, v in exported.items())
    timm.create_model("vit_nano_patch4_32", num_classes=10, depth=1, checkpoint_path=str(folder / "model.safetensors"))
    assert {k.split(".")[0] for k in state["method"]} == {"encoder", "block"}


def test_a_restored_session_evaluates_the_slow_network(run):
    s = session.build(config.load(TrainConfig, run / "config.yaml", []), torch.device("cpu"))
    snapshot.restore(s, (run / "last").resolve())
    assert measure.accuracy(s, s.networks()["raw"]) == s.scores["raw"]
    assert measure.accuracy(s, s.network)["loss"] != s.scores["raw"]["loss"]


def test_mixed_samples(run):
    mixed = np.load(run / "mixed.npz")
    assert mixed["x"].shape == (8, 3, 32, 32) and np.allclose(mixed["weights"].sum(1), 1, atol=1e-6)
