"""What the methods with a learned mix block have in common: setup, optimizer groups, the momentum encoder's step, the
evaluated network."""

import math
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.models.network import Network, Output

from ..base import Context, Mixed, MixMethod, check_pairing
from .checks import beta_parameter, expect, flag, is_number, one_of
from .mixblock import NORMS
from .momentum import MomentumEncoder, rising_momentum

UPSAMPLE = ("nearest", "bilinear")
SCHEDULES = ("cosine", "constant", "compounding")


class LearnedMix(MixMethod):
    """A mix block phi is trained by the losses of a momentum encoder k, which is also the classifier that is evaluated.

    Args:
        alpha: Parameter of Beta(alpha, alpha), which lambda is drawn from.
        pairing: "perm", "flip" or "derange".
        feature_layer: Layer that gives z, what phi reads; null: the last stage but one (ResNet, PVT, ConvNeXt), the
            middle block (ViT) or the last patch merging (Swin).
        norm: What follows phi's projection: "none", "bn" or "ln".
        upsample: How masks are brought to the size of images: "nearest" or "bilinear".
        lam_margin: The trained network sees a blend without a mask where a share is this close to 0 or 1.
        switch_off: Probability of computing k's loss in a step; 0: always.
        momentum: k's momentum, up to `momentum_start` of the training.
        momentum_end: What it rises to by the end.
        momentum_start: Share of the training after which it rises.
        k_eval_mode: k normalises by running statistics.
        block_lr: phi's learning rate; null: the recipe's.
        block_min_lr: What that falls to; null: the recipe's.
        block_momentum: SGD's momentum for phi; null: the recipe's.
    """

    family = "learned"
    needs = "features in the middle of the network"
    features = True
    training_passes = 2  # of the mixed images and of the clean ones
    own_passes = "whole"
    uses_all_parameters = True
    asks = ("encoder.look",)

    def __init__(
        self,
        alpha: float = 2.0,
        pairing: str = "perm",
        feature_layer: str | None = None,
        norm: str = "none",
        upsample: str = "bilinear",
        lam_margin: float = 0.08,
        switch_off: float = 0.0,
        momentum: float = 0.999,
        momentum_end: float = 0.99999,
        momentum_start: float = 0.1,
        k_eval_mode: bool = False,
        block_lr: float | None = None,
        block_min_lr: float | None = None,
        block_momentum: float | None = None,
    ):
        super().__init__()
        shares = {
            "lam_margin": lam_margin,
            "switch_off": switch_off,
            "momentum": momentum,
            "momentum_end": momentum_end,
            "momentum_start": momentum_start,
            "block_momentum": 0 if block_momentum is None else block_momentum,
        }
        for name, value in shares.items():
            expect(is_number(value) and 0 <= value <= 1, name, "a number from 0 to 1", value)
        for name, rate in (("block_lr", block_lr), ("block_min_lr", block_min_lr)):
            right = rate is None or (is_number(rate) and rate >= 0)
            expect(right, name, "a learning rate of at least 0, or none for the network's", rate)
        expect(
            feature_layer is None or (isinstance(feature_layer, str) and feature_layer != ""),
            "feature_layer",
            "the name of a layer",
            feature_layer,
        )
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.feature_layer = feature_layer
        self.norm = one_of("norm", norm, NORMS)
        self.upsample = one_of("upsample", upsample, UPSAMPLE)
        self.lam_margin, self.switch_off = lam_margin, switch_off
        self.momentum, self.momentum_end, self.momentum_start = momentum, momentum_end, momentum_start
        self.k_eval_mode = flag("k_eval_mode", k_eval_mode)
        self.block_schedule = {
            key: float(value) for key, value in (("lr", block_lr), ("min_lr", block_min_lr)) if value is not None
        }
        self.block_options: dict[str, Any] = {"schedule": self.block_schedule} if self.block_schedule else {}
        if block_momentum is not None:
            self.block_options["momentum"] = float(block_momentum)

    @property
    def skips_passes(self) -> bool:  # type: ignore[override]  # computed
        return 0 < self.switch_off < 1

    def make_block(self, channels: int) -> nn.Module:
        """The mix block for feature maps of `channels` channels."""
        raise NotImplementedError

    def setup(self, net: Network) -> None:
        self.encoder = MomentumEncoder(net, self.feature_layer, self.k_eval_mode)
        self.block = self.make_block(self.encoder.channels).to(next(net.parameters()).device, self.encoder.precision)

    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for module, extra in (
            (self.encoder.head, {}),
            (self.block, self.block_options),
        ):
            weights = [p for p in module.parameters() if p.ndim > 1]
            others = [p for p in module.parameters() if p.ndim <= 1]
            groups.append({"params": weights, **extra})
            if others:
                groups.append({"params": others, "weight_decay": 0.0, **extra})
        return groups

    def trains_block(self, ctx: Context) -> bool:
        """Whether the momentum encoder's loss is computed in this step: with probability `switch_off`, always for 0."""
        return bool(ctx.draw("train_block", lambda rng: self.switch_off == 0 or rng.random() < self.switch_off))

    def plain(self, lam: float) -> bool:
        """Whether a share is so close to 0 or 1 that the network is trained on a blend without a mask."""
        return min(lam, 1 - lam) <= self.lam_margin

    def losses(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> dict[str, Tensor]:
        """The terms of the loss by name."""
        raise NotImplementedError

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        return reduce(torch.add, self.losses(ctx, x, y, mixed, out, net).values())

    def after_step(self, ctx: Context, net: Network) -> None:
        self.encoder.update(
            net, rising_momentum(ctx.step, ctx.total_steps, self.momentum, self.momentum_end, self.momentum_start)
        )

    def eval_network(self, net: Network) -> Network:
        return self.encoder.network


def falling_weight(ctx: Context, weight: float, schedule: str) -> float:
    """A weight times the factor of its schedule at step t of T.

    Args:
        ctx: The context, which tells t and T.
        weight: The weight at the start.
        schedule: 1 for "constant", (1 + cos(pi t / T)) / 2 for "cosine", for "compounding" the product of that over all
            steps up to t.
    """
    if schedule == "constant":
        return weight
    if schedule == "compounding":
        return weight * float(compounded(ctx.total_steps)[ctx.step])
    return weight * (1 + math.cos(math.pi * ctx.step / ctx.total_steps)) / 2


@lru_cache(maxsize=1)
def compounded(total_steps: int) -> np.ndarray:
    """(T + 1,) products of (1 + cos(pi s / T)) / 2 over s = 0 .. t."""
    return ((1 + np.cos(np.pi * np.arange(total_steps + 1) / total_steps)) / 2).cumprod()
