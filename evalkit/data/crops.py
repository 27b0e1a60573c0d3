"""Which pixels of an image are seen: random crops, of Pillow's images and of tensors alike."""

import math

import numpy as np
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


def pad_crop(image: Picture, rng: np.random.Generator, padding: int = 4) -> Picture:
    """A random crop of the image's own size after reflecting its borders.

    Args:
        image: The image.
        rng: Where the draws come from.
        padding: Pixels that are added at each side.
    """
    top, left = rng.integers(-padding, padding + 1, size=2)
    width, height = size_of(image)
    rows, columns = _reflected(top, height), _reflected(left, width)
    if isinstance(image, Image.Image):
        return Image.fromarray(np.asarray(image)[rows][:, columns])
    return image[:, rows][:, :, columns]


def _reflected(start: int, n: int) -> np.ndarray:
    """Positions start ... start + n - 1 in a line of n pixels that is mirrored at its first and last one."""
    beyond_first = np.abs(np.arange(start, start + n))
    return n - 1 - np.abs(n - 1 - beyond_first)


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
