"""MergeMix: the patches that most attend to the class token, in a pass with merged tokens, stay; the partner shows in
the others."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.attention import token_grid
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect, flag, is_number, is_whole
from .parts.masks import blend
from .parts.token_merging import merged_attention, plain_blocks


class MergeMix(MixMethod):
    """MergeMix (Jin et al., 2025, arXiv:2510.23479, its code in OpenMixup). Experimental.

        a_i = attention of each of the N patches of x_i to the class token, summed over heads, in a pass that merges
            similar tokens (see token_merging)
        lam0 ~ Beta(alpha, alpha),   n = floor(lam0 N);
        M_i = 1 in the n patches of largest a_i, else 0
        x~_i = M_i x_i + (1 - M_i) x_pi(i),   lam = n / N,   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))
        L = L(f(x~), t) + L(f(x'), t'),
        x', t' the Mixup of the batch with lam' ~ Beta(mixup_alpha, mixup_alpha) and partners of its own

    For plain vit_* and deit_* models.

    Args:
        alpha: Parameter of Beta(alpha, alpha) of the pasted share; 0: no mixing.
        mixup_alpha: Parameter of Beta(mixup_alpha, mixup_alpha) of the Mixup besides; 0: the batch as it is.
        merged: Share of the patches that are merged away (49 of 196).
        attn_depth: Block of the attention; None: the last.
        resample: Draw each label's lam_i ~ N(merged, lam) and stretch the batch's to 0 ... 1.
        pairing: As CutMix; "derange" keeps any image from being its own partner.

    The preset "cifar" is DeiT's configuration on CIFAR-100. Draws: lam, partner, mixup_lam, mixup_partner, noise ((B,)
    standard normal numbers, with resample).

    Differs from the paper / the official code in ties, which merged patches always are (the first ones win here), in
    taking the attention and the map of merged tokens at the same block, in the pass for the attention, which keeps no
    gradient, and in partners: no image is its own.
    """

    family = "attention"
    needs = "a plain ViT"
    extra_passes = "1 forward, 1 forward and backward"
    bibtex = """
    @misc{jin2025mergemix,
      title = {{MergeMix}: A Unified Augmentation Paradigm for Visual and Multi-Modal Understanding},
      author = {Jin, Xin and Li, Siyuan and Jian, Siyong and Yu, Kai and Wang, Huan},
      year = {2025},
      eprint = {2510.23479},
      archivePrefix = {arXiv}
    }
    """
    takes = "vit"
    training_passes = 2
    own_passes = "layers"
    small = {"attn_depth": 1}
    PRESETS = {
        "default": {},
        "cifar": {"merged": 0.5, "attn_depth": 9, "resample": True},
    }

    def __init__(
        self,
        alpha: float = 1.0,
        mixup_alpha: float = 0.8,
        merged: float = 0.25,
        attn_depth: int | None = None,
        resample: bool = False,
        pairing: str = "derange",
    ):
        super().__init__()
        expect(is_number(merged) and 0 <= merged < 1, "merged", "a number from 0 to below 1", merged)
        expect(
            attn_depth is None or (is_whole(attn_depth) and attn_depth > 0),
            "attn_depth",
            "the number of a block, 1 or more, or none",
            attn_depth,
        )
        self.alpha = beta_parameter(alpha)
        self.mixup_alpha = beta_parameter(mixup_alpha, "mixup_alpha")
        self.merged = merged
        self.attn_depth = attn_depth
        self.resample = flag("resample", resample)
        self.pairing = check_pairing(pairing)

    def setup(self, net: Network) -> None:
        plain_blocks(net.model, self.attn_depth)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        attention = merged_attention(net.model, x, self.merged, self.attn_depth)
        total = attention.shape[1]
        own = int(beta(ctx, self.alpha) * total)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        best = attention.argsort(dim=1, descending=True, stable=True)[:, :own]
        cells = (
            torch.zeros_like(attention).scatter_(1, best, 1.0).view(-1, 1, *token_grid(net.model, x.shape[-2:], total))
        )
        mask = F.interpolate(cells, size=x.shape[-2:], mode="nearest")
        mixed = x[partner]
        mixed = torch.where(mask > 0, x, mixed, out=mixed)

        lam = np.full(len(x), own / total)
        if self.resample:
            noisy = self.merged + lam * ctx.draw("noise", lambda rng: rng.standard_normal(len(x)))
            lam = (noisy - noisy.min()) / (noisy.max() - noisy.min() + 1e-5)
        weights = pair_weights(upload(lam, x, torch.float32), partner)
        others = np.asarray(ctx.draw("mixup_partner", lambda rng: rng.permutation(len(x))))
        return Mixed(mixed, weights, mask, partner, state=(beta(ctx, self.mixup_alpha, "mixup_lam"), upload(others, x)))

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        lam, partner = mixed.state
        target = ctx.target(y)
        plain = ctx.criterion(net(blend(x, partner, lam)).logits, target.lerp(target[partner], 1 - lam))
        return super().loss(ctx, x, y, mixed, out, net) + plain
