"""Which pixels of an image are seen: random crops, of Pillow's images and of tensors alike."""

import math
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Picture = Image.Image | Tensor  # RGB: Pillow's, or (3, H, W) uint8 where torch resizes it


def size_of(image: Picture) -> tuple[int, int]:
    """(width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[2], image.shape[1])


def cut(image: Picture, left: int, top: int, width: int, height: int) -> Picture:
    """A box of the image.

    Args:
        image: The image.
        left: Column where the box begins.
        top: Row where it begins.
        width: Its columns.
        height: Its rows.
    """
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    return image[:, top : top + height, left : left + width]


PADDING = 4  # pixels that a padded crop may lie beside the image, at each side


def pad_offset(rng: np.random.Generator) -> tuple[int, int]:
    """(top, left) of a random crop of an image's own size after reflecting its borders."""
    top, left = rng.integers(-PADDING, PADDING + 1, size=2)
    return int(top), int(left)


def pad_crop(image: Picture, top: int, left: int) -> Picture:
    """A crop of the image's own size that reaches beyond it, where its borders are reflected.

    Args:
        image: The image.
        top: Row where the crop begins.
        left: Column where it begins.
    """
    width, height = size_of(image)
    rows, columns = reflected(top + np.arange(height), height), reflected(left + np.arange(width), width)
    if isinstance(image, Image.Image):
        return Image.fromarray(np.asarray(image)[rows][:, columns])
    return image[:, rows][:, :, columns]


T = TypeVar("T", np.ndarray, Tensor)


def reflected(positions: T, n: int) -> T:
    """Where positions up to n beyond it lie in a line of n pixels that is mirrored at its first and last one.

    Args:
        positions: Whole numbers, -n < p < 2 n - 1.
        n: Pixels of the line.
    """
    return n - 1 - abs(n - 1 - abs(positions))


def crop_batch(pixels: Tensor, offsets: Tensor) -> Tensor:
    """A batch of crops as `pad_crop` makes them, mirrored where asked for: (B, C, H, W), on the device of the pixels.

    Args:
        pixels: Images (B, C, H, W).
        offsets: (B, 3) int64 top, left, and 1 for a crop that is mirrored.
    """
    top, left, flip = offsets[:, :, None].unbind(1)
    height, width = pixels.shape[2:]
    rows = reflected(top + torch.arange(height, device=pixels.device), height)  # (B, H)
    columns = reflected(left + torch.arange(width, device=pixels.device), width)
    columns = torch.where(flip > 0, columns.flip(1), columns)
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    # channels last while gathering: one pixel is one place
    return pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()


def random_resized_crop(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float] = (0.08, 1.0)
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a crop with an aspect ratio of 3/4 to 4/3, log-uniform.

    Szegedy et al., CVPR 2015; the law of torchvision's RandomResizedCrop.

    Args:
        width: Columns of the image.
        height: Rows of the image.
        rng: Where the draws come from.
        scale: Least and largest share of the area.
    """
    area, low, high = width * height, 3 / 4, 4 / 3
    for _ in range(10):
        target = area * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            return int(rng.integers(0, width - w + 1)), top, w, h
    # an extreme shape: the largest central crop with an allowed ratio
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return (width - w) // 2, (height - h) // 2, w, h
