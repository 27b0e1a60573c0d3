"""SmoothMix: the partner shows through a soft disc."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.checks import flag, interval
from .parts.masks import blend, outer_mask


class SmoothMix(MixMethod):
    """SmoothMix (Lee et al., CVPR Workshops 2020), the Gaussian mask with the geometry of OpenMixup.

        (c_y, c_x) = a uniform pixel - 1/2;  sigma ~ U(sigma_low, sigma_high) min(H, W)
        G(r, c) = exp(-((r - c_y)^2 + (c - c_x)^2) / (2 sigma^2))
        x~_i = (1 - G) x_i + G x_pi(i),   lam = 1 - mean(G),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    One mask per batch.

    Args:
        sigma: The range of sigma in shorter sides of the image.
        swap_labels: Give the own label the weight mean(G), as OpenMixup does.
        pairing: As CutMix.
        alpha: Accepted with a warning and without effect, as in OpenMixup: there is no lambda to draw.

    Draws: centre (the pixel: row, column), sigma (in shorter sides), partner.

    Differs from the paper / the official code in nothing known by default (no official code is public); OpenMixup swaps
    the labels (preset "openmixup"; "released" is the same).
    """

    family = "hand-crafted"
    bibtex = """
    @inproceedings{lee2020smoothmix,
      title = {{SmoothMix}: A Simple Yet Effective Data Augmentation to Train Robust Classifiers},
      author = {Lee, Jin-Ha and Zaheer, Muhammad Zaigham and Astrid, Marcella and Lee, Seung-Ik},
      booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
      year = {2020}
    }
    """
    PRESETS = {
        "default": {},
        "openmixup": {"swap_labels": True},
        "released": {"swap_labels": True},
    }

    def __init__(
        self,
        sigma: Sequence[float] = (0.25, 0.5),
        swap_labels: bool = False,
        pairing: str = "perm",
        alpha: float | None = None,
    ):
        super().__init__()
        if alpha is not None:
            warnings.warn(
                "smoothmix draws no lambda, so `alpha` has no effect; `sigma` sets how much is mixed", stacklevel=2
            )
        self.sigma = interval("sigma", sigma, 0.01)
        self.swap_labels = flag("swap_labels", swap_labels)
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        centre = ctx.draw("centre", lambda rng: (rng.integers(height), rng.integers(width)))
        sigma = float(ctx.draw("sigma", lambda rng: rng.uniform(*self.sigma))) * min(height, width)
        rows, columns = (
            np.exp(-((np.arange(n) - c + 0.5) ** 2) / (2 * sigma**2)) for n, c in zip((height, width), centre)
        )

        own = outer_mask(rows[None], columns[None], x)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        gauss = rows.mean() * columns.mean()
        share = torch.full((len(x),), gauss if self.swap_labels else 1 - gauss, device=x.device)
        return Mixed(blend(x, partner, own), pair_weights(share, partner), own, partner)
