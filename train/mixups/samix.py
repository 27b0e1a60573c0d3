"""SAMix: AutoMix with a mix block that sees both images at once, a non-linear value and a reward for masks that
decide."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from .automix import MaskedMix
from .base import Context, upload
from .parts.checks import expect, is_number
from .parts.mixblock import SAMixBlock

VARIANCE = 2.0  # weight of the variance in the mask loss


class SAMix(MaskedMix):
    """SAMix (Li et al., arXiv:2111.15454, section 4): AutoMix with another mix block phi and mask loss.

        lam' = f_k(lam), z_a = (1 + lam') z, z_b = (2 - lam') z_pi;
        P = softmax(theta_q([z_a, z_b])^T theta_k([z_a, z_b]) / sqrt(C/2))
        m = sigmoid(up(P value(z_b))), the partner's share, value with a hidden layer and dropout;
        x~ = (1 - m) x + m x_pi
        f_k(lam) = (4/3 lam^3 - 2 lam^2 + (k + 1) lam) / (k + 1/3), the identity for k < 0;
        the losses L_one, L_q, L_k as AutoMix
        L_lam = gamma (max(|1 - mean(m) - lam| - mask_margin, 0) - 2 var(m)), the mean and variance over all masks and
            pixels

    The presets "cifar", "released_cifar" and "cifar_vit" (the DeiT's) are configurations of its code; "vit" and
    "convnext", for ImageNet, where none is public, are AutoMix's with its upsampling. Draws: those of AutoMix; keep,
    keep_k (B, 1, h, w): 0 or 1 / (1 - dropout).

    Args:
        lam_shape: k of f_k, how strongly lambda is bent; below 0: not at all.
        dropout: Probability of dropping a cell of the value.

    The other arguments are those of AutoMix but `lam_embed`.

    Differs from the paper / the official code as AutoMix does; the preset "released_cifar" scales masks to the wrong
    lambda, as the code.
    """

    bibtex = """
    @misc{li2021samix,
      title = {Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup},
      author = {Li, Siyuan and Liu, Zicheng and Wu, Di and Liu, Zihan and Li, Stan Z.},
      year = {2021},
      eprint = {2111.15454},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "cifar": {"lam_shape": 0.25, "dropout": 0.0, "mask_loss_schedule": "constant", "momentum_end": 0.999999},
        "cifar_vit": {"switch_off": 1.0, "momentum_end": 0.99996, "momentum_start": 0.25, "upsample": "nearest"},
        "convnext": {"switch_off": 0.8, "momentum_end": 0.99996, "momentum_start": 0.25},
        "released_cifar": {
            **{"lam_shape": 0.25, "dropout": 0.0, "mask_loss_schedule": "constant", "momentum_end": 0.999999},
            **{"mask_adjust": 0.25, "adjust_to_k": True},
        },
        "vit": {"switch_off": 0.8, "momentum_start": 0.25, "upsample": "nearest"},
    }

    def __init__(self, lam_shape: float = -1.0, dropout: float = 0.1, **shared: Any):
        super().__init__(**shared)
        expect(is_number(lam_shape), "lam_shape", "a number", lam_shape)
        expect(is_number(dropout) and 0 <= dropout < 1, "dropout", "a number from 0 to less than 1", dropout)
        self.lam_shape, self.dropout = lam_shape, dropout

    def make_block(self, channels: int) -> nn.Module:
        return SAMixBlock(channels, self.lam_shape, self.norm)

    def draw_keep(self, ctx: Context, z: Tensor, name: str) -> Tensor | None:
        if not self.dropout or not self.training:
            return None
        shape = (len(z), 1, *z.shape[-2:])
        keep = ctx.draw(name, lambda rng: (rng.random(shape) >= self.dropout) / (1 - self.dropout))
        return upload(np.asarray(keep, dtype=np.float32), z)

    def mask_penalty(self, own: Tensor, lam: float) -> Tensor:
        return super().mask_penalty(own, lam) - VARIANCE * own.var(correction=0)
