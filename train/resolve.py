"""What `auto` in a recipe means on this machine: settled once, when a run begins, and stored in its config.yaml."""

import importlib.util
from dataclasses import replace

import torch
from torch import nn

from evalkit import models
from evalkit.data.transforms import TrainTransform

from .checks import SPLIT_FUSED
from .config import TrainConfig
from .mixups import from_config
from .optim import kernels

WORTH_COMPILING = 10_000  # steps: compiling takes a minute or two, a step of DeiT-S then 0.6 of its time (H200)


def resolve(cfg: TrainConfig, device: torch.device, steps: int) -> TrainConfig:
    """The recipe without any `auto`, but for `auto_micro_batch`, for a run that begins on `device`. On a CPU nothing
    changes that could move a bit.

    Args:
        cfg: The recipe, its sizes settled.
        device: Where the run begins.
        steps: Of the whole run.
    """
    convolutions, attention = False, False
    if device.type == "cuda" and not cfg.fsdp and None in (cfg.channels_last, cfg.compile):
        network = models.create(cfg.model, **cfg.model_args)
        convolutions = sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) > 1  # more than cuts patches
        attention = network.patch_size is not None
    if (channels_last := cfg.channels_last) is None:
        channels_last = convolutions and cfg.amp != "none"
    if (compiled := cfg.compile) is None:
        compiled = attention and steps >= WORTH_COMPILING and not cfg.deterministic and can_compile(device)
    return replace(
        cfg,
        augment_device=augment_device(cfg, device),
        channels_last=channels_last,
        compile=compiled,
        opt_kernels=opt_kernels(cfg, device),
    )


def opt_kernels(cfg: TrainConfig, device: torch.device) -> str:
    """The quickest way that the optimizer has on a GPU, its own default on a CPU; "auto" stays where it has one way
    alone.

    Args:
        cfg: The recipe.
        device: Where the run begins.
    """
    has = [name for name in kernels(cfg.opt) if name != "fused" or not cfg.fsdp or cfg.opt in SPLIT_FUSED]
    if cfg.opt_kernels != "auto" or not has:
        return cfg.opt_kernels
    return has[0] if device.type == "cuda" else "for-loop"


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs on a GPU: Triton, and compute capability 7.0."""
    return importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (7, 0)


def augment_device(cfg: TrainConfig, device: torch.device) -> str:
    """cpu or device: a GPU augments where the recipe has left Pillow's pixels (decode=fast) and nothing stands in the
    way.

    Args:
        cfg: The recipe.
        device: Where the run trains.
    """
    if cfg.augment_device != "auto":
        return cfg.augment_device
    if device.type != "cuda" or cfg.decode != "fast" or not (cfg.auto_augment or cfg.color_jitter):
        return "cpu"
    in_the_way = TrainTransform(cfg).only_on_cpu() or from_config(cfg.mixup).loader_extras
    return "cpu" if in_the_way else "device"
