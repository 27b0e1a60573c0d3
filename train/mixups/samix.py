"""SAMix: AutoMix with a mix block that sees both images at once, a non-linear value and a reward for masks that
decide."""

import numpy as np
from torch import Tensor, nn

from .automix import AutoMix
from .base import Context, upload
from .parts.checks import expect, is_number
from .parts.mixblock import SAMixBlock

VARIANCE = 2.0  # weight of the variance in the mask loss


class SAMix(AutoMix):
    """SAMix (Li et al., arXiv:2111.15454, section 4): AutoMix with another mix block phi and mask loss.

        lam' = f_k(lam), z_a = (1 + lam') z, z_b = (2 - lam') z_pi;   P = softmax(theta_q([z_a, z_b])^T theta_k([z_a,
        z_b]) / sqrt(C/2)) m = sigmoid(up(P value(z_b))), the partner's share, value with a hidden layer and dropout;
        x~ = (1 - m) x + m x_pi f_k(lam) = (4/3 lam^3 - 2 lam^2 + (k + 1) lam) / (k + 1/3), the identity for k < 0;
        the losses L_one, L_q, L_k as AutoMix L_lam = gamma (max(|1 - mean(m) - lam| - mask_margin, 0) - 2 var(m)), the
        mean and variance over all masks and pixels

    Args: those of AutoMix but `lam_embed`; `lam_shape` k; `dropout` of the value. The presets "cifar", "released_cifar"
    and "cifar_vit" (the DeiT's) are configurations of its code; "vit" and "convnext", for ImageNet, where none is
    public, are AutoMix's with its upsampling. Draws: those of AutoMix; keep, keep_k (B, 1, h, w): 0 or 1 / (1 -
    dropout).

    Differs from the paper / the official code as AutoMix does; the preset "released_cifar" scales masks to the wrong
    lambda, as the code. The class weight of its soft cross-entropy has no effect there and is left out.
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

    def __init__(
        self,
        alpha: float = 2.0,
        pairing: str = "perm",
        feature_layer: str | None = None,
        lam_shape: float = -1.0,
        dropout: float = 0.1,
        norm: str = "none",
        upsample: str = "bilinear",
        mask_loss_weight: float = 0.1,
        mask_loss_schedule: str = "cosine",
        mask_margin: float = 0.1,
        lam_margin: float = 0.08,
        mask_adjust: float = 0.0,
        adjust_to_k: bool = False,
        switch_off: float = 0.0,
        momentum: float = 0.999,
        momentum_end: float = 0.99999,
        momentum_start: float = 0.1,
        head_one_mix: bool = False,
        k_eval_mode: bool = False,
        block_lr: float | None = None,
        block_min_lr: float | None = None,
        block_momentum: float | None = None,
    ):
        super().__init__(
            alpha=alpha,
            pairing=pairing,
            feature_layer=feature_layer,
            norm=norm,
            upsample=upsample,
            mask_loss_weight=mask_loss_weight,
            mask_loss_schedule=mask_loss_schedule,
            mask_margin=mask_margin,
            lam_margin=lam_margin,
            mask_adjust=mask_adjust,
            adjust_to_k=adjust_to_k,
            switch_off=switch_off,
            momentum=momentum,
            momentum_end=momentum_end,
            momentum_start=momentum_start,
            head_one_mix=head_one_mix,
            k_eval_mode=k_eval_mode,
            block_lr=block_lr,
            block_min_lr=block_min_lr,
            block_momentum=block_momentum,
        )
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
