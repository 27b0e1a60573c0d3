"""Distillation through a token (DeiT): a frozen teacher tells the distillation head what it sees in the mixed
images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.models import Network, Output

from .config import TrainConfig
from .losses import distillation_loss
from .mixups.base import Context, MixMethod
from .mixups.parts.teacher import Teacher


class Distillation:
    """(1 - alpha) L(class head) + alpha L(distillation head, teacher), L(class head) being the mixup method's own loss.

    Touvron et al., ICML 2021, arXiv 2012.12877, section 4. The teacher lives outside the module tree: in no checkpoint,
    no optimizer, no DDP.

    Args:
        teacher: The network that is imitated.
        kind: "hard" (the teacher's class) or "soft" (its probabilities).
        alpha: The teacher's share of the loss, 0 to 1.
        tau: Temperature of the probabilities of "soft".
    """

    def __init__(self, teacher: Teacher, kind: str = "hard", alpha: float = 0.5, tau: float = 3.0):
        self.teacher, self.kind, self.alpha, self.tau = teacher, kind, alpha, tau

    def __call__(self, ctx: Context, loss: Tensor, x: Tensor, out: Output) -> Tensor:
        """Scalar loss from the method's `loss` and the network's output for the mixed images `x` (M, C, H, W)."""
        with torch.no_grad():
            wanted = self.teacher.on(x)(self.teacher.view(ctx, x)).logits
        assert out.distilled is not None, "the network trains its distillation head"
        return (1 - self.alpha) * loss + self.alpha * distillation_loss(out.distilled, wanted, self.kind, self.tau)


def from_config(cfg: TrainConfig, network: Network, method: MixMethod, classes: Sequence[str]) -> Distillation | None:
    """The recipe's distillation, with `network` set to train its distillation head; None without a teacher.

    Args:
        cfg: The recipe.
        network: The network, which must have a distillation head.
        method: The mixup, whose loss must be one of class probabilities.
        classes: Names of the training classes, which the teacher's must be.

    Raises EvalkitError where network, teacher and method do not go together.
    """
    if cfg.distill_teacher is None or cfg.distill_type == "none":
        return None
    network.train_distilled()
    if method.inject_layers:
        raise EvalkitError(
            f"distillation shows the teacher the mixed images, but mixup {cfg.mixup} mixes features; take a method that"
            " mixes images"
        )
    teacher = Teacher(cfg.distill_teacher)
    known, name = teacher.load(), cfg.distill_teacher
    if known.num_classes != len(classes) or teacher.classes not in (None, list(classes)):
        raise EvalkitError(
            f"teacher {name} knows {known.num_classes} classes, which are not the {len(classes)} of {cfg.data}; give"
            " one trained on them"
        )
    if known.model.pretrained_cfg.get("fixed_input_size") and known.input_size != (cfg.image_size, cfg.image_size):
        size = " x ".join(map(str, known.input_size))
        raise EvalkitError(
            f"teacher {name} takes images of {size} pixels only, but image_size={cfg.image_size}; give another teacher"
        )
    return Distillation(teacher, cfg.distill_type, cfg.distill_alpha, cfg.distill_tau)
