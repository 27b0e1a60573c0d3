"""Saliency maps that methods share, for a whole batch on its device: input gradient, fine-grained saliency, spectral
residual."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.models.network import Network, Output

from ..base import Context, Mixed, MixMethod
from .checks import expect, is_number

SURROUNDS = (12, 24, 48, 28, 56, 112)  # pixels from the centre to the border of the surround


# ---- input gradient


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode again afterwards."""
    training = [m for m in net.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class SaliencyMethod(MixMethod):
    """Base of methods that mix by input gradients and may train on the clean batch besides: loss = loss(mixed) +
    clean_lam loss(clean).

    Args:
        clean_lam: Weight of the loss of the clean batch; 0: it is not trained on.
        saliency_training: Whether the pass for the saliency runs in training mode.
    """

    family = "saliency"
    needs = "input gradients"
    extra_passes = "1 forward + backward"
    own_passes: Literal["none", "whole", "layers"] = "whole"

    def __init__(self, clean_lam: float = 0.0, saliency_training: bool = False):
        super().__init__()
        expect(is_number(clean_lam) and clean_lam >= 0, "clean_lam", "a number of at least 0", clean_lam)
        self.clean_lam = clean_lam
        self.as_it_is = saliency_training or clean_lam > 0  # the network while its input gradient is taken

    @property
    def training_passes(self) -> int:  # type: ignore[override]  # computed
        return 2 if self.clean_lam else 1

    def input_saliency(self, net: Network, x: Tensor, y: Tensor) -> Tensor:
        """(B, H, W) float32 sqrt(mean_c (d cross-entropy / d x)^2), taken in evaluation mode, or as the network is if
        it trains on the clean batch or the method asks for it."""
        with nullcontext() if self.as_it_is else evaluating(net):
            return net.saliency(x, y)

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        loss = super().loss(ctx, x, y, mixed, out, net)
        return loss + self.clean_lam * ctx.criterion(net(x).logits, ctx.target(y)) if self.clean_lam else loss


def shares(saliency: Tensor, block: int) -> Tensor:
    """(B, m, m) float64 share of each block in the saliency (B, H, W); equal ones where there is none at all.

    Args:
        saliency: (B, H, W), not negative.
        block: Pixels per side of a block.
    """
    pooled = F.avg_pool2d(saliency.float()[:, None], block)[:, 0].double() + 1e-38
    return pooled / pooled.sum((1, 2), keepdim=True)


# ---- fine-grained saliency (Montabone & Soto, 2010, as OpenCV's StaticSaliencyFineGrained)


def to_bytes(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised images (B, C, H, W) as uint8 pixels.

    Args:
        x: Normalised images (B, C, H, W).
        mean: (C,), of the normalisation, on the scale of [0, 1].
        std: (C,), its standard deviation.
    """
    mean, std = (v.to(x.device, torch.float32, non_blocking=True)[:, None, None] for v in (mean, std))
    return (x.float() * std + mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def fine_grained(pixels: Tensor) -> Tensor:
    """(B, H, W) uint8 saliency of uint8 RGB or grey images (B, 3 or 1, H, W), at least 2 x 2: OpenCV's map, bit for
    bit.

    grey level g smoothed twice by [1 2 1] x [1 2 1] / 16; per surround d = g - mean of the surround without the centre;
    on = sum floor(max(d, 0)), off = sum floor(max(-d, 0)); both and then their sum stretched to 255 (the sum may wrap
    around 256).
    """
    if pixels.shape[1] == 3:
        red, green, blue = pixels.int().unbind(1)
        grey = (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15
    else:
        grey = pixels[:, 0].int()
    for _ in range(2):
        grey = ((_binomial(grey.float()) + 8) / 16).floor()  # whole numbers below 2^24: exact
    grey = grey.int()
    return _centre_surround(grey, grey)


def fine_grained_of_floats(x: Tensor) -> Tensor:
    """(B, H, W) uint8: what OpenCV makes of float32 images, whose bytes it takes for grey levels.

    The centre of pixel (y, x) is byte x of row y of the smoothed float32 grey image; the surround is right. First
    channel taken for blue. The same noise but not the same bits: the lowest bytes show how sums were rounded, which in
    OpenCV depends on the processor.
    """
    x = x.float()
    grey = 0.114 * x[:, 0] + 0.587 * x[:, 1] + 0.299 * x[:, 2] if x.shape[1] == 3 else x[:, 0]
    for _ in range(2):
        grey = _binomial(grey) / 16
    centre = grey.contiguous().view(torch.uint8)[..., : grey.shape[-1]].int()
    return _centre_surround(centre, grey)


def _binomial(grey: Tensor) -> Tensor:
    """[1 2 1] x [1 2 1] over (B, H, W), mirrored at the border without repeating it."""
    p = F.pad(grey, (1, 1, 1, 1), mode="reflect")
    p = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]


def _centre_surround(centre: Tensor, field: Tensor) -> Tensor:
    """(B, H, W) uint8 map of int32 centres against the means of `field`, int32 (sums are exact) or float32."""
    height, width = field.shape[1:]
    margin = max(SURROUNDS)
    sums = F.pad(field.cumsum(1, dtype=field.dtype).cumsum(2, dtype=field.dtype), (1, 0, 1, 0))
    rows, columns = (
        torch.arange(-margin, side + margin + 1, device=field.device).clamp(0, side) for side in (height, width)
    )
    # (B, H + 2 margin + 1, W + 2 margin + 1): sums above and left of any place, also outside
    sums = sums[:, rows[:, None], columns]
    on, off = torch.zeros_like(centre), torch.zeros_like(centre)
    for n in SURROUNDS:
        low, high = margin - n + 1, margin + n + 1
        total = sums[:, high : high + height] - sums[:, low : low + height]
        total = total[:, :, high : high + width] - total[:, :, low : low + width]
        sides = (
            rows[high : high + height] - rows[low : low + height],
            columns[high : high + width] - columns[low : low + width],
        )
        difference = (centre - (total - centre).float() / (sides[0][:, None] * sides[1] - 1)).trunc().int()
        on += difference.clamp(min=0) & 255
        off += (-difference).clamp(min=0) & 255
    on, off = (255 * m // _maximum(m) for m in (on, off))
    return (255 * (on + off) // torch.maximum(_maximum(on), _maximum(off)) & 255).to(torch.uint8)


def _maximum(m: Tensor) -> Tensor:
    return m.amax((1, 2), keepdim=True).clamp(min=1)


# ---- spectral residual and smoothing


def spectral_residual(x: Tensor, size: int = 128) -> Tensor:
    """(B, H, W) float32 magnitude of the image whose log amplitude spectrum is freed of its local mean (Hou & Zhang,
    CVPR 2007).

    3 x 3 mean with a repeated border; blurred (7 pixels, sigma 3).

    Args:
        x: Images (B, 3 or 1, H, W), made grey.
        size: The most pixels per side at which it is computed; larger images are made smaller.
    """
    x = x.float()
    grey = 0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2] if x.shape[1] == 3 else x[:, 0]
    resized = max(grey.shape[1:]) > size
    if resized:
        grey = F.interpolate(grey[:, None], size=(size, size), mode="bilinear")[:, 0]
    spectrum = torch.fft.fft2(grey)
    amplitude = (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()
    log = amplitude.log()
    local = F.avg_pool2d(F.pad(log[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    maps = blur(torch.fft.ifft2(spectrum / amplitude * (log - local).exp()).abs())
    return F.interpolate(maps[:, None], size=x.shape[-2:], mode="bilinear")[:, 0] if resized else maps


def gaussian(size: int, sigma: float) -> list[float]:
    """Weights exp(-t^2 / (2 sigma^2)) at t = i - (size - 1) / 2, which sum to 1.

    Args:
        size: How many weights.
        sigma: Standard deviation in places.
    """
    weights = [math.exp(-0.5 * ((i - (size - 1) / 2) / sigma) ** 2) for i in range(size)]
    return [w / sum(weights) for w in weights]


def correlate(padded: Tensor, weights: list[float]) -> Tensor:
    """(.., H, W) weighted sums along both axes; cheaper than a convolution of one channel.

    Args:
        padded: (.., H + n - 1, W + n - 1).
        weights: n weights, the same for rows and columns.
    """
    for axis in (-2, -1):
        length = padded.shape[axis] - len(weights) + 1
        padded = reduce(torch.add, [w * padded.narrow(axis, i, length) for i, w in enumerate(weights)])
    return padded


def blur(maps: Tensor, size: int = 7, sigma: float = 3.0) -> Tensor:
    """Gaussian blur of (B, H, W), mirrored at the border without repeating it.

    Args:
        maps: (B, H, W).
        size: Pixels that the filter reaches over, odd.
        sigma: Standard deviation in pixels.
    """
    return correlate(F.pad(maps, (size // 2,) * 4, mode="reflect"), gaussian(size, sigma))
