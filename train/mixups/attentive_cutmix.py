"""Attentive CutMix: paste the patches of an image that a pretrained network attends to."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network

from .base import TEACHER, Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.checks import expect, is_whole
from .parts.teacher import Teacher


class AttentiveCutMix(MixMethod):
    """Attentive CutMix (Walawalkar et al., ICASSP 2020, arXiv:2003.13048).

        A_i = mean over channels of a pretrained network's last feature map (h, w) for x_i;
        M_i = 1 in the `top` cells of largest A_i, else 0
        x~_i = M_i x_i + (1 - M_i) x_pi(i),   lam_i = mean(M_i),   t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    Args:
        teacher: The pretrained network: a timm name, an evalkit checkpoint or a weights file. Images are resized to
            its input size, so 224 pixels give ResNet-50's 7 x 7 cells.
        teacher_model: The architecture of a weights file.
        top: Number of cells that are pasted, those with the most attention.
        pairing: As CutMix.

    Draws: partner.

    Differs from the paper / the official code in nothing known: there is no official code.
    """

    family = "saliency"
    needs = "a pretrained network"
    extra_passes = "1 forward of the teacher"
    bibtex = """
    @inproceedings{walawalkar2020attentive,
      title = {Attentive {CutMix}: An Enhanced Data Augmentation Approach for Deep Learning Based Image
        Classification},
      author = {Walawalkar, Devesh and Shen, Zhiqiang and Liu, Zechun and Savvides, Marios},
      booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
      year = {2020},
      eprint = {2003.13048},
      archivePrefix = {arXiv}
    }
    """
    stand_in = {"teacher": TEACHER}
    PRESETS = {"default": {}}

    def __init__(
        self, teacher: Any = "resnet50", top: int = 6, pairing: str = "perm", teacher_model: str | None = None
    ):
        super().__init__()
        expect(is_whole(top) and top > 0, "top", "a whole number larger than 0", top)
        self.top = top
        self.pairing = check_pairing(pairing)
        self.teacher = Teacher(teacher, teacher_model)

    def setup(self, net: Network) -> None:
        self.teacher.load()

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        attention = self.attended(ctx, x)
        count = self.count(ctx, attention[0].numel())
        partner = upload(pair(ctx, len(x), self.pairing), x)
        chosen = attention.flatten(1).topk(count).indices
        cells = torch.zeros_like(attention).flatten(1).scatter(1, chosen, 1.0).view_as(attention)
        mask = F.interpolate(cells[:, None], size=x.shape[-2:], mode="nearest")
        other = x[partner]
        return Mixed(
            torch.where(mask > 0, x, other, out=other), pair_weights(mask.mean((1, 2, 3)), partner), mask, partner
        )

    def attended(self, ctx: Context, x: Tensor) -> Tensor:
        """(B, h, w) float32 A."""
        return self.teacher.on(x).feature_map(self.teacher.fitted(ctx, x)).float().mean(1)

    def count(self, ctx: Context, cells: int) -> int:
        """How many of the `cells` are pasted. Raises EvalkitError if there are too few."""
        if self.top > cells:
            raise EvalkitError(
                f"attentive_cutmix pastes {self.top} cells, but the teacher's feature map has only {cells}; use a"
                " smaller top"
            )
        return self.top
