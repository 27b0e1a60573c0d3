"""AttentiveMix+: Attentive CutMix with a random number of patches."""

import math
from typing import Any

from .attentive_cutmix import AttentiveCutMix
from .base import Context
from .parts.checks import beta_parameter


class AttentiveMixPlus(AttentiveCutMix):
    """AttentiveMix+ (Li et al., OpenMixup, arXiv:2209.04851), after Attentive CutMix (arXiv:2003.13048).

        lam0 ~ Beta(alpha, beta), one per batch;   k = floor(lam0 h w), at least 1;
        M_i = 1 in the k cells of largest A_i, else 0
        x~, lam, t as Attentive CutMix

    Args:
        teacher: As Attentive CutMix (OpenMixup takes torchvision's ResNet-18 for CNNs, ResNet-50 for DeiT).
        teacher_model: The architecture of a weights file.
        alpha: Parameter of the Beta distribution.
        beta: Its second parameter; None: alpha.
        pairing: As CutMix.

    Draws: lam, partner.

    Differs from the paper / the official code in each sample's own lam_i (the code takes sample 0's, different where
    cells are not all of one size); OpenMixup's tables say Beta(alpha, 8), which is the preset "paper", its code ignores
    the 8.
    """

    bibtex = """
    @misc{li2022openmixup,
      title = {{OpenMixup}: A Comprehensive Mixup Benchmark for Visual Classification},
      author = {Li, Siyuan and Wang, Zedong and Liu, Zicheng and Wu, Di and Tan, Cheng and Li, Stan Z.},
      year = {2022},
      eprint = {2209.04851},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "paper": {"beta": 8.0},
        "openmixup": {},
    }

    def __init__(
        self,
        teacher: Any = "resnet50",
        alpha: float = 2.0,
        beta: float | None = None,
        pairing: str = "perm",
        teacher_model: str | None = None,
    ):
        super().__init__(teacher, pairing=pairing, teacher_model=teacher_model)
        self.alpha = beta_parameter(alpha)
        self.beta = self.alpha if beta is None else beta_parameter(beta, "beta")

    def count(self, ctx: Context, cells: int) -> int:
        lam = ctx.draw("lam", lambda rng: rng.beta(self.alpha, self.beta) if self.alpha > 0 and self.beta > 0 else 1.0)
        return min(max(1, math.floor(cells * lam)), cells)
