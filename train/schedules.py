"""Learning rate as a pure function of the step: no state, so resuming needs nothing."""

import math
from collections.abc import Callable

from evalkit.errors import EvalkitError

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


def check_schedule(cfg: TrainConfig) -> None:
    """Raise EvalkitError for a schedule that cannot be followed as it is written."""
    if cfg.schedule == "cosine" and cfg.cooldown_epochs and cfg.cooldown_epochs >= cfg.epochs:
        raise EvalkitError(
            f"cooldown_epochs={cfg.cooldown_epochs:g} leave nothing of epochs={cfg.epochs} for the cosine; give fewer"
        )
    left = cfg.epochs - (cfg.cooldown_epochs if cfg.schedule == "cosine" else 0)
    if cfg.cooldown_epochs and cfg.schedule == "cosine" and cfg.warmup_epochs >= left:
        raise EvalkitError(
            f"warmup_epochs={cfg.warmup_epochs:g} and cooldown_epochs={cfg.cooldown_epochs:g} leave nothing of"
            f" epochs={cfg.epochs} for the cosine; give fewer"
        )
    if cfg.schedule == "cosine" and cfg.min_lr > cfg.lr:
        raise EvalkitError(f"min_lr={cfg.min_lr:g} is above lr={cfg.lr:g}, where it should fall to; lower it")
    if cfg.ema == 1:
        raise EvalkitError("ema=1 never leaves the weights that the run begins with; give a decay below 1")
    if cfg.warmup_epochs and cfg.warmup_lr > cfg.lr:
        raise EvalkitError(
            f"warmup_lr={cfg.warmup_lr:g} is above lr={cfg.lr:g}, to which it should rise; give a lower one"
        )
    if cfg.schedule == "step" and (
        sorted(set(cfg.decay_epochs)) != list(cfg.decay_epochs) or max(cfg.decay_epochs) > cfg.epochs
    ):
        raise EvalkitError(
            f"key 'decay_epochs' must be growing numbers up to epochs={cfg.epochs}, but got {cfg.decay_epochs}"
        )
    if cfg.schedule == "step" and cfg.decay_rate >= 1:
        raise EvalkitError(f"decay_rate={cfg.decay_rate:g} lets the learning rate not fall; give less than 1")
