"""No mixing."""

import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod


class Vanilla(MixMethod):
    """Empirical risk minimisation (Vapnik, NeurIPS 1991): x~ = x, t = s(y). The baseline every mixup is compared with.

    Does not differ from the paper / the official code: there is nothing to draw.
    """

    family = "none"
    bibtex = """
    @inproceedings{vapnik1991principles,
      title = {Principles of Risk Minimization for Learning Theory},
      author = {Vapnik, Vladimir},
      booktitle = {Advances in Neural Information Processing Systems},
      year = {1991}
    }
    """
    exempt = {"draws": "mixes nothing"}

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        return Mixed(x, torch.eye(len(x), device=x.device))
