"""Mixup: blend two images."""

import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter


class Mixup(MixMethod):
    """mixup (Zhang et al., ICLR 2018, arXiv:1710.09412, equation 1).

        lam ~ Beta(alpha, alpha), one per batch;  pi a permutation
        x~_i = lam x_i + (1 - lam) x_pi(i),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: Partners, "perm": a random permutation, "flip": the batch reversed (timm, DeiT), "derange": nobody
            with oneself.

    Draws: lam, partner.

    Does not differ from the paper / the official code (one lambda per batch, never folded to max(lam, 1 - lam)).
    """

    family = "hand-crafted"
    bibtex = """
    @inproceedings{zhang2018mixup,
      title = {mixup: Beyond Empirical Risk Minimization},
      author = {Zhang, Hongyi and Cisse, Moustapha and Dauphin, Yann N. and Lopez-Paz, David},
      booktitle = {International Conference on Learning Representations},
      year = {2018},
      eprint = {1710.09412},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "timm": {"pairing": "flip"},
    }

    def __init__(self, alpha: float = 1.0, pairing: str = "perm"):
        super().__init__()
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        lam = beta(ctx, self.alpha)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        share = torch.full((len(x),), lam, device=x.device)
        mask = share[:1, None, None, None].expand(1, 1, *x.shape[-2:])
        return Mixed(x[partner].lerp_(x, lam), pair_weights(share, partner), mask, partner)
