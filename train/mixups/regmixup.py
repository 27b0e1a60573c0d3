"""RegMixup: Mixup beside the clean images, as a regulariser."""

import torch
from torch import Tensor

from evalkit.models.network import Network, Output

from ..losses import mixed_target
from .base import (
    Context,
    Mixed,
    MixMethod,
    beta,
    check_pairing,
    checked_relabel,
    laid_out_like,
    pair,
    pair_weights,
    upload,
)
from .parts.checks import beta_parameter, expect, is_number


class RegMixup(MixMethod):
    """RegMixup (Pinto et al., NeurIPS 2022, arXiv:2206.14502, equation 5).

        lam ~ Beta(alpha, alpha), one per batch;  pi a permutation;  x~_i = lam x_i + (1 - lam) x_pi(i)
        L = (mean_i L(f(x_i), s(y_i)) + eta mean_i L(f(x~_i), t_i)) / 2,   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    The clean and the mixed images go through the network in one batch of twice the size, whose statistics batch norm
    takes. A large alpha keeps lam near 1/2.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        eta: Weight of the mixed images' loss.
        pairing: As Mixup.

    Draws: lam, partner.

    Differs from the paper / the official code in nothing but the factor 1/2, which the code has by its mean over both
    halves and the paper has not; `eta` is the paper's alone, 1 in the code.
    """

    family = "hand-crafted"
    extra_passes = "the clean images in the same pass"
    bibtex = """
    @inproceedings{pinto2022regmixup,
      title = {Using {Mixup} as a Regularizer Can Surprisingly Improve Accuracy \\& Out-of-Distribution Robustness},
      author = {Pinto, Francesco and Yang, Harry and Lim, Ser-Nam and Torr, Philip H. S. and Dokania, Puneet K.},
      booktitle = {Advances in Neural Information Processing Systems},
      year = {2022},
      eprint = {2206.14502},
      archivePrefix = {arXiv}
    }
    """
    exempt = {"itself": "shows the clean images besides"}
    PRESETS = {
        "default": {},
        "cifar100": {"alpha": 10.0},
        "released": {},
    }

    def __init__(self, alpha: float = 20.0, eta: float = 1.0, pairing: str = "perm"):
        super().__init__()
        self.alpha = beta_parameter(alpha)
        expect(is_number(eta) and eta >= 0, "eta", "a number of at least 0", eta)
        self.eta = eta
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        lam = beta(ctx, self.alpha)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        share = torch.full((len(x),), lam, device=x.device)
        weights = torch.cat([torch.eye(len(x), device=x.device), pair_weights(share, partner)])
        return Mixed(laid_out_like(x, torch.cat([x, x[partner].lerp(x, lam)])), weights)

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        weights = checked_relabel(self, ctx, mixed, y, out)
        target, n = mixed_target(weights, ctx.target(y)), len(x)
        clean, blended = (ctx.criterion(out.logits[part], target[part]) for part in (slice(n), slice(n, None)))
        return (clean + self.eta * blended) / 2
