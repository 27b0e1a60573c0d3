"""What `auto` in a recipe means on this machine: settled once, when a run begins, and stored in its config.yaml."""

from dataclasses import replace

import torch

from evalkit.data.transforms import TrainTransform

from .config import TrainConfig
from .mixups import from_config


def resolve(cfg: TrainConfig, device: torch.device) -> TrainConfig:
    """The recipe without any `auto`, for a run that begins on `device`.

    Args:
        cfg: The recipe.
        device: Where the run begins.
    """
    return replace(cfg, augment_device=augment_device(cfg, device))


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
