"""One training step of any method with any network."""

from torch import Tensor

from .mixups.base import Context, MixMethod


def train_step(ctx: Context, net, method: MixMethod, x: Tensor, y: Tensor) -> Tensor:
    """Scalar loss of the batch `x` (B, C, H, W), `y` (B,): pick the method, mix, one forward pass, the method's loss."""
    method = method.pick(ctx)
    mixed = method.mix(ctx, x, y, net)
    out = net(mixed.x, attention=method.attention, features=method.features, inject=mixed.inject)
    return method.loss(ctx, x, y, mixed, out, net)
