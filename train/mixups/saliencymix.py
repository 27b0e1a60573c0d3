"""SaliencyMix: CutMix whose box sits on the most salient pixel of the image it is cut from."""

import math

import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, flag, one_of
from .parts.saliency import fine_grained, fine_grained_of_floats, to_bytes


class SaliencyMix(MixMethod):
    """SaliencyMix (Uddin et al., ICLR 2021, arXiv:2006.01791).

        lam0 ~ Beta(alpha, alpha);   S = fine-grained saliency of the image the box is cut from;
        (r, c) = argmax S, the first one
        box of size (H, W) sqrt(1 - lam0) around (r, c), clipped;   M = 0 inside it, 1 outside
        x~_i = M x_i + (1 - M) x_pi(i),   lam = mean(M),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: As CutMix.
        per_sample: False: one box for the batch, from the image x_pi(0), as the official code; True: each sample's
            own, as the paper.
        saliency: "uint8": of the pixels; "float_compat": of the normalised floats, as the official code, whose OpenCV
            reads them bytewise so that the map is mostly noise (noise alike, but not bit for bit).

    Draws: lam, partner.

    Differs from the paper / the official code in taking the saliency of the pixels where the code takes noise (preset
    "released" does as the code), and in applying to every batch: a smaller probability is a choice with vanilla.
    """

    family = "saliency"
    bibtex = """
    @inproceedings{uddin2021saliencymix,
      title = {{SaliencyMix}: A Saliency Guided Data Augmentation Strategy for Better Regularization},
      author = {Uddin, A. F. M. Shahab and Monira, Mst. Sirazam and Shin, Wheemyung and Chung, TaeChoong and
        Bae, Sung-Ho},
      booktitle = {International Conference on Learning Representations},
      year = {2021},
      eprint = {2006.01791},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "paper": {"per_sample": True},
        "released": {"saliency": "float_compat"},
        "openmixup": {"saliency": "float_compat"},
    }

    def __init__(self, alpha: float = 1.0, pairing: str = "perm", per_sample: bool = False, saliency: str = "uint8"):
        super().__init__()
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.per_sample = flag("per_sample", per_sample)
        self.saliency = one_of("saliency", saliency, ("uint8", "float_compat"))

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        ratio = math.sqrt(1 - beta(ctx, self.alpha))
        order = pair(ctx, len(x), self.pairing)
        partner = upload(order, x)
        mixed = x[partner]
        source = mixed if self.per_sample else x[order[0]][None]
        maps = (
            fine_grained(to_bytes(source, ctx.mean, ctx.std))
            if self.saliency == "uint8"
            else fine_grained_of_floats(source)
        )
        peak = maps.flatten(1).argmax(1)
        row, column = peak // width, peak % width

        top, bottom = _sides(row, int(height * ratio), height)
        left, right = _sides(column, int(width * ratio), width)
        rows, columns = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
        top, bottom, left, right = (e[:, None, None] for e in (top, bottom, left, right))
        own = ~((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right))[:, None]
        lam = (1 - ((bottom - top) * (right - left)).flatten() / (height * width)).expand(len(x))
        return Mixed(torch.where(own, x, mixed, out=mixed), pair_weights(lam, partner), own.float(), partner)


def _sides(middle: Tensor, cut: int, size: int) -> tuple[Tensor, Tensor]:
    """First and last + 1 pixel of a cut of 2 * (cut // 2) pixels around `middle`, clipped to the image."""
    return (middle - cut // 2).clamp(min=0), (middle + cut // 2).clamp(max=size)
