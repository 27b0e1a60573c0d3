"""Networks whose saliency or feature map is planted."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fakes import FakeOutput


class SaliencyNet(nn.Module):
    """Its saliency is what it was given; its logits are the mean colours of the image."""

    num_classes = 3
    patch_size = None

    def __init__(self, saliency: Tensor | None = None):
        super().__init__()
        self.map = saliency
        self.modes: list[bool] = []  # training mode at each question
        self.layer = nn.Dropout()

    def saliency(self, x: Tensor, y: Tensor) -> Tensor:
        self.modes.append(self.layer.training)
        return self.map

    def forward(self, x: Tensor, **_) -> FakeOutput:
        return FakeOutput(x.mean((2, 3)))


class TeacherNet(nn.Module):
    """A frozen teacher: `map` (B, C, h, w) from the image, `classify` (B, K) logits from the image."""

    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(
        self,
        map: Callable | None = None,
        classify: Callable | None = None,
        num_classes: int = 3,
        input_size: tuple[int, int] = (28, 28),
    ):
        super().__init__()
        self.map, self.classify, self.num_classes, self.input_size = map, classify, num_classes, input_size
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def feature_map(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.map(x)

    def forward(self, x: Tensor, **_) -> FakeOutput:
        self.seen.append(x)
        return FakeOutput(self.classify(x))


def smooth_images(batch: int, size: int, seed: int, channels: int = 3) -> Tensor:
    """Normalised-looking images with large and small structures."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, max(size // 4, 1), max(size // 4, 1), generator=rng)
    return F.interpolate(coarse, size=(size, size), mode="bilinear") + 0.3 * torch.randn(
        batch, channels, size, size, generator=rng
    )


def smooth_saliency(batch: int, size: int, seed: int) -> Tensor:
    """(B, S, S) with a few strong places."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 6, 6, generator=rng) ** 4
    return F.interpolate(coarse, size=(size, size), mode="bilinear")[:, 0] * torch.rand(
        batch, size, size, generator=rng
    )
