"""The progress factor of progressive attention labelling: how far a label trusts the class attention, 0 not at all, 1
alone.

Each is called as factor(ctx, mixed, y, out) after the forward pass and gives (B, 1) or one number for the batch
(MixPro, arXiv:2304.12043, table 10).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.models.network import Output

from ...losses import mixed_target
from ..base import Context, Mixed

PROGRESS = ("cosine", "equal", "linear", "parabolic", "learnable", "none")


class Cosine(nn.Module):
    """Cosine of the prediction softmax(z) and the area label (equation 8); `detach`: no gradient through the
    prediction."""

    def __init__(self, detach: bool):
        super().__init__()
        self.detach = detach

    def forward(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        p = out.logits.float().softmax(1)
        p = p.detach() if self.detach else p
        return F.cosine_similarity(p, mixed_target(mixed.weights, ctx.target(y)))[:, None].clamp(max=1)


class Equal(nn.Module):
    """One half, always."""

    def forward(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> float:
        return 0.5


class Elapsed(nn.Module):
    """(T / T_max)^power: the share of the training that is over, in whole epochs where their number is given, else in
    steps.

    Args:
        power: How the share is bent: 1 linear, 2 parabolic.
        epochs: Epochs of the training, to count whole ones; None: count steps.
    """

    def __init__(self, power: int, epochs: int | None):
        super().__init__()
        self.power, self.epochs = power, epochs

    def forward(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> float:
        unit = ctx.total_steps if self.epochs is None else self.epochs
        return (ctx.step * unit // ctx.total_steps / unit) ** self.power


class Learnable(nn.Module):
    """sigmoid(a), a scalar that starts at 0 and is trained by the loss: dL / d factor = (lam_attn - lam_area) (CE_own -
    CE_partner)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        return self.a.sigmoid()


def make_progress(kind: str, detach: bool, epochs: int | None) -> nn.Module | None:
    """The factor `kind` of PROGRESS; None for "none".

    Args:
        kind: A name in PROGRESS, or "none".
        detach: Whether no gradient goes through the cosine.
        epochs: Epochs of the training, to count whole ones; None: count steps.
    """
    match kind:
        case "cosine":
            return Cosine(detach)
        case "equal":
            return Equal()
        case "linear":
            return Elapsed(1, epochs)
        case "parabolic":
            return Elapsed(2, epochs)
        case "learnable":
            return Learnable()
    return None
