"""Learning rate as a pure function of the step: no state, so resuming needs nothing."""

import math
from collections.abc import Callable

from .config import TrainConfig


def learning_rate(cfg: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """step -> learning rate by the recipe's schedule.

    Warm-up is linear from `warmup_lr` to `lr`. Cosine runs over the whole run, its beginning covered by the warm-up (as
    timm does; mmcv warms up to the cosine instead of `lr`, less than 1 % lower):
    min_lr + (lr - min_lr) (1 + cos(pi t / T)) / 2 at epoch position t, T = epochs - cooldown_epochs, and min_lr from T
    on. `schedule_by: epoch` holds the value within each epoch, and so does `warmup_by: epoch` for the warm-up (mmcv:
    epoch and step).

    Args:
        cfg: The recipe: schedule, warm-up and epochs.
        steps_per_epoch: Optimizer steps of an epoch.
    """

    length = cfg.epochs - cfg.cooldown_epochs

    def value(step: int) -> float:
        exact = step / steps_per_epoch
        t = math.floor(exact) if cfg.schedule_by == "epoch" else exact
        warm = math.floor(exact) if (cfg.warmup_by or cfg.schedule_by) == "epoch" else exact
        if warm < cfg.warmup_epochs:
            return cfg.warmup_lr + (cfg.lr - cfg.warmup_lr) * warm / cfg.warmup_epochs
        if cfg.schedule == "cosine":
            return cfg.min_lr + (cfg.lr - cfg.min_lr) * (1 + math.cos(math.pi * min(t / length, 1))) / 2
        if cfg.schedule == "step":
            return cfg.lr * cfg.decay_rate ** sum(t >= d for d in cfg.decay_epochs)
        return cfg.lr

    return value
