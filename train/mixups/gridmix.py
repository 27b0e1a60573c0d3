"""GridMix: the partner shows through a grid of holes in a random crop."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.checks import expect, interval, is_number, is_whole
from .parts.masks import blend, outer_mask


class GridMix(MixMethod):
    """GridMix (Baek, Bang and Shim, Pattern Recognition 109, 2021) with the geometry of its public code
    (IlyaDobrynin/GridMixup).

        lam0 ~ Beta(alpha, alpha);   n holes across, hole shape a, crop area A and shape R uniform from their ranges
        crop: w = min(floor(sqrt(floor(H W A) / R)), W),   h = min(floor(w R), H),   at a uniform place (y, x)
        n = min(n, floor(w / 2)),   p_w = ceil(w / n),   p_h = floor(a p_w);
        hole sides = floor(p sqrt(1 - lam0)), from 1 to p - 1
        M(r, c) = 0 where (r - y) mod p_h < hole height, (c - x) mod p_w < hole width and (r, c) is in the crop, else 1
        x~_i = M x_i + (1 - M) x_pi(i),   lam = mean(M),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    One mask per batch.

    Args:
        alpha: Parameter of Beta(alpha, alpha), or [low, high] to draw lam0 uniformly (the code's default [0.1, 0.9]).
        holes: The range of n, two numbers or one.
        hole_aspect: The range of a, likewise.
        area: The range of A, likewise.
        aspect: The range of R, likewise.
        pairing: As CutMix.

    Draws: lam, holes, hole_aspect, crop (A, R), offset (shares of the free width and height, in [0, 1)), partner.

    Differs from the paper / the official code in clamping the crop to the image (there it exceeds it in about half of
    the draws) and the number of holes to the crop, and from the paper in leaving out its patch-wise loss, as the code
    does.
    """

    family = "hand-crafted"
    bibtex = """
    @article{baek2021gridmix,
      title = {{GridMix}: Strong Regularization through Local Context Mapping},
      author = {Baek, Kyungjune and Bang, Duhyeon and Shim, Hyunjung},
      journal = {Pattern Recognition},
      year = {2021},
      volume = {109}
    }
    """
    PRESETS = {
        "default": {},
        "released": {"alpha": (0.1, 0.9), "holes": 20, "area": 1.0, "aspect": 1.0},
    }

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.2,
        holes: int | Sequence[int] = (2, 6),
        hole_aspect: float | Sequence[float] = 1.0,
        area: float | Sequence[float] = (0.5, 1.0),
        aspect: float | Sequence[float] = (0.5, 2.0),
        pairing: str = "perm",
    ):
        super().__init__()
        self.alpha: float | tuple[float, float]
        if isinstance(alpha, Sequence):
            self.alpha = interval("alpha", alpha, 0, 1)
        else:
            expect(is_number(alpha) and alpha > 0, "alpha", "larger than 0, as a hole has at least one pixel", alpha)
            self.alpha = float(alpha)
        fewest, most = interval("holes", holes, 1)
        expect(is_whole(fewest) and is_whole(most), "holes", "whole numbers", holes)
        self.holes = int(fewest), int(most)
        self.hole_aspect = interval("hole_aspect", hole_aspect, 0.01, 100)
        self.area = interval("area", area, 0.01, 1)
        self.aspect = interval("aspect", aspect, 0.01, 100)
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        rows, columns = self.draw_holes(ctx, height, width)
        own = outer_mask(rows[None], columns[None], x)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        share = torch.full((len(x),), 1 - rows.mean() * columns.mean(), device=x.device)
        return Mixed(blend(x, partner, own), pair_weights(share, partner), own, partner)

    def draw_holes(self, ctx: Context, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (H,) and columns (W,), bool: where both are true is a hole."""
        lam = float(
            ctx.draw(
                "lam",
                lambda rng: (
                    rng.uniform(*self.alpha) if isinstance(self.alpha, tuple) else rng.beta(self.alpha, self.alpha)
                ),
            )
        )
        holes = int(ctx.draw("holes", lambda rng: rng.integers(self.holes[0], self.holes[1] + 1)))
        hole_aspect = float(ctx.draw("hole_aspect", lambda rng: rng.uniform(*self.hole_aspect)))
        area, aspect = ctx.draw("crop", lambda rng: (rng.uniform(*self.area), rng.uniform(*self.aspect)))
        right, down = ctx.draw("offset", lambda rng: rng.random(2))

        crop_width = min(int(math.sqrt(int(height * width * area) / aspect)), width)
        crop_height = min(int(crop_width * aspect), height)
        patch_width = math.ceil(crop_width / min(holes, max(crop_width // 2, 1)))
        patch_height = int(patch_width * hole_aspect)
        ratio = math.sqrt(1 - lam)
        return (
            stripes(height, crop_height, int((height - crop_height) * down), patch_height, ratio),
            stripes(width, crop_width, int((width - crop_width) * right), patch_width, ratio),
        )


def stripes(size: int, crop: int, start: int, patch: int, ratio: float) -> np.ndarray:
    """(size,) bool: the first `ratio` of every `patch` pixels of the crop [start, start + crop); from 1 to patch - 1 of
    them.

    Args:
        size: Pixels of the side.
        crop: Pixels that are striped.
        start: Where they begin.
        patch: Pixels from one stripe to the next.
        ratio: Share of a patch that the stripe takes.
    """
    hole = min(max(int(patch * ratio), 1), patch - 1)
    inside = np.arange(size) - start
    return (inside >= 0) & (inside < crop) & (inside % max(patch, 1) < hole)
