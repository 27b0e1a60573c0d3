"""Exponential moving average of a network's weights."""

import copy
import math
from collections.abc import Callable

import torch

from evalkit.models import Network

from . import fsdp
from .config import TrainConfig

WARMUP_FROM = 0.9  # of the decay, at the beginning of its warm-up: warmup_ratio of all of OpenMixup's configurations


def decay_at(cfg: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """step -> how much of the average stays in that step: `ema`, or in its warm-up of W epochs
    ema (1 - (1 - t / W) (1 - 0.9)) at epoch position t of the step's last published accumulation, as OpenMixup's
    EMAHook (warmup="linear").

    Args:
        cfg: The recipe: ema, its warm-up and the published accumulation.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    assert cfg.ema is not None
    decay, warmup = cfg.ema, cfg.ema_warmup_epochs * steps_per_epoch * cfg.accumulate

    def value(step: int) -> float:
        iteration = (step + 1) * cfg.accumulate - 1
        if iteration >= warmup:
            return decay
        return decay * (1 - (1 - iteration / warmup) * (1 - WARMUP_FROM))

    return value


def beginning_left(cfg: TrainConfig, steps_per_epoch: int, steps: int) -> float:
    """The share of the weights that a run began with in its averaged ones.

    Args:
        cfg: The recipe: ema and its warm-up.
        steps_per_epoch: Optimizer steps of an epoch.
        steps: Optimizer steps done.
    """
    assert cfg.ema is not None
    decay = decay_at(cfg, steps_per_epoch)
    warm = min(steps, math.ceil(cfg.ema_warmup_epochs * steps_per_epoch))
    return math.prod(decay(step) for step in range(warm)) * cfg.ema ** (steps - warm)


class WeightAverage:
    """A copy of a network whose parameters and floating-point buffers follow ema <- decay * ema + (1 - decay) * current
    (as DeiT's).

    Args:
        network: The network that is followed.
    """

    def __init__(self, network: Network):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the average and the network followed
        self.followed: Network | None = None

    @torch.no_grad()
    def update(self, network: Network, decay: float) -> None:
        """Once per optimizer step.

        Args:
            network: The network that is followed, after the step.
            decay: How much of the average stays, 0 to 1.
        """
        if network is not self.followed:  # listing the tensors anew in every step costs more than the update
            current = network.state_dict()
            self.pairs = [(fsdp.local(e), fsdp.local(current[k])) for k, e in self.network.state_dict().items()]
            self.followed = network
        averages, currents = zip(*((e, c) for e, c in self.pairs if e.is_floating_point()))
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for e, c in self.pairs:
            if not e.is_floating_point():
                e.copy_(c)
