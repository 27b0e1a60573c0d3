"""MixPro: MaskMix images, labels that trust the class attention as far as the prediction is right."""

from typing import Any

from torch import Tensor

from evalkit.models.network import Network, Output

from ..losses import mixed_target, soft_target
from .base import Context, Mixed, MixMethod
from .cutmix import CutMix
from .maskmix import MASKS, MaskMix
from .parts.checks import block_depth, expect, flag, is_whole, one_of
from .parts.labels import MASK_DOWN, attention_weights
from .parts.progress import PROGRESS, make_progress


class MixPro(MixMethod):
    """MixPro (Zhao et al., ICLR 2023, arXiv:2304.12043, equations 6 to 9): MaskMix + progressive attention labelling.

        x~, M, lam_area as MaskMix;  A = class attention, z = logits of the network for x~, in the same forward pass
        lam_attn,i = sum_j M_ij A_ij / sum_j A_ij       (M at the resolution of the patches, A without gradient)
        a_i = cos(softmax(z_i), lam_area,i s(y_i) + (1 - lam_area,i) s(y_pi(i)))
        lam_i = a_i lam_attn,i + (1 - a_i) lam_area,i,   t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    The bare method; its published training switches between it, Mixup and CutMix (see Choice).

    Args:
        The mask:
            mask: "random" or "block" as MaskMix, or "region": CutMix's box.
            scale: As MaskMix; not of "region".
            alpha: As MaskMix, or as CutMix for "region".
            pairing: As MaskMix.
            count_rounding: As MaskMix; not of "region".
            lam_from_count: As MaskMix; not of "region".
            misaligned: As MaskMix; not of "region".
        The attention label:
            normalize_attn: As TransMix.
            mask_down: As TransMix.
            attn_depth: As TransMix.
            rollout_residual: As TransMix.
        The progress factor a:
            pal: "cosine", "equal" (1/2, which gives TransMix's label), "linear" (step / total steps), "parabolic" (its
                square), "learnable" (sigmoid of a scalar that starts at 0, trained by the loss through lam) or "none"
                (area labels).
            pal_detach: No gradient through the cosine.
            pal_epochs: The number of epochs, for "linear" and "parabolic" to count whole ones.
            pal_hard_ce: One-hot labels in the loss, smoothed ones only inside the cosine.

    Presets of the paper's ablations: "pal_cutmix" (table 6), "misaligned" and "reduced" (table 8, B and C), "equal"
    (also MaskMix with TransMix's label in table 6), "linear", "parabolic", "learnable" (table 10); scales 1, 2, 4 and
    7 are figure 5. "swin" has the cells of 56 pixels of the code's Swin for networks with an attention grid of stride
    32 (ca_swin_*, pvt_*), where a scale of 4 would be 128 pixels. Draws: those of MaskMix; with mask="region" those of
    CutMix.

    Differs from the paper / the official code in combining them: as the code, cells are rounded up, each image has a
    mask of its own (in the paper's algorithm 1, which the preset "paper" follows but for this, a batch has one) and A
    is normalised; as the paper, lam_area is the true share of pixels and the loss uses smoothed labels; the cosine,
    about whose gradient the paper is silent, is detached. Of the ablations, which the code lacks and the paper
    describes in a line, B's offset, C's half a patch and the sigmoid are our reading.
    """

    family = "attention"
    needs = "class attention"
    bibtex = MaskMix.bibtex
    small = {"scale": 2}
    counts_with = {
        "count_rounding": ("mask", ["random"]),
        **dict.fromkeys(("scale", "lam_from_count", "misaligned"), ("mask", ["random", "block"])),
        "pal_detach": ("pal", ["cosine"]),
        "pal_epochs": ("pal", ["linear", "parabolic"]),
        **dict.fromkeys(
            ("normalize_attn", "mask_down", "attn_depth"),
            ("pal", ["cosine", "equal", "linear", "parabolic", "learnable"]),
        ),
        "rollout_residual": ("attn_depth", ["rollout"]),
    }
    PRESETS = {
        "default": {},
        "equal": {"pal": "equal"},
        "learnable": {"pal": "learnable"},
        "linear": {"pal": "linear"},
        "misaligned": {"misaligned": True},
        "pal_cutmix": {"mask": "region"},
        "paper": {"pairing": "flip", "count_rounding": "floor", "normalize_attn": False},
        "parabolic": {"pal": "parabolic"},
        "reduced": {"scale": 0.5},
        "released": {"lam_from_count": True, "pal_detach": False, "pal_hard_ce": True},
        "swin": {"scale": 1.75},
    }

    def __init__(
        self,
        mask: str = "random",
        scale: float = 4,
        alpha: float = 1.0,
        pairing: str = "perm",
        count_rounding: str = "ceil",
        lam_from_count: bool = False,
        misaligned: bool = False,
        pal: str = "cosine",
        pal_detach: bool = True,
        pal_epochs: int | None = None,
        pal_hard_ce: bool = False,
        normalize_attn: bool = True,
        mask_down: str = "nearest",
        attn_depth: int | str | None = None,
        rollout_residual: bool = True,
    ):
        super().__init__()
        self.images: CutMix | MaskMix
        if one_of("mask", mask, (*MASKS, "region")) == "region":
            self.images = CutMix(alpha, pairing)
        else:
            self.images = MaskMix(scale, None, alpha, pairing, mask, count_rounding, lam_from_count, misaligned)
        expect(
            pal_epochs is None or (is_whole(pal_epochs) and pal_epochs > 0),
            "pal_epochs",
            "a whole number of epochs larger than 0",
            pal_epochs,
        )
        self.pal = one_of("pal", pal, PROGRESS)
        self.pal_detach = flag("pal_detach", pal_detach)
        self.progress = make_progress(pal, pal_detach, pal_epochs)
        self.pal_hard_ce = flag("pal_hard_ce", pal_hard_ce)
        self.normalize_attn = flag("normalize_attn", normalize_attn)
        self.mask_down = one_of("mask_down", mask_down, MASK_DOWN)
        self.attention = pal != "none" and block_depth(attn_depth)
        self.rollout_residual = flag("rollout_residual", rollout_residual)
        self.seen: tuple[int, Tensor] | None = None  # step and factors of the newest batch: nothing is computed for it

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "weight_decay": 0.0}] if self.pal == "learnable" else []

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        return self.images.mix(ctx, x, y, net)

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        if self.progress is None:
            return mixed.weights
        a = self.progress(ctx, mixed, y, out)
        if isinstance(a, Tensor):
            self.seen = ctx.step, a.detach()
        return (
            a * attention_weights(mixed, out, self.mask_down, self.normalize_attn, self.rollout_residual)
            + (1 - a) * mixed.weights
        )

    def measured(self, step: int) -> dict[str, Tensor]:
        """The progress factors, which figure 2 of the paper shows."""
        return {"progress": self.seen[1]} if self.seen is not None and self.seen[0] == step else {}

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        target = soft_target(y, out.logits.shape[1]) if self.pal_hard_ce else ctx.target(y)
        return ctx.criterion(out.logits, mixed_target(self.relabel(ctx, mixed, y, out), target))
