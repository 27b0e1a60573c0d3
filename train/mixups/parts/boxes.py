"""Boxes of the CutMix family: rows [y0, y1) and columns [x0, x1) in pixels, drawn on the host in float64, pasted on the
device."""

import math

import numpy as np
import torch
from torch import Tensor

from ..base import Context, Mixed, beta, pair_weights

EDGES = ("old", "new")

Box = tuple[int, int, int, int]  # y0, y1, x0, x1


def box_around(centre: tuple[int, int], lam: float, height: int, width: int, edge: str = "old") -> Box:
    """The box of a share of the image, and of its shape, clipped to the image.

    Args:
        centre: Row and column of its middle.
        lam: Share of the image outside the box.
        height: H of the image.
        width: W of the image.
        edge: "old" (CutMix's code, OpenMixup, older timm) reaches cut // 2 pixels to either side, so an odd side loses
            one; "new" (timm 1.0.31) keeps it.
    """
    ratio = math.sqrt(1 - lam)

    def side(middle: int, size: int) -> tuple[int, int]:
        cut = int(size * ratio)
        after = cut // 2 if edge == "old" else (cut + 1) // 2
        return max(int(middle) - cut // 2, 0), min(int(middle) + after, size)

    return (*side(centre[0], height), *side(centre[1], width))


def draw_box(ctx: Context, height: int, width: int, alpha: float, edge: str = "old") -> Box:
    """One box per batch: lam ~ Beta(alpha, alpha), centre uniform over the pixels. Draws `lam`, `centre`; an injected
    `box` replaces both.

    Args:
        ctx: The context, whose generator draws.
        height: H of the images.
        width: W of the images.
        alpha: Both parameters of lambda's distribution.
        edge: As `box_around` takes it.
    """

    def sample(_: np.random.Generator) -> Box:
        lam = beta(ctx, alpha)
        centre = ctx.draw("centre", lambda rng: (rng.integers(height), rng.integers(width)))
        return box_around(centre, lam, height, width, edge)

    y0, y1, x0, x1 = map(int, ctx.draw("box", sample))
    return y0, y1, x0, x1


def align_box(box: Box, patch: int, height: int, width: int) -> Box:
    """Every edge e moved to the nearest patch border, patch * floor(e / patch + 1/2), within the image.

    Args:
        box: First and last row, first and last column, the last ones excluded.
        patch: Pixels per side of a patch.
        height: H of the image.
        width: W of the image.
    """
    y0, y1, x0, x1 = (patch * math.floor(e / patch + 0.5) for e in box)
    return min(y0, height), min(y1, height), min(x0, width), min(x1, width)


def paste_box(x: Tensor, partner: Tensor, box: Box) -> Mixed:
    """Each image with the partner's pixels in the box; label shares are the pixel shares, mask (1, 1, H, W).

    Args:
        x: Images (B, C, H, W).
        partner: Index of the other image, (B,).
        box: First and last row, first and last column, the last ones excluded.
    """
    y0, y1, x0, x1 = box
    height, width = x.shape[-2:]
    mixed = x.clone()
    # straight into place: no copy of the boxes between
    torch.index_select(x[:, :, y0:y1, x0:x1], 0, partner, out=mixed[:, :, y0:y1, x0:x1])
    mask = torch.ones(1, 1, height, width, device=x.device)
    mask[:, :, y0:y1, x0:x1] = 0
    lam = torch.full((len(x),), 1 - (y1 - y0) * (x1 - x0) / (height * width), device=x.device)
    return Mixed(mixed, pair_weights(lam, partner), mask, partner)
