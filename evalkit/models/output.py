"""What a pass through a network gives."""

from dataclasses import dataclass

from torch import Tensor

from .rollout import Rollout


@dataclass(frozen=True, slots=True)
class Output:
    """What one forward pass gave. B images, K classes.

    Args:
        logits: (B, K), of the head.
        attention: (B, N) class attention, mean over heads, prefix columns dropped, float32, detached, sums to less than
            1.
        grid: (rows, columns) of the N patches.
        rollout: Carries numbers at the tokens through the attention of all blocks.
        features: What the head reads, (B, T, D) with prefix tokens or (B, C, h, w); differentiable.
        distilled: (B, K) logits of the distillation head, in training after `train_distilled`.
    """

    logits: Tensor
    attention: Tensor | None = None
    grid: tuple[int, int] | None = None
    rollout: Rollout | None = None
    features: Tensor | None = None
    distilled: Tensor | None = None
