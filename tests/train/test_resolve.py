"""What auto means, by device and recipe."""

import pytest
import torch

from evalkit.train.config import TrainConfig
from evalkit.train.resolve import resolve

RA = "rand-m9-mstd0.5-inc1"


def config(**changes):
    base = {"model": "vit_nano_patch4_32", "data": "digits", "epochs": 1, "batch_size": 8, "micro_batch": 8, "lr": 0.1}
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
    resolved = resolve(cfg, torch.device(device), 100)
    assert resolved.augment_device == expected and resolve(resolved, torch.device("cpu"), 100) == resolved


GPU = {"amp": "bf16", "auto_augment": None}


@pytest.mark.parametrize(
    "device, steps, changes, expected",
    [
        ("cuda", 10_000, {}, ("fused", False, True)),
        ("cuda", 9_999, {}, ("fused", False, False)),  # would be over before compiling pays
        ("cuda", 10_000, {"deterministic": True}, ("fused", False, False)),
        ("cuda", 10_000, {"compile": False}, ("fused", False, False)),
        ("cuda", 10_000, {"model": "resnet10_cifar"}, ("fused", True, False)),
        ("cuda", 10_000, {"model": "resnet10_cifar", "amp": "none"}, ("fused", False, False)),
        ("cuda", 10_000, {"model": "resnet10_cifar", "channels_last": False}, ("fused", False, False)),
        ("cuda", 9, {"opt": "lamb"}, ("foreach", False, False)),
        ("cuda", 9, {"opt": "adafactor"}, ("auto", False, False)),  # which has one way alone
        ("cuda", 9, {"opt_kernels": "for-loop"}, ("for-loop", False, False)),
        ("cpu", 10_000, {}, ("for-loop", False, False)),
        ("cpu", 10_000, {"model": "resnet10_cifar"}, ("for-loop", False, False)),
        ("cpu", 9, {"opt_kernels": "fused", "compile": True, "channels_last": True}, ("fused", True, True)),
    ],
)
def test_kernels_layout_and_compilation(device, steps, changes, expected, monkeypatch):
    monkeypatch.setattr("evalkit.train.resolve.can_compile", lambda device: True)
    resolved = resolve(config(**(GPU | changes)), torch.device(device), steps)
    assert (resolved.opt_kernels, resolved.channels_last, resolved.compile) == expected
    assert resolve(resolved, torch.device("cpu"), 1) == resolved  # what was settled stays, elsewhere too


def test_nothing_is_compiled_where_it_cannot_be(monkeypatch):
    monkeypatch.setattr("evalkit.train.resolve.can_compile", lambda device: False)
    assert resolve(config(**GPU), torch.device("cuda"), 10_000).compile is False
