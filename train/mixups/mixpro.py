"""MixPro: MaskMix images, labels that trust the class attention as far as the prediction is right."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import mixed_target, soft_target
from .base import Context, Mixed, MixMethod
from .checks import block_depth, flag, one_of
from .cutmix import CutMix
from .labels import MASK_DOWN, attention_weights
from .maskmix import MaskMix

MASKS = ("grid", "cutmix")
PROGRESS = ("cosine", "equal", "linear", "parabolic", "learnable", "none")


class MixPro(MixMethod):
    """MixPro (Zhao et al., ICLR 2023, arXiv:2304.12043, equations 6 to 9): MaskMix + progressive attention labelling.

        x~, M, lam_area as MaskMix;  A = class attention, z = logits of the network for x~, in the same forward pass
        lam_attn,i = sum_j M_ij A_ij / sum_j A_ij       (M at the resolution of the patches, A without gradient)
        a_i = cos(softmax(z_i), lam_area,i s(y_i) + (1 - lam_area,i) s(y_pi(i)))
        lam_i = a_i lam_attn,i + (1 - a_i) lam_area,i,   t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    The bare method; its published training switches between it, Mixup and CutMix (see Choice). Args: `scale`, `alpha`, `pairing`,
    `count_rounding`, `lam_from_count`, `misaligned` as MaskMix; `mask` "grid" or "cutmix" (one CutMix box per batch; then the grid's
    arguments are idle); `pal` the progress factor a: "cosine", "equal" (1/2: TransMix's label), "linear" (step / total steps), "parabolic"
    (its square), "learnable" (sigmoid of a scalar that starts at 0, trained by the loss through lam), "none" (area labels);
    `pal_detach` no gradient through the cosine; `pal_hard_ce` one-hot labels in the loss, smoothed ones only inside the cosine;
    `normalize_attn`, `mask_down`, `attn_depth` as TransMix.
    Draws: lam (tau), cells, partner, offset; with mask="cutmix" those of CutMix.

    Differs from the paper / the official code in combining them: as the code, cells are rounded up and A is normalised; as the paper, lam_area
    is the true share of pixels and the loss uses smoothed labels; the cosine, about whose gradient the paper is silent, is detached.
    """

    family = "attention"
    needs = "class attention"
    PRESETS = {
        "default": {},
        "paper": {"pairing": "flip", "count_rounding": "floor", "normalize_attn": False},
        "released": {"lam_from_count": True, "pal_detach": False, "pal_hard_ce": True},
    }

    def __init__(
        self,
        mask: str = "grid",
        scale: float = 4,
        alpha: float = 1.0,
        pairing: str = "perm",
        count_rounding: str = "ceil",
        lam_from_count: bool = False,
        misaligned: bool = False,
        pal: str = "cosine",
        pal_detach: bool = True,
        pal_hard_ce: bool = False,
        normalize_attn: bool = True,
        mask_down: str = "nearest",
        attn_depth: int | None = None,
    ):
        super().__init__()
        grid = MaskMix(scale, None, alpha, pairing, count_rounding, lam_from_count, misaligned)
        self.images = CutMix(alpha, pairing) if one_of("mask", mask, MASKS) == "cutmix" else grid
        self.pal = one_of("pal", pal, PROGRESS)
        self.pal_detach = flag("pal_detach", pal_detach)
        self.pal_hard_ce = flag("pal_hard_ce", pal_hard_ce)
        self.normalize_attn = flag("normalize_attn", normalize_attn)
        self.mask_down = one_of("mask_down", mask_down, MASK_DOWN)
        self.attention = pal != "none" and block_depth(attn_depth)
        if pal == "learnable":
            self.a = nn.Parameter(torch.zeros(()))

    def param_groups(self) -> list[dict]:
        return [{"params": list(self.parameters()), "weight_decay": 0.0}] if self.pal == "learnable" else []

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net) -> Mixed:
        return self.images.mix(ctx, x, y, net)

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out) -> Tensor:
        if self.pal == "none":
            return mixed.weights
        a = self.progress(ctx, mixed, y, out)
        return a * attention_weights(mixed, out, self.mask_down, self.normalize_attn) + (1 - a) * mixed.weights

    def progress(self, ctx: Context, mixed: Mixed, y: Tensor, out) -> Tensor | float:
        """The progress factor: (B, 1) for "cosine" (equation 8), else one number for the batch."""
        match self.pal:
            case "cosine":
                p = out.logits.float().softmax(1)
                p = p.detach() if self.pal_detach else p
                return F.cosine_similarity(p, mixed_target(mixed.weights, ctx.target(y)))[:, None].clamp(max=1)
            case "learnable":
                return self.a.sigmoid()
            case "equal":
                return 0.5
            case "linear":
                return ctx.step / ctx.total_steps
            case "parabolic":
                return (ctx.step / ctx.total_steps) ** 2

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out, net) -> Tensor:
        target = soft_target(y, out.logits.shape[1]) if self.pal_hard_ce else ctx.target(y)
        return ctx.criterion(out.logits, mixed_target(self.relabel(ctx, mixed, y, out), target))
