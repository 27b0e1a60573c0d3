"""Switch: Mixup or CutMix with the reversed batch, decided per batch, per pair or per image, as timm does it."""

import numpy as np
import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, pair_weights, upload
from .cutmix import CutMix
from .mixup import Mixup
from .parts.boxes import EDGES
from .parts.checks import beta_parameter, expect, is_number, one_of
from .parts.masks import blend, outer_mask

SWITCHES = ("batch", "pair", "elem")


class Switch(MixMethod):
    """The Mixup / CutMix switch of DeiT (Touvron et al., ICML 2021, arXiv:2012.12877) and of ResNet strikes back
    (arXiv:2110.00476), as timm's Mixup.

        u < prob: mix, else x~ = x;   the partner of image i is B - 1 - i
        v < switch_prob: CutMix with lam0 ~ Beta(cutmix_alpha, cutmix_alpha),   M_i = 0 in the box, 1 outside
        else: Mixup with lam ~ Beta(mixup_alpha, mixup_alpha),   M_i = lam_i
        x~_i = M_i x_i + (1 - M_i) x_(B-1-i),   lam_i = mean(M_i),   t_i = lam_i s(y_i) + (1 - lam_i) s(y_(B-1-i))

    Args:
        mixup_alpha: Parameter of Mixup's Beta(alpha, alpha); 0: never Mixup.
        cutmix_alpha: Parameter of CutMix's Beta(alpha, alpha); 0: never CutMix.
        prob: How often anything is mixed.
        switch_prob: How often it is CutMix, where both may be.
        mode: "batch": one decision, lambda and box for all images; "elem": one for each image; "pair": one for i and B
            - 1 - i, which swap their content.
        edge: As CutMix.

    Draws, in pair and elem mode arrays over n = B / 2 or B decisions: apply (bool), cutmix (bool), lam, centre ((n,
    2): row, column).

    Differs from the paper / the official code in odd batches, which timm refuses; the image in the middle stays
    unmixed. By default the box is the one of CutMix, which loses a pixel of odd sides; the preset "timm" keeps it.
    timm's cutmix_minmax is left out.
    """

    family = "hand-crafted"
    bibtex = r"""
    @inproceedings{touvron2021deit,
      title = {Training Data-Efficient Image Transformers \& Distillation through Attention},
      author = {Touvron, Hugo and Cord, Matthieu and Douze, Matthijs and Massa, Francisco and Sablayrolles,
        Alexandre and J{\'e}gou, Herv{\'e}},
      booktitle = {International Conference on Machine Learning},
      year = {2021},
      eprint = {2012.12877},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "rsb": {"mixup_alpha": 0.1},
        "timm": {"edge": "new"},
    }

    def __init__(
        self,
        mode: str = "batch",
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        edge: str = "old",
    ):
        super().__init__()
        self.mode = one_of("mode", mode, SWITCHES)
        self.mixup_alpha = beta_parameter(mixup_alpha, "mixup_alpha")
        self.cutmix_alpha = beta_parameter(cutmix_alpha, "cutmix_alpha")
        expect(mixup_alpha > 0 or cutmix_alpha > 0, "mixup_alpha", "larger than 0 where cutmix_alpha is 0", mixup_alpha)
        for name, value in (("prob", prob), ("switch_prob", switch_prob)):
            expect(is_number(value) and 0 <= value <= 1, name, "a number from 0 to 1", value)
        self.prob = prob
        self.switch_prob = 0.0 if cutmix_alpha == 0 else 1.0 if mixup_alpha == 0 else switch_prob
        self.edge = one_of("edge", edge, EDGES)
        self.mixup, self.cutmix = Mixup(mixup_alpha, "flip"), CutMix(cutmix_alpha, "flip", edge)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        if self.mode == "batch":
            if not ctx.draw("apply", lambda rng: rng.random() < self.prob):
                partner = torch.arange(len(x), device=x.device).flip(0)
                return Mixed(
                    x, torch.eye(len(x), device=x.device), torch.ones(1, 1, *x.shape[-2:], device=x.device), partner
                )
            method = self.cutmix if ctx.draw("cutmix", lambda rng: rng.random() < self.switch_prob) else self.mixup
            return method.mix(ctx, x, y, net)

        batch = len(x)
        lam, rows, columns = self.decide(ctx, batch if self.mode == "elem" else batch // 2, *x.shape[-2:])
        if self.mode == "pair":
            lam, rows, columns = mirror(lam, batch, 1), mirror(rows, batch, 0), mirror(columns, batch, 0)
        own = outer_mask(rows, columns, x)
        partner = torch.arange(batch, device=x.device).flip(0)
        return Mixed(blend(x, partner, own), pair_weights(upload(lam, x, torch.float32), partner), own, partner)

    def decide(self, ctx: Context, n: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) label shares and the partner's shares by row (n, H) and column (n, W), whose products are 1 - M.

        timm rounds lambda to float32 before it makes the box, and so does this.
        """
        cutmix = np.asarray(ctx.draw("cutmix", lambda rng: rng.random(n) < self.switch_prob), dtype=bool)
        lam = np.asarray(ctx.draw("lam", lambda rng: self.draw_lambda(rng, cutmix)))
        apply = np.asarray(ctx.draw("apply", lambda rng: rng.random(n) < self.prob), dtype=bool)
        centre = np.asarray(ctx.draw("centre", lambda rng: rng.integers((height, width), size=(n, 2))))
        lam = np.where(apply, lam, 1).astype(np.float32)

        sides, inside = [], []
        for size, middle in zip((height, width), centre.T):
            cut = (size * np.sqrt(1 - lam)).astype(np.int64)
            start = np.maximum(middle - cut // 2, 0)
            stop = np.minimum(middle + (cut // 2 if self.edge == "old" else (cut + 1) // 2), size)
            at = np.arange(size)
            sides.append(stop - start)
            inside.append(~cutmix[:, None] | (at >= start[:, None]) & (at < stop[:, None]))
        share = np.where(cutmix, 1 - sides[0] * sides[1] / (height * width), lam)
        return share, inside[0] * np.where(cutmix, 1, 1 - lam)[:, None], inside[1]

    def draw_lambda(self, rng: np.random.Generator, cutmix: np.ndarray) -> np.ndarray:
        """(n,) lambdas from the distribution that each decision asks for."""
        alpha = np.where(cutmix, self.cutmix_alpha, self.mixup_alpha)
        return rng.beta(alpha, alpha)


def mirror(half: np.ndarray, batch: int, middle: float) -> np.ndarray:
    """(batch, ...) decisions: those of the first half, `middle` for the one in the middle of an odd batch, the first
    half backwards.

    Args:
        half: Decisions of the first half, (batch // 2, ...).
        batch: Images in the batch, B.
        middle: What stands in the middle of an odd batch.
    """
    return np.concatenate([half, np.full((batch % 2, *half.shape[1:]), middle), half[::-1]])
