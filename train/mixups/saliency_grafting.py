"""Saliency Grafting: a random part of the partner's salient cells replaces the same cells of the own image; labels by
salience shown."""

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect, is_number, is_whole


class SaliencyGrafting(MixMethod):
    """Saliency Grafting (Park et al., AAAI 2022, arXiv:2112.08796). Experimental: a reconstruction from the paper's
    abstract.

        Phi_i = mean over channels of |last feature map| for x_i, averaged on g x g cells;
        S_i = softmax(Phi_i / temperature) over the cells
        lam0 ~ Beta(alpha, alpha);
        M_i = 0 in the cells c with S_pi(i),c > mean(S_pi(i)), each with probability lam0, else 1
        x~_i = M_i x_i + (1 - M_i) x_pi(i),   lam_i = sum M_i S_i / (sum M_i S_i + sum (1 - M_i) S_pi(i)),
        t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    The map is that of the trained network for the images before mixing, in float32 and without gradient.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: every salient cell is grafted.
        grid: g, or the side of the feature map where that is smaller.
        temperature: Temperature of the softmax over cells.
        pairing: As CutMix.

    Draws: lam, partner, keep ((B, g, g) uniform numbers: a salient cell is grafted where it is below lam).

    Differs from the paper / the official code in what its abstract leaves open; the details above are guesses and there
    is no public code.
    """

    family = "saliency"
    extra_passes = "1 forward"
    own_passes = "whole"
    bibtex = """
    @inproceedings{park2022grafting,
      title = {Saliency Grafting: Innocuous Attribution-Guided Mixup with Calibrated Label Mixing},
      author = {Park, Joonhyung and Yang, June Yong and Shin, Jinwoo and Hwang, Sung Ju and Yang, Eunho},
      booktitle = {AAAI Conference on Artificial Intelligence},
      year = {2022},
      eprint = {2112.08796},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {"default": {}}

    def __init__(self, alpha: float = 1.0, grid: int = 7, temperature: float = 0.2, pairing: str = "perm"):
        super().__init__()
        expect(is_whole(grid) and grid > 0, "grid", "a whole number of cells per side, 1 or more", grid)
        expect(is_number(temperature) and temperature > 0, "temperature", "a number larger than 0", temperature)
        self.alpha = beta_parameter(alpha)
        self.grid = grid
        self.temperature = temperature
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        lam = beta(ctx, self.alpha)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        own = self.salience(net, x)
        other = own[partner]
        keep = upload(ctx.draw("keep", lambda rng: rng.random(own.shape)), x)
        # the mean of a softmax is 1 / cells; a computed one is only nearly so
        grafted = (other > 1 / own[0].numel()) & (keep < lam)

        shown = torch.where(grafted, 0.0, own).sum((1, 2))
        share = shown / (shown + torch.where(grafted, other, 0.0).sum((1, 2)))
        mask = F.interpolate((~grafted).float()[:, None], size=x.shape[-2:], mode="nearest")
        mixed = x[partner]
        return Mixed(torch.where(mask > 0, x, mixed, out=mixed), pair_weights(share, partner), mask, partner)

    def salience(self, net: Network, x: Tensor) -> Tensor:
        """(B, g, g) float32 S."""
        with torch.autocast(x.device.type, enabled=False):
            features = net.feature_map(x).float().abs().mean(1)
        height, width = features.shape[-2:]
        size = min(self.grid, height), min(self.grid, width)
        cells = F.adaptive_avg_pool2d(features[:, None], size)[:, 0]
        return (cells.flatten(1) / self.temperature).softmax(1).view_as(cells)
