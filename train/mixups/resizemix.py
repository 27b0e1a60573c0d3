"""ResizeMix: paste the whole partner image, shrunk."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.checks import expect, interval, is_number, one_of
from .parts.masks import outer_mask

BOXES = ("inside", "clipped")


class ResizeMix(MixMethod):
    """ResizeMix (Qin et al., 2020, arXiv:2012.11101).

        tau ~ U(scope), one per batch;  T(x) = x resized to h = floor(tau H), w = floor(tau W), nearest neighbour
        box_i of h x w around a uniform pixel of each sample, shifted to lie inside the image;  M_i = 0 in it, else 1
        x~_i = T(x_pi(i)) in box_i, x_i elsewhere;   lam = 1 - h w / (H W),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    Args:
        scope: The range of tau, the side of the pasted image as a share.
        alpha: Draw tau from Beta(alpha, alpha), and from U(scope) where that is outside the scope.
        box: "inside", or "clipped": one box per batch, cut off at the image's border, the partner squeezed into what
            is left (OpenMixup).
        pairing: As CutMix.

    Draws: tau, centre ((B, 2) rows and columns; one (row, column) if clipped), partner.

    Does not differ from the paper / the official code; a batch of one image, and a tau for which no pixel is left, stay
    unmixed.
    """

    family = "hand-crafted"
    bibtex = """
    @misc{qin2020resizemix,
      title = {{ResizeMix}: Mixing Data with Preserved Object Information and True Labels},
      author = {Qin, Jie and Fang, Jiemin and Zhang, Qian and Liu, Wenyu and Wang, Xingang and Wang, Xinggang},
      year = {2020},
      eprint = {2012.11101},
      archivePrefix = {arXiv}
    }
    """
    exempt = {"blend": "shows the partner shrunk", "itself": "shows the partner shrunk"}
    PRESETS = {
        "default": {},
        "openmixup": {"alpha": 1.0, "box": "clipped"},
    }

    def __init__(
        self,
        scope: Sequence[float] = (0.1, 0.8),
        alpha: float | None = None,
        box: str = "inside",
        pairing: str = "perm",
    ):
        super().__init__()
        self.scope = interval("scope", scope, 0, 1)
        expect(
            alpha is None or (is_number(alpha) and alpha > 0),
            "alpha",
            "a number larger than 0, or none for a uniform tau",
            alpha,
        )
        self.alpha = alpha
        self.box = one_of("box", box, BOXES)
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        batch, size = len(x), np.array(x.shape[-2:])
        tau = float(ctx.draw("tau", self.draw_tau))
        shape = (batch, 2) if self.box == "inside" else (1, 2)
        centre = np.asarray(ctx.draw("centre", lambda rng: rng.integers(size, size=shape))).reshape(shape)
        partner = pair(ctx, batch, self.pairing)
        if (np.bincount(partner, minlength=batch) != 1).any():
            raise ValueError(f"Expected draw `partner` to be a permutation of {batch} images, but got {partner}")

        sides = np.array([int(tau * side) for side in size])
        start = np.clip(centre - sides // 2, 0, size - sides)
        if self.box == "clipped":
            start, stop = np.clip(centre - sides // 2, 0, size), np.clip(centre + sides // 2, 0, size)
            sides = (stop - start)[0]
        share = 1 - sides.prod() / size.prod()
        if batch == 1 or share == 1:
            return Mixed(
                x,
                torch.eye(batch, device=x.device),
                torch.ones(1, 1, *x.shape[-2:], device=x.device),
                upload(partner, x),
            )

        target = {"scale_factor": tau} if self.box == "inside" else {"size": tuple(sides.tolist())}
        mixed = paste(x, F.interpolate(x, **target, mode="nearest"), partner, start)
        rows, columns = (
            (np.arange(n) >= first[:, None]) & (np.arange(n) < first[:, None] + side)
            for n, first, side in zip(size, start.T, sides)
        )
        other = upload(partner, x)
        weights = pair_weights(torch.full((batch,), share, device=x.device), other)
        return Mixed(mixed, weights, outer_mask(rows, columns, x), other)

    def draw_tau(self, rng: np.random.Generator) -> float:
        if self.alpha is not None:
            tau = rng.beta(self.alpha, self.alpha)
            if self.scope[0] <= tau <= self.scope[1]:
                return tau
        return rng.uniform(*self.scope)


def paste(x: Tensor, small: Tensor, partner: np.ndarray, start: np.ndarray) -> Tensor:
    """A copy of images with the partner's small one in it.

    Args:
        x: Images (B, C, H, W).
        small: The images made smaller, (B, C, h, w).
        partner: Index of the other image, (B,).
        start: Row and column of its corner, (B, 2), or (1, 2) for one place in all images.
    """
    height, width = small.shape[-2:]
    mixed = x.clone()
    if len(start) == 1:
        (top, left), *_ = start.tolist()
        mixed[:, :, top : top + height, left : left + width] = small[upload(partner, x)]
        return mixed
    receiver = partner.argsort()  # the image that gets small[j]: moving indices is cheaper than moving pixels
    rows = upload(start[receiver, :1] + np.arange(height), x)
    columns = upload(start[receiver, 1:] + np.arange(width), x)
    mixed[upload(receiver, x)[:, None, None], :, rows[:, :, None], columns[:, None, :]] = small.permute(0, 2, 3, 1)
    return mixed
