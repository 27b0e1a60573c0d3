"""Colour jitter by the law of torchvision's ColorJitter, by Pillow or in batch."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from .batched_augment import OPERATIONS

_JITTER = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "color": ImageEnhance.Color}


def color_changes(strength: float, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Brightness, contrast and saturation ("color"), in random order, each with a factor uniform around 1.

    Args:
        strength: How far a factor may be from 1.
        rng: Where the draws come from.
    """
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for _ in _JITTER]
    return [(list(_JITTER)[i], factors[i]) for i in rng.permutation(len(_JITTER))]


def color_jitter(image: Image.Image, changes: Sequence[tuple[str, float]]) -> Image.Image:
    """The image after `color_changes`.

    Args:
        image: The image, RGB.
        changes: (what, factor), one after the other.
    """
    for kind, factor in changes:
        image = _JITTER[kind](image).enhance(factor)
    return image


def coded(changes: Sequence[tuple[str, float]]) -> list[tuple[int, float]]:
    """`color_changes` as (operation, value) of `batched_augment.augment`."""
    return [(OPERATIONS.index(kind), factor) for kind, factor in changes]
