"""One training step of any method with any network."""

from torch import Tensor

from evalkit.models.network import Network

from .distill import Distillation
from .mixups.base import Context, MixMethod


def train_step(
    ctx: Context, net: Network, method: MixMethod, x: Tensor, y: Tensor, distillation: Distillation | None = None
) -> Tensor:
    """Scalar loss of a batch: pick the method, mix, one forward pass, the method's loss, the teacher's share of it.

    Args:
        ctx: What the method may know.
        net: The network, in training mode.
        method: The mixup, set up with `net`.
        x: Normalised images (B, C, H, W).
        y: Labels (B,) int64.
        distillation: The teacher's share; None: no teacher.
    """
    method = method.pick(ctx)
    mixed = method.mix(ctx, x, y, net)
    method.check_weights(mixed.weights, y, "mix")
    out = net(mixed.x, attention=method.attention, features=method.features, inject=mixed.inject)
    loss = method.loss(ctx, x, y, mixed, out, net)
    return loss if distillation is None else distillation(ctx, loss, mixed.x, out)
