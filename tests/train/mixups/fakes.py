"""Stand-ins for the network and hand-made inputs, small enough to work out on paper."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.train.mixups import Context


@dataclass
class FakeNet:
    """A network of which only the patch size is asked."""

    patch_size: int | None = None


@dataclass
class FakeOutput:
    logits: Tensor | None = None
    attention: Tensor | None = None
    grid: tuple[int, int] | None = None
    features: Tensor | None = None
    rollout: Callable[[Tensor, Tensor, bool], Tensor] | None = None


class TinyAttention(nn.Module):
    """Patch embedding, one class-attention read-out, linear head: everything a method asks of a Network, with its
    signature."""

    def __init__(self, patch_size: int = 4, channels: int = 3, width: int = 6, num_classes: int = 5):
        super().__init__()
        self.patch_size, self.num_classes = patch_size, num_classes
        self.embed = nn.Conv2d(channels, width, patch_size, patch_size)
        self.query = nn.Parameter(torch.randn(width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, *, attention=False, features=False, inject=None) -> FakeOutput:
        grid = self.embed(x)
        tokens = grid.flatten(2).transpose(1, 2)
        a = (tokens @ self.query).softmax(1)
        logits = self.head((a[:, :, None] * tokens).sum(1))
        return FakeOutput(logits, 0.8 * a.detach().float() if attention else None, tuple(grid.shape[-2:]))


class TinyCNN(nn.Module):
    """A convolution with batch norm and a linear head; no class attention."""

    patch_size = None

    def __init__(self, num_classes: int = 5):
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, num_classes),
        )

    def forward(self, x: Tensor, *, attention=False, features=False, inject=None) -> FakeOutput:
        assert not attention
        return FakeOutput(self.body(x))


def context(num_classes: int = 5, seed: int = 0, **kwargs) -> Context:
    return Context.simple(num_classes, np.random.default_rng(seed), **kwargs)


def index_images(batch: int, height: int, width: int, channels: int = 1) -> Tensor:
    """Image i is the constant i: every pixel of a mixed image tells where it comes from."""
    return torch.arange(batch, dtype=torch.float32)[:, None, None, None].expand(batch, channels, height, width).clone()


def own_share(mixed_x: Tensor) -> Tensor:
    """(B,) share of the own pixels in mixed `index_images`."""
    own = torch.arange(len(mixed_x))[:, None, None, None]
    return (mixed_x == own).double().mean((1, 2, 3))


def own_weight(weights: Tensor) -> Tensor:
    """(B,) lambda of each sample."""
    return weights.diagonal()
