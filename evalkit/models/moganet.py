"""MogaNet (Li et al., ICLR 2024, arXiv 2211.03295), a convolutional network that gates features of several receptive
fields, in timm style.

Four stages at strides 4, 8, 16 and 32. Each block mixes space, then channels, both with batch norm, layer scale and a
residual connection. Parameters have the names of the authors' published weights, which load as they are.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .common import StagedClassifier, build_staged, config, init_linear


class Scale(nn.Module):
    """One learnable factor per channel of (B, C, h, w).

    Args:
        dim: Channels.
        value: What the factors begin at.
    """

    def __init__(self, dim: int, value: float = 1e-5):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, dim, 1, 1), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def depthwise(dim: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """A convolution of each channel by itself that keeps the size.

    Args:
        dim: Channels.
        kernel: Its side in pixels.
        dilation: Pixels from one weight to the next.
    """
    return nn.Conv2d(dim, dim, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=dim)


class MultiOrderContext(nn.Module):
    """5x5 depthwise convolution; then 3/8 of the channels see a dilated 5x5 one and 4/8 a dilated 7x7 one more (paper,
    figure 4)."""

    def __init__(self, dim: int):
        super().__init__()
        self.split = (dim - 3 * dim // 8 - dim // 2, 3 * dim // 8, dim // 2)
        self.DW_conv0 = depthwise(dim, 5)
        self.DW_conv1 = depthwise(self.split[1], 5, dilation=2)
        self.DW_conv2 = depthwise(self.split[2], 7, dilation=3)
        self.PW_conv = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        low, middle, high = self.DW_conv0(x).split(self.split, dim=1)
        return self.PW_conv(torch.cat([low, self.DW_conv1(middle), self.DW_conv2(high)], dim=1))


class SpatialAggregation(nn.Module):
    """Z = SiLU(Y + g (Y - mean(Y))) of Y = W x, then x + W' (SiLU(gate(Z)) SiLU(context(Z))) (paper, equations 4-7)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.gate = nn.Conv2d(dim, dim, 1)
        self.value = MultiOrderContext(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)
        self.sigma = Scale(dim)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj_1(x)
        z = self.act(y + self.sigma(y - y.mean((2, 3), keepdim=True)))
        return x + self.proj_2(self.act(self.gate(z)) * self.act(self.value(z)))


class ChannelAggregation(nn.Module):
    """Y = GELU(depthwise 3x3 (W x)), then W' (Y + g (Y - GELU(w Y))) with one channel w Y for all (paper, equations 8
    and 9).

    Args:
        dim: Channels in and out.
        hidden: Channels between W and W'.
        drop: Dropout after each of the two.
    """

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = depthwise(hidden, 3)
        self.decompose = nn.Conv2d(hidden, 1, 1)
        self.sigma = Scale(hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.act(self.dwconv(self.fc1(x))))
        return self.drop(self.fc2(y + self.sigma(y - self.act(self.decompose(y)))))


class Block(nn.Module):
    """Spatial, then channel aggregation, each with a residual.

    Args:
        dim: Channels.
        ratio: Hidden channels of the second per channel.
        drop: Dropout of the second.
        drop_path: Rate of stochastic depth.
    """

    def __init__(self, dim: int, ratio: int, drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = SpatialAggregation(dim)
        self.layer_scale_1 = nn.Parameter(torch.full((1, dim, 1, 1), 1e-5))
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ChannelAggregation(dim, dim * ratio, drop)
        self.layer_scale_2 = nn.Parameter(torch.full((1, dim, 1, 1), 1e-5))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


def embedding(chans: int, dim: int, stem: bool) -> nn.Module:
    """Halve the resolution by a 3x3 convolution.

    Args:
        chans: Channels in.
        dim: Channels out.
        stem: Whether it is halved twice, with GELU in between.
    """
    if not stem:
        return nn.Sequential(
            OrderedDict(projection=nn.Conv2d(chans, dim, 3, stride=2, padding=1), norm=nn.BatchNorm2d(dim))
        )
    half = dim // 2
    first = (nn.Conv2d(chans, half, 3, stride=2, padding=1), nn.BatchNorm2d(half), nn.GELU())
    second = (nn.Conv2d(half, dim, 3, stride=2, padding=1), nn.BatchNorm2d(dim))
    return nn.Sequential(OrderedDict(projection=nn.Sequential(*first, *second)))


class MogaNet(StagedClassifier):
    """(B, in_chans, H, W) images of at least 32 pixels to logits.

    The maps for dense tasks (`forward_intermediates`, `features_only`) come each after its stage's norm, as in the
    official detection code.

    Args:
        depths: Blocks of each stage.
        embed_dims: Channels of each stage, multiples of 8.
        ffn_ratios: Hidden channels of the channel aggregation per channel, of each stage.
        in_chans: Channels of the images.
        num_classes: How many classes it tells apart; 0: no head.
        drop_rate: Dropout within the blocks.
        drop_path_rate: Stochastic depth of the last block, rising from 0.
    """

    pooling = "avg"

    def __init__(
        self,
        depths: tuple[int, ...],
        embed_dims: tuple[int, ...],
        ffn_ratios: tuple[int, ...] = (8, 8, 4, 4),
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__(embed_dims, "norm")
        drop_path = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        chans = in_chans
        for i, (depth, dim, ratio) in enumerate(zip(depths, embed_dims, ffn_ratios, strict=True)):
            setattr(self, f"patch_embed{i + 1}", embedding(chans, dim, stem=i == 0))
            setattr(
                self,
                f"blocks{i + 1}",
                nn.ModuleList([Block(dim, ratio, drop_rate, next(drop_path)) for _ in range(depth)]),
            )
            setattr(self, f"norm{i + 1}", nn.BatchNorm2d(dim))
            chans = dim
        self.reset_classifier(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of deviation 0.02 for the head; convolutions normal with variance 2 / fan-out; biases 0."""
        for module in self.modules():
            init_linear(module)
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                nn.init.zeros_(module.bias)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """The normalised maps (B, C, h, w) of the four stages, one after the other."""
        for i in range(4):
            x = getattr(self, f"patch_embed{i + 1}")(x)
            for block in getattr(self, f"blocks{i + 1}"):
                x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
            x = getattr(self, f"norm{i + 1}")(x)
            yield x

    def features_of(self, outs: Sequence[Tensor]) -> Tensor:
        return outs[-1]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, D, h, w) map of the last stage."""
        *_, x = self.stages(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.head(x)


URL = "https://github.com/Westlake-AI/MogaNet/releases/download/moganet-in1k-weights/moganet_tiny_sz224_8xbs128_ep300.pth.tar"
default_cfgs = generate_default_cfgs(
    {
        "moganet_tiny.in1k": config(
            url=URL, pool_size=(7, 7), crop_pct=0.9, first_conv="patch_embed1.projection.0", license="apache-2.0"
        )
    }
)


@register_model
def moganet_tiny(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """5.2 M parameters, 1.1 G multiply-adds at 224 pixels.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    args = {"depths": (3, 3, 12, 2), "embed_dims": (32, 64, 128, 256)} | kwargs
    return build_staged(MogaNet, "moganet_tiny", pretrained, **args)
