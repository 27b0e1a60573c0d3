"""One training step of any method with any network."""

from typing import Any

from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models.network import Network

from .distill import Distillation
from .mixups.base import Context, MixMethod, checked_mix, checked_pick
from .mixups.parts.outcome import shape
from .plain import Plain, is_plain


def train_step(
    ctx: Context,
    net: Network | nn.Module,
    method: MixMethod,
    x: Tensor,
    y: Tensor,
    distillation: Distillation | None = None,
) -> Tensor:
    """Scalar loss of a batch: pick the method, mix, one forward pass, the method's loss, the teacher's share of it.

    Args:
        ctx: What the method may know.
        net: The network, in training mode; for a method that asks for nothing but logits, any module that gives them.
        method: The mixup, set up with `net`.
        x: Normalised images (B, C, H, W).
        y: Labels (B,) int64.
        distillation: The teacher's share; None: no teacher.
    """
    method = checked_pick(method, ctx)
    asked: Any = Plain(net, type(method).__name__) if is_plain(net) else net
    mixed = checked_mix(method, ctx, x, y, asked)
    out = asked(mixed.x, attention=method.attention, features=method.features, inject=mixed.inject)
    loss = method.loss(ctx, x, y, mixed, out, asked)
    if not isinstance(loss, Tensor) or loss.ndim or loss.requires_grad != out.logits.requires_grad:
        given = shape(loss) if isinstance(loss, Tensor) else type(loss).__name__
        raise EvalkitError(
            f"{type(method).__name__}.loss must give one number that depends on the network's output, but gave"
            f" {'a constant' if isinstance(loss, Tensor) and not loss.ndim else given}"
        )
    return loss if distillation is None else distillation(ctx, loss, mixed.x, out)
