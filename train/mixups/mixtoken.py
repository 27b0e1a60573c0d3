"""MixToken: CutMix on patch embeddings."""

from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, pair_weights
from .parts.boxes import draw_box
from .parts.checks import beta_parameter, expect, is_number

LAYER = "patch_embed"


class MixToken(MixMethod):
    """MixToken (Jiang et al., NeurIPS 2021, arXiv:2104.10858, "All Tokens Matter").

        T = patch embeddings of x, an h x w grid;
        box of CutMix on that grid, lam0 ~ Beta(alpha, alpha), one per batch;   M = 0 in it, else 1
        T~_i = M T_i + (1 - M) T_(B-1-i), then position embeddings, class token and blocks;   lam = mean(M)
        t_i = lam s(y_i) + (1 - lam) s(y_(B-1-i)),   L = L(class logits, t) + dense_weight mean_j L(Z_ij, s(y_i)),
        Z = M Z~ + (1 - M) Z~_(B-1-i)

    Z~ are the logits of each patch token by an auxiliary head; undoing the mix brings each back to its own image. Only
    for networks whose `patch_embed` gives a token per patch (vit, deit, cait, swin); the dense loss, for those that
    keep one token per patch to the end.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        dense_weight: Weight of the dense loss; 0: no auxiliary head.

    Draws: lam, centre (row, column of the token grid), box (replaces both).

    Differs from the paper / the official code in the dense targets, the image's label in every patch (the paper has a
    machine annotator's score maps; this is its code without them), and at test time, where the auxiliary head is left
    out.
    """

    family = "feature"
    needs = "patch embeddings"
    inject_layers = (LAYER,)
    bibtex = """
    @inproceedings{jiang2021tokens,
      title = {All Tokens Matter: Token Labeling for Training Better Vision Transformers},
      author = {Jiang, Zihang and Hou, Qibin and Yuan, Li and Zhou, Daquan and Shi, Yujun and Jin, Xiaojie and
        Wang, Anran and Feng, Jiashi},
      booktitle = {Advances in Neural Information Processing Systems},
      year = {2021},
      eprint = {2104.10858},
      archivePrefix = {arXiv}
    }
    """
    takes = "vit"
    exempt = {"blend": "mixes patch embeddings"}
    PRESETS = {
        "default": {},
        "paper": {"dense_weight": 0.5},
        "released": {"dense_weight": 1.0},
    }

    def __init__(self, alpha: float = 1.0, dense_weight: float = 0.0):
        super().__init__()
        expect(is_number(dense_weight) and dense_weight >= 0, "dense_weight", "a number of at least 0", dense_weight)
        self.alpha = beta_parameter(alpha)
        self.dense_weight = dense_weight
        self.features = dense_weight > 0

    def setup(self, net: Network) -> None:
        patch_embedding(net)  # fail at once
        if self.dense_weight:
            self.head = nn.Linear(net.model.num_features, net.num_classes)
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
            self.head.to(next(net.parameters()))

    def param_groups(self) -> list[dict[str, Any]]:
        if not self.dense_weight:
            return []
        return [{"params": [self.head.weight]}, {"params": [self.head.bias], "weight_decay": 0.0}]

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        rows, columns = patch_embedding(net).dynamic_feat_size((height, width))
        y0, y1, x0, x1 = draw_box(ctx, rows, columns, self.alpha)

        inside = torch.zeros(rows, columns, 1, dtype=torch.bool, device=x.device)
        inside[y0:y1, x0:x1] = True
        partner = torch.arange(len(x), device=x.device).flip(0)
        share = torch.full((len(x),), 1 - (y1 - y0) * (x1 - x0) / (rows * columns), device=x.device)
        pixels = (~inside[None, None, :, :, 0]).float()
        mask = pixels.repeat_interleave(-(-height // rows), 2).repeat_interleave(-(-width // columns), 3)[
            :, :, :height, :width
        ]
        return Mixed(
            x, pair_weights(share, partner), mask, partner, (LAYER, lambda tokens: swap(tokens, inside)), inside
        )

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        loss = super().loss(ctx, x, y, mixed, out, net)
        if not self.dense_weight:
            return loss
        tokens = out.features
        assert tokens is not None  # asked for
        prefix = getattr(net.model, "num_prefix_tokens", 0)
        if tokens.ndim != 3 or tokens.shape[1] - prefix != mixed.state.numel():
            raise EvalkitError(
                "mixtoken's dense loss needs a network that keeps one token per patch to the end, such as vit_* or"
                " deit_*; set dense_weight=0"
            )
        logits = swap(self.head(tokens[:, prefix:]), mixed.state)  # (B, N, K), each in its own image again
        target = ctx.target(y)[:, None].expand(-1, logits.shape[1], -1)
        return loss + self.dense_weight * ctx.criterion(logits.flatten(0, 1), target.flatten(0, 1))


def patch_embedding(net: Network) -> Any:
    """The layer that makes patches tokens. Raises EvalkitError for a network without one."""
    embed = getattr(net.model, LAYER, None)
    if not hasattr(embed, "dynamic_feat_size"):
        raise EvalkitError(
            "mixtoken needs a network that starts with patch embeddings, such as vit_*, deit_*, cait_* or swin_*"
        )
    return embed


def swap(tokens: Tensor, inside: Tensor) -> Tensor:
    """Tokens, inside the box those of the image B - 1 - i. Its own inverse.

    Args:
        tokens: (B, h w, D) or (B, h, w, D).
        inside: The box, (h, w, 1) bool.
    """
    return torch.where(inside.flatten(0, 1) if tokens.ndim == 3 else inside, tokens.flip(0), tokens)
