"""timm's RandAugment (Cubuk et al., arXiv 1909.13719), with every draw taken from a generator that is passed in."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment

from ..errors import EvalkitError


class RandAugment:
    """`config` such as "rand-m9-mstd0.5-inc1"; `size` scales translations; `mean` (0-1) is the colour of what is moved
    in.

    Operations, magnitudes and probabilities are timm's. Raises EvalkitError for a string that is not RandAugment's.
    """

    def __init__(self, config: str, size: int, mean: tuple[float, ...], resampling: Image.Resampling):
        settings = {
            "translate_const": int(size * 0.45),
            "img_mean": tuple(min(255, round(255 * m)) for m in mean),
            "interpolation": resampling,
        }
        try:
            timms = auto_augment.rand_augment_transform(config, settings)
        except (AssertionError, ValueError) as e:
            raise EvalkitError(
                f"auto_augment='{config}' is not a RandAugment string such as rand-m9-mstd0.5-inc1"
            ) from e
        self.ops, self.layers, self.weights = timms.ops, timms.num_layers, timms.choice_weights
        for op in self.ops:
            if op.aug_fn is auto_augment.posterize:
                op.aug_fn = _posterize

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        chosen = rng.choice(len(self.ops), self.layers, replace=self.weights is None, p=self.weights)
        with _seeded_random(int(rng.integers(2**63))):
            for i in chosen:
                image = self.ops[i](image)
        return image


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    """timm's posterize, with 0 bits giving black: what Pillow did when the recipes were published, and refuses since
    version 13."""
    return Image.new(image.mode, image.size) if bits < 1 else auto_augment.posterize(image, bits, **kwargs)


@contextlib.contextmanager
def _seeded_random(seed: int) -> Iterator[None]:
    """Inside, Python's `random` starts from `seed`; afterwards it goes on as before. timm's operations draw from
    nowhere else."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
