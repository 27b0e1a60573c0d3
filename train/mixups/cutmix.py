"""CutMix: paste a rectangle of another image."""

from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, check_pairing, pair, upload
from .parts.boxes import EDGES, draw_box, paste_box
from .parts.checks import beta_parameter, one_of


class CutMix(MixMethod):
    """CutMix (Yun et al., ICCV 2019, arXiv:1905.04899, equations 1 and 2).

        lam0 ~ Beta(alpha, alpha);   box of size (H, W) sqrt(1 - lam0) around a uniform pixel, clipped;
        M = 0 inside it, 1 outside
        x~_i = M x_i + (1 - M) x_pi(i),   lam = mean(M),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    One box per batch.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: Partners, "perm": a random permutation, "flip": the batch reversed (timm, DeiT), "derange": nobody
            with oneself (OpenMixup redraws a permutation with fixed points).
        edge: "old": the official code, an odd side loses one pixel; "new": timm 1.0.31 keeps it.

    Draws: lam, centre (row, column), box (replaces both), partner.

    Differs from the paper / the official code in applying to every batch: a smaller probability is a choice with
    vanilla.
    """

    family = "hand-crafted"
    bibtex = """
    @inproceedings{yun2019cutmix,
      title = {{CutMix}: Regularization Strategy to Train Strong Classifiers with Localizable Features},
      author = {Yun, Sangdoo and Han, Dongyoon and Oh, Seong Joon and Chun, Sanghyuk and Choe, Junsuk and Yoo,
        Youngjoon},
      booktitle = {IEEE/CVF International Conference on Computer Vision},
      year = {2019},
      eprint = {1905.04899},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "openmixup": {"pairing": "derange"},
        "timm": {"pairing": "flip", "edge": "new"},
    }

    def __init__(self, alpha: float = 1.0, pairing: str = "perm", edge: str = "old"):
        super().__init__()
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.edge = one_of("edge", edge, EDGES)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        box = draw_box(ctx, height, width, self.alpha, self.edge)
        return paste_box(x, upload(pair(ctx, len(x), self.pairing), x), box)
