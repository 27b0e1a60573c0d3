"""SnapMix: paste a resized box of another image, with label shares from class activation maps."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, check_pairing, pair, upload
from .parts.boxes import Box, box_around
from .parts.cam import check_linear_classifier, class_activation
from .parts.checks import beta_parameter, one_of

SAME_LABEL = ("sum_once", "official")


class SnapMix(MixMethod):
    """SnapMix (Huang, Wang & Tao, AAAI 2021, arXiv:2012.04846).

        lam_a, lam_b ~ Beta(alpha, alpha);   boxes b_a, b_b as CutMix, one of each per batch;   M = 0 in b_a, else 1
        x~_i = M x_i + (1 - M) T(x_pi(i) in b_b),   T resizes to b_a;   S_i = up(CAM_y(i)) - min, divided by its sum
        rho_a = 1 - sum of S_i in b_a,   rho_b = sum of S_pi(i) in b_b,   t_i = rho_a s(y_i) + rho_b s(y_pi(i)),
        of any mass from 0 to 2

    CAM is that of the trained network's positive features for the clean batch, in evaluation mode and without gradient;
    where it is constant, rho is CutMix's share of pixels. For networks with a linear classifier on the mean of a
    feature map.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: As CutMix.
        same_label: Where both images have one label, "official" gives each of the two the weight rho_a + rho_b,
            "sum_once" leaves it at rho_a + rho_b in all.

    Draws: lam (2), centre (2 rows and columns), box (the two boxes, replaces both), partner.

    Differs from the paper / the official code in `same_label`, which the preset "released" sets, in the evaluation mode
    of the CAM's pass and in applying to every batch: a smaller probability is a choice with vanilla.
    """

    family = "saliency"
    row_sum = None  # each label by the share of its own saliency that is seen
    needs = "class activation maps"
    extra_passes = "1 forward"
    own_passes = "whole"
    bibtex = """
    @inproceedings{huang2021snapmix,
      title = {{SnapMix}: Semantically Proportional Mixing for Augmenting Fine-grained Data},
      author = {Huang, Shaoli and Wang, Xinchao and Tao, Dacheng},
      booktitle = {AAAI Conference on Artificial Intelligence},
      year = {2021},
      eprint = {2012.04846},
      archivePrefix = {arXiv}
    }
    """
    takes = "cnn"
    exempt = {"blend": "resizes a box", "itself": "resizes a box"}
    PRESETS = {
        "default": {},
        "released": {"same_label": "official"},
    }

    def __init__(self, alpha: float = 5.0, pairing: str = "perm", same_label: str = "sum_once"):
        super().__init__()
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.same_label = one_of("same_label", same_label, SAME_LABEL)

    def setup(self, net: Network) -> None:
        check_linear_classifier(net, "snapmix")

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        batch, (height, width) = len(x), x.shape[-2:]
        target, source = self.boxes(ctx, height, width)
        partner = upload(pair(ctx, batch, self.pairing), x)
        mask = torch.ones(1, 1, height, width, device=x.device)
        if batch == 1 or area(target) == 0 or area(source) == 0:
            return Mixed(x, torch.eye(batch, device=x.device), mask, partner)

        y0, y1, x0, x1 = target
        mixed = x.clone()
        mixed[:, :, y0:y1, x0:x1] = F.interpolate(
            inside(x, source)[partner], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=True
        )
        mask[:, :, y0:y1, x0:x1] = 0

        attention = semantic_map(class_activation(net, x, y, positive=True), (height, width))
        own = 1 - inside(attention, target).sum((1, 2))
        other = inside(attention, source).sum((1, 2))[partner]
        if self.same_label == "official":
            same = y == y[partner]
            own, other = torch.where(same, own + other, own), torch.where(same, own + other, other)
        share = 1 - area(target) / (height * width)
        own, other = own.nan_to_num(nan=share), other.nan_to_num(nan=1 - share)
        return Mixed(mixed, torch.diag(own).scatter_add(1, partner[:, None], other[:, None]), mask, partner)

    def boxes(self, ctx: Context, height: int, width: int) -> tuple[Box, Box]:
        """The box to fill and the box to take."""

        def sample(_: np.random.Generator) -> list[Box]:
            lam = ctx.draw(
                "lam", lambda rng: rng.beta(self.alpha, self.alpha, size=2) if self.alpha > 0 else (1.0, 1.0)
            )
            centre = ctx.draw("centre", lambda rng: rng.integers((height, width), size=(2, 2)))
            return [box_around(c, share, height, width) for c, share in zip(centre, lam)]

        (t0, t1, t2, t3), (s0, s1, s2, s3) = (map(int, box) for box in ctx.draw("box", sample))
        return (t0, t1, t2, t3), (s0, s1, s2, s3)


def area(box: Box) -> int:
    """Pixels of a box."""
    return (box[1] - box[0]) * (box[3] - box[2])


def inside(x: Tensor, box: Box) -> Tensor:
    """The part of (..., H, W) in the box.

    Args:
        x: (..., H, W).
        box: First and last row, first and last column, the last ones excluded.
    """
    return x[..., box[0] : box[1], box[2] : box[3]]


def semantic_map(cam: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) each pixel's share of a class activation map, its smallest value taken off; NaN where it is constant.

    Args:
        cam: (B, h, w).
        size: H and W of the images.
    """
    cam = cam - cam.amin((1, 2), keepdim=True)  # before as well: what is constant becomes exactly 0
    pixels = F.interpolate(cam[:, None], size=size, mode="bilinear")[:, 0]
    pixels = pixels - pixels.amin((1, 2), keepdim=True)
    return pixels / pixels.sum((1, 2), keepdim=True)
