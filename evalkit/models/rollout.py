"""Attention rollout: carries numbers at the tokens through the attention of all blocks of a ViT, without making any
attention matrix."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import EvalkitError
from .attention import Tap, class_attention_modules, tap_on


class RolloutTap:
    """A tap on every block of a model."""

    def __init__(self, taps: list[Tap]):
        self.taps = taps

    def listen(self) -> None:
        for tap in self.taps:
            tap.on = True

    def take(self) -> list[tuple[Tensor, Tensor]]:
        """All queries and keys (B, heads, T, d) of each block in the pass just run, which is forgotten."""
        return [tap.take_pair() for tap in self.taps]

    def stop(self) -> None:
        for tap in self.taps:
            tap.stop()


@dataclass(frozen=True, slots=True)
class Rollout:
    """Attention rollout (Abnar and Zuidema, ACL 2020, arXiv:2005.00928) of one forward pass, applied to numbers at the
    tokens.

    With A_l the matrix of block l, mean over heads, and R = (I + A_L) / 2 ... (I + A_1) / 2: row 0 of R u, for columns
    u of one number per token. Each block is one pass of the fused kernel with u as its values, so neither A_l nor R is
    ever made. The kernel runs in the precision of the network's own attention, everything else in float32.

    Args:
        pairs: Queries and keys (B, heads, T, d) of each block.
        scale: What the products of queries and keys are multiplied by.
        prefix: Tokens before the patches.
    """

    pairs: list[tuple[Tensor, Tensor]]
    scale: float
    prefix: int

    @torch.no_grad()
    def __call__(self, patches: Tensor, prefix: Tensor, residual: bool = True) -> Tensor:
        """(B, c) float32: what the class token holds in the end of `patches` (B or 1, N, c) and, at each prefix token,
        `prefix` (B or 1, c).

        `residual=False` leaves the identity out, R = A_L ... A_1."""
        batch, heads, _, width = self.pairs[0][0].shape
        u = torch.cat([prefix[:, None].expand(batch, self.prefix, -1), patches.expand(batch, -1, -1)], 1).float()
        count = u.shape[2]
        with torch.autocast(u.device.type, enabled=False):
            for query, key in self.pairs:
                # rows of A sum to 1, so A u = A (u - centre) + centre, which loses less in half precision
                centre = u.mean(1, keepdim=True)
                values = F.pad(u - centre, (0, max(width - count, 0)))  # the kernels want values as wide as keys
                values = values.to(query.dtype)[:, None].expand(-1, heads, -1, -1)
                spread = (
                    F.scaled_dot_product_attention(query, key, values, scale=self.scale)[..., :count].float().mean(1)
                    + centre
                )
                u = (u + spread) / 2 if residual else spread
        return u[:, 0]


def install_rollout(model: nn.Module) -> RolloutTap:
    """Install taps on all blocks. Raises EvalkitError for models whose class token does not attend in every one."""
    if not isinstance(model, VisionTransformer):
        why = "only in a plain ViT do class token and patches attend to each other in every block"
        raise EvalkitError(
            f"{type(model).__name__} has no attention rollout: {why}. Models that have it: vit_* and deit* with a class"
            " token."
        )
    return RolloutTap([tap_on(attn, whole=True) for attn in class_attention_modules(model)])
