"""Random erasing (Zhong et al., arXiv 1708.04896) with noise, by the law of timm's RandomErasing.

timm erases after normalisation, so the noise has the scale of normalised pixels; in uint8 it could not be the same.
"""

import math

import numpy as np
import torch
from torch import Tensor


def random_erase_box(
    height: int, width: int, probability: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of 2-33 % of the area, aspect ratio 0.3-3.3, all 0 for none.

    Args:
        height: H of the image.
        width: W of the image.
        probability: How often anything is erased.
        rng: Where the draws come from.
    """
    if rng.random() >= probability:
        return 0, 0, 0, 0
    for _ in range(10):
        target = rng.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if h < height and w < width:
            top = int(rng.integers(0, height - h + 1))
            return top, int(rng.integers(0, width - w + 1)), h, w
    return 0, 0, 0, 0


def erase_noise(boxes: Tensor, rng: np.random.Generator, channels: int = 3) -> Tensor:
    """Standard normal float32 values for boxes, image after image.

    Args:
        boxes: (B, 4) of (top, left, height, width).
        rng: Where the draws come from.
        channels: C of the images.
    """
    return torch.from_numpy(rng.standard_normal(int((boxes[:, 2] * boxes[:, 3]).sum()) * channels, dtype=np.float32))


def erase_boxes(x: Tensor, boxes: Tensor, noise: Tensor) -> Tensor:
    """Fill, in place, boxes of a NORMALISED batch with noise. All are on one device, and nothing is read back from it.

    Args:
        x: Normalised images (B, C, H, W), changed.
        boxes: (B, 4) of (top, left, height, width).
        noise: The values of `erase_noise`.
    """
    top, left, height, width = boxes[:, :, None].unbind(1)
    down, across = torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)
    rows = (down >= top) & (down < top + height)
    columns = (across >= left) & (across < left + width)
    return x.masked_scatter_((rows[:, None, :, None] & columns[:, None, None, :]), noise.to(x.dtype))
