from pathlib import Path

import pytest

from evalkit import config
from evalkit.train.config import TrainConfig
from evalkit.train.run import train

TINY = [
    "model_args={depth: 1}",
    "epochs=1",
    "batch_size=64",
    "micro_batch=64",
    "threads=1",
    "workers=0",
    "device=cpu",
    "log_steps=5",
    "mixup=transmix",
]


def tiny(*overrides: str) -> TrainConfig:
    return config.load(TrainConfig, "digits", [*TINY, *overrides])


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that went through: 21 steps of a one-layer ViT with TransMix on digits."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert train(tiny("ema=0.9"), run) == 0
    return run
