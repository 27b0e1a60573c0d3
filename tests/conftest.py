import os
import random
import signal
from pathlib import Path

# as `make test` has it, before torch counts the cores: sums of several threads are of other last bits
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from evalkit import config
from evalkit.train.config import TrainConfig
from evalkit.train.run import train

# What the shell says that the tests are started from has no part in them: the width of its terminal, a launch or a job
# that it is part of, settings of its user.
FOREIGN = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "EVALKIT_DEBUG", "MLFLOW_TRACKING_URI", "COMP_WORDS")
FOREIGN += ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
for name in os.environ.keys() & {*FOREIGN, *(n for n in os.environ if n.startswith("SLURM_") and n != "SLURM_CONF")}:
    del os.environ[name]
# Nor has what is ignored there: the end of a terminal under nohup, Ctrl-C in a script's background job.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Each test begins with the same draws, whichever ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_others(tmp_path_factory):
    """Indices and locks of devices lie in a folder of the tests, not in the home."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ |= {"EVALKIT_CACHE": str(folder), "EVALKIT_DEVICES": str(folder / "devices")}


def tiny(*overrides: str) -> TrainConfig:
    return config.load(TrainConfig, "digits", [*TINY, *overrides])


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that went through: 21 steps of a one-layer ViT with TransMix on digits."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert train(tiny("ema=0.9"), run) == 0
    return run
