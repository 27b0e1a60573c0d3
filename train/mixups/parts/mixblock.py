"""The small cross-attention networks that turn two images' features and lambda into a mask: AutoMix's and SAMix's mix
block."""

import math

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

NORMS = ("none", "bn", "ln")
LIMIT = 1e25  # scores of infinite features


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, 1, h, w) value seen from each position: softmax over positions of query^T key / sqrt(c), times value.

    Args:
        query: (B, c, h, w), of the positions that look.
        key: (B, c, h, w), of those that are looked at.
        value: (B, 1, h, w), what is seen there.
    """
    scores = query.flatten(2).transpose(1, 2) @ key.flatten(2)
    weights = (scores.clamp(-LIMIT, LIMIT) / math.sqrt(query.shape[1])).softmax(-1)
    return (weights @ value.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, value.shape[-2:])


def with_lambda(z: Tensor, lam: float) -> Tensor:
    """(B, C + 1, h, w): one more channel, lambda everywhere.

    Args:
        z: Features (B, C, h, w).
        lam: Lambda, 0 to 1.
    """
    return torch.cat([z, z.new_full((len(z), 1, *z.shape[-2:]), lam)], 1)


def projection(inputs: int, outputs: int, norm: str = "none") -> nn.Sequential:
    """1x1 convolution, with a bias if no norm follows. Batch norm always normalises by the batch: a mix block is only
    used in training.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        norm: What follows: "none", "bn" or "ln".
    """
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=norm == "none")]
    if norm == "bn":
        layers.append(batch_norm(outputs))
    elif norm == "ln":
        layers.append(LayerNorm2d(outputs, eps=1e-6))
    return nn.Sequential(*layers)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation by the statistics of the batch alone, in training and evaluation."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


def start_small(block: nn.Module) -> None:
    """Convolutions from N(0, 0.01^2) with biases of 0, so that the first masks are close to 1/2."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def lam_curve(lam: float, k: float) -> float:
    """f_k(lambda) = (4/3 lambda^3 - 2 lambda^2 + (k + 1) lambda) / (k + 1/3), or lambda itself for k < 0 (SAMix,
    arXiv:2111.15454).

    Args:
        lam: Lambda, 0 to 1.
        k: Shape of the curve; negative: none.
    """
    return lam if k < 0 else (4 / 3 * lam**3 - 2 * lam**2 + (k + 1) * lam) / (k + 1 / 3)


class MixBlock(nn.Module):
    """Logits (B, 1, h, w) of the partner's share from features of the own image and of the partner (B, C, h, w)
    (AutoMix, section 3.2).

    P = softmax(theta(z_a)^T theta(z_b) / sqrt(C/2)), logits = P value(z_b), with lambda and 1 - lambda as a further
    channel of z_a and z_b if `lam_embed`; theta and value are 1x1 convolutions, theta with `norm` ("none", "bn", "ln")
    after it.

    Args:
        channels: C of the features.
        lam_embed: Whether lambda is one more channel of the features.
        norm: What follows theta: "none", "bn" or "ln".
    """

    def __init__(self, channels: int, lam_embed: bool = True, norm: str = "none"):
        super().__init__()
        self.lam_embed = lam_embed
        inputs = channels + lam_embed
        self.theta = projection(inputs, max(channels // 2, 1), norm)
        self.value = nn.Conv2d(inputs, 1, 1)
        start_small(self)

    def forward(self, own: Tensor, other: Tensor, lam: float) -> Tensor:
        if self.lam_embed:
            own, other = with_lambda(own, lam), with_lambda(other, 1 - lam)
        return attend(self.theta(own), self.theta(other), self.value(other))


class SAMixBlock(nn.Module):
    """As MixBlock, with lambda as a factor and a non-linear value (SAMix, section 4).

    lam' = f_k(lam), z_a' = (1 + lam') z_a, z_b' = (2 - lam') z_b;   P = softmax(theta_q([z_a', z_b'])^T theta_k([z_a',
    z_b']) / sqrt(C/2)) logits = P value(z_b'), value = 1x1 convolution to C/2 channels, BN, ELU, 1x1 convolution to
    one, times `keep`, a dropout mask (B, 1, h, w).

    Args:
        channels: C of the features.
        lam_shape: k of `lam_curve`; negative: lambda as it is.
        norm: What follows theta: "none", "bn" or "ln".
    """

    def __init__(self, channels: int, lam_shape: float = -1, norm: str = "none"):
        super().__init__()
        self.lam_shape = lam_shape
        hidden = max(channels // 2, 1)
        self.query = projection(2 * channels, hidden, norm)
        self.key = projection(2 * channels, hidden, norm)
        self.value = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            batch_norm(hidden),
            nn.ELU(),
            nn.Conv2d(hidden, 1, 1, bias=False),
        )
        start_small(self)

    def forward(self, own: Tensor, other: Tensor, lam: float, keep: Tensor | None = None) -> Tensor:
        lam = lam_curve(lam, self.lam_shape)
        own, other = own * (1 + lam), other * (2 - lam)
        both, value = torch.cat([own, other], 1), self.value(other)
        return attend(self.query(both), self.key(both), value if keep is None else value * keep)
