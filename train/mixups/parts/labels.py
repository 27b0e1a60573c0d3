"""Label shares from class attention: how much of what the network looks at comes from each image."""

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.network import Output

from ..base import Mixed

MASK_DOWN = ("nearest", "area")


def attention_weights(
    mixed: Mixed, out: Output, mask_down: str = "nearest", normalize: bool = True, residual: bool = True
) -> Tensor:
    """(B, B) label weights: each image's share of the class attention A of the mixed batch (TransMix, equation 4;
    MixPro, equation 5).

    With the mask M brought to the attention's grid, lam_attn = sum_j M_j A_j / sum_j A_j. A carries no gradient. Where
    `out` has a rollout instead, A is the row of the class token in it.

    Args:
        mixed: The mixed batch with its mask.
        out: The network's output for it, with class attention or a rollout.
        mask_down: How the mask comes to the grid: "nearest" takes the top-left pixel of each patch, "area" its mean.
        normalize: Whether the sum is divided by that of A. Without, it is the literal formula lam_attn = sum_j M_j A_j:
            the other image gets 1 - lam_attn, with it the attention on the class token.
        residual: Whether a rollout adds the identity to each block's matrix.
    """
    assert mixed.mask is not None and mixed.partner is not None, "a pairwise method with a mask"
    own = F.interpolate(mixed.mask, out.grid, mode=mask_down).flatten(1)
    if out.attention is None:
        assert out.rollout is not None, "class attention was asked for, so there is one or the other"
        columns = torch.stack([own, torch.ones_like(own)], 2)
        share, total = out.rollout(columns, columns.new_zeros(1, 2), residual).unbind(1)
    else:
        share, total = (own * out.attention).sum(1), out.attention.sum(1)
    if normalize:
        share = share / total.clamp(min=1e-8)
    return torch.diag(share).scatter_add(1, mixed.partner[:, None], (1 - share)[:, None])
