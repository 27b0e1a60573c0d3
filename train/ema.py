"""Exponential moving average of a network's weights."""

import copy

import torch

from evalkit.models import Network


class WeightAverage:
    """A copy of a network whose parameters and floating-point buffers follow ema <- decay * ema + (1 - decay) * current
    (as DeiT's).

    Args:
        network: The network that is followed.
        decay: How much of the average stays in each step, 0 to 1.
    """

    def __init__(self, network: Network, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Once per optimizer step."""
        current = network.state_dict()
        floating = [(e, current[k]) for k, e in self.network.state_dict().items() if e.is_floating_point()]
        torch._foreach_lerp_([e for e, _ in floating], [c for _, c in floating], 1 - self.decay)
        for k, e in self.network.state_dict().items():
            if not e.is_floating_point():
                e.copy_(current[k])
