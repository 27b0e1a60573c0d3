"""One training step of any method with any network."""

from torch import Tensor

from evalkit.models.network import Network

from .distill import Distillation
from .mixups.base import Context, MixMethod


def train_step(
    ctx: Context, net: Network, method: MixMethod, x: Tensor, y: Tensor, distillation: Distillation | None = None
) -> Tensor:
    """Scalar loss of the batch `x` (B, C, H, W), `y` (B,): pick the method, mix, one forward pass, the method's loss,
    the teacher's share of it."""
    method = method.pick(ctx)
    mixed = method.mix(ctx, x, y, net)
    method.check_weights(mixed.weights, y, "mix")
    out = net(mixed.x, attention=method.attention, features=method.features, inject=mixed.inject)
    loss = method.loss(ctx, x, y, mixed, out, net)
    return loss if distillation is None else distillation(ctx, loss, mixed.x, out)
