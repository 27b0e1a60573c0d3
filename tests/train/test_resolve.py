"""What auto means, by device and recipe."""

import pytest
import torch

from evalkit.train.config import TrainConfig
from evalkit.train.resolve import resolve

RA = "rand-m9-mstd0.5-inc1"


def config(**changes):
    base = {"model": "m", "data": "digits", "epochs": 1, "batch_size": 8, "micro_batch": 8, "lr": 0.1}
    return TrainConfig(**(base | {"decode": "fast", "auto_augment": RA} | changes))


@pytest.mark.parametrize(
    "device, changes, expected",
    [
        ("cuda", {}, "device"),
        ("cuda", {"auto_augment": None, "color_jitter": 0.4}, "device"),
        ("cuda", {"augment_device": "cpu"}, "cpu"),
        ("cuda", {"decode": "exact"}, "cpu"),  # Pillow's pixels were asked for
        ("cuda", {"decode": "exact", "augment_device": "device"}, "device"),
        ("cuda", {"auto_augment": None}, "cpu"),  # nothing to do there
        ("cuda", {"auto_augment": "rand-m9-t3a"}, "cpu"),  # an operation that only Pillow has
        ("cuda", {"mixup": "augmix"}, "cpu"),  # its views are made in the loader
        ("cpu", {}, "cpu"),
        ("cpu", {"augment_device": "device"}, "device"),
    ],
)
def test_augment_device(device, changes, expected):
    cfg = config(**changes)
    resolved = resolve(cfg, torch.device(device))
    assert resolved.augment_device == expected and resolve(resolved, torch.device("cpu")) == resolved
