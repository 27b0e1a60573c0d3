"""Training losses over soft targets. All are computed in float32 or wider, outside autocast."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_target(y: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """(B,) labels -> (B, K) one-hot rows with label smoothing: off = eps/K, on = 1 - eps + eps/K; every row sums to
    1.

    Args:
        y: Labels (B,) int64.
        num_classes: K, how many classes there are.
        smoothing: eps, the share that is spread over all classes, 0 to 1.
    """
    off = smoothing / num_classes
    return torch.full((len(y), num_classes), off, device=y.device).scatter_(1, y[:, None], 1.0 - smoothing + off)


def mixed_target(weights: Tensor, target: Tensor) -> Tensor:
    """(M, K) targets of mixed samples, not rounded to half precision under autocast. Raises ValueError for other
    shapes, of which a product may well exist.

    Args:
        weights: Share of each source's label in each mixed sample, (M, B).
        target: The sources' targets, (B, K).
    """
    if weights.ndim != 2 or target.ndim != 2 or weights.shape[1] != len(target):
        raise ValueError(
            f"Expected argument `weights` to be of shape (M, {len(target)}), but got {tuple(weights.shape)} for targets"
            f" of shape {tuple(target.shape)}"
        )
    with torch.autocast(weights.device.type, enabled=False):
        return weights.to(target.dtype) @ target


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of -sum_k t_k log softmax(z)_k.

    Args:
        logits: z, (M, K).
        target: t, (M, K).
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def distillation_loss(logits: Tensor, teacher: Tensor, kind: str, tau: float = 3.0) -> Tensor:
    """Distance of logits to a teacher's, mean over the batch (DeiT, arXiv 2012.12877, equations 2 and 3).

    Args:
        logits: Of the student, (M, K).
        teacher: Logits of the teacher, (M, K).
        kind: "hard": cross-entropy with the teacher's class; "soft": tau^2 KL(softmax(teacher / tau) || softmax(logits
            / tau)), which the published code divides by the number of classes as well.
        tau: The temperature of "soft".
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, teacher = logits.float(), teacher.float()
        if kind == "hard":
            return F.cross_entropy(logits, teacher.argmax(1))
        if kind != "soft":
            raise ValueError(f"Expected argument `kind` to be 'hard' or 'soft', but got {kind!r}")
        return tau**2 * F.kl_div(
            F.log_softmax(logits / tau, 1), F.log_softmax(teacher / tau, 1), reduction="batchmean", log_target=True
        )


class BinaryCrossEntropy:
    """Binary cross-entropy over soft targets (ResNet strikes back): with logits (M, K) and targets (M,
    K).|`threshold=None, reduction="sum_classes"` is what OpenMixup trains with, `threshold=0.2, reduction="mean"` is
    timm's.

    Args:
        threshold: Targets above it become 1, the rest 0; None: soft targets.
        reduction: "sum_classes" (sum over classes, mean over the batch) or "mean" (over both).
    """

    def __init__(self, threshold: float | None = None, reduction: str = "sum_classes"):
        if reduction not in ("mean", "sum_classes"):
            raise ValueError(f"Expected argument `reduction` to be 'mean' or 'sum_classes', but got {reduction!r}")
        self.threshold, self.reduction = threshold, reduction

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            if self.threshold is not None:
                target = (target > self.threshold).to(target.dtype)
            loss = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")
            return loss.mean() if self.reduction == "mean" else loss.sum(1).mean()
