"""timm's RandAugment (Cubuk et al., arXiv 1909.13719), with every draw taken from a generator that is passed in."""

import contextlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment
from timm.data.auto_augment import AugmentOp

from ..errors import EvalkitError
from .batched_augment import OPERATIONS

MOST = 10  # timm's largest magnitude
SETS = ("tweights", "t3a", "t3aw")  # of operations, by timm's names; it takes its usual one for any other
Drawn = Sequence[tuple[AugmentOp, tuple[Any, ...]]]  # operations and their arguments, in order


class RandAugment:
    """Operations, magnitudes and probabilities are timm's. Raises EvalkitError for a string that is not RandAugment's.

    Args:
        config: timm's string, such as "rand-m9-mstd0.5-inc1".
        size: Pixels per side of the images, which scales translations.
        mean: Colour of what is moved in, per channel in [0, 1].
        resampling: How pixels are resampled.
    """

    def __init__(self, config: str, size: int, mean: tuple[float, ...], resampling: Image.Resampling):
        settings: dict[str, Any] = {
            "translate_const": int(size * 0.45),
            "img_mean": tuple(min(255, round(255 * m)) for m in mean),
            "interpolation": resampling,
        }
        _check(config)
        try:
            timms = auto_augment.rand_augment_transform(config, settings)
        except (AssertionError, ValueError) as e:
            raise EvalkitError(
                f"auto_augment='{config}' is not a RandAugment string such as rand-m9-mstd0.5-inc1"
            ) from e
        self.ops, self.layers, self.weights = timms.ops, timms.num_layers, timms.choice_weights
        self.fill: tuple[int, ...] = settings["img_mean"]
        for op in self.ops:
            if op.aug_fn is auto_augment.posterize:
                op.aug_fn = _posterize

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return self.apply(image, self.draw(rng))

    def draw(self, rng: np.random.Generator) -> Drawn:
        """What happens to one image."""
        chosen = rng.choice(len(self.ops), self.layers, replace=self.weights is None, p=self.weights)
        with _own_random(int(rng.integers(2**63))) as own:
            drawn = [(self.ops[i], _arguments(self.ops[i], own)) for i in chosen]
        return [(op, arguments) for op, arguments in drawn if arguments is not None]

    def apply(self, image: Image.Image, drawn: Drawn) -> Image.Image:
        """The image after `drawn`, by Pillow."""
        op: Any
        for op, arguments in drawn:
            image = op.aug_fn(image, *arguments, **op.kwargs)
        return image

    def coded(self, drawn: Drawn, size: int) -> list[tuple[int, float]]:
        """`drawn` for images of `size` pixels as (operation, value) of `batched_augment.augment`, one per layer."""
        codes = [_code(op, *arguments, size=size) for op, arguments in drawn]
        return codes + [(0, 0.0)] * (self.layers - len(codes))

    def only_on_cpu(self) -> list[str]:
        """Names of the operations that `batched_augment` does not have."""
        return [op.name for op in self.ops if op.aug_fn not in _CODES]


def _check(config: str) -> None:
    """Raise EvalkitError for what timm passes over in its string: a part without a number, a set of operations that it
    has not, a part that stands there twice, a magnitude beyond its largest, and parts that leave nothing to do."""
    sets = [part for part in config.split("-")[1:] if part.startswith("t")]
    parts = [re.fullmatch(r"([a-z]+)(.*)", part) for part in config.split("-")[1:] if part not in sets]
    values = {part[1]: part[2] for part in parts if part is not None}
    if not all(part is not None and re.fullmatch(r"\d+(\.\d+)?", part[2]) for part in parts):
        problem = "each part behind the first is letters and a number"
    elif not set(sets) <= set(SETS):
        problem = f"of sets of operations there are {', '.join(SETS)}"
    elif len(values) < len(parts) or len(sets) > 1:
        problem = "a part stands there twice"
    elif float(values.get("m", 0)) > float(values.get("mmax", MOST)):
        problem = f"the magnitude m is beyond the largest, {values.get('mmax', MOST)}"
    elif any(float(values.get(name, 1)) == 0 for name in ("n", "p")):
        problem = "with n0 or p0 nothing is done; use auto_augment=null"
    else:
        return
    raise EvalkitError(f"auto_augment='{config}' is not a RandAugment string such as rand-m9-mstd0.5-inc1: {problem}")


def _arguments(op: AugmentOp, own: random.Random) -> tuple[Any, ...] | None:
    """The arguments that timm's `AugmentOp.__call__` draws; None where it leaves the image alone.

    Args:
        op: timm's operation.
        own: Where the draws come from.
    """
    if op.prob < 1.0 and own.random() > op.prob:
        return None
    magnitude: Any = op.magnitude
    spread: Any = op.magnitude_std
    if spread == float("inf"):
        magnitude = own.uniform(0, magnitude)
    elif spread > 0:
        magnitude = own.gauss(magnitude, spread)
    magnitude = max(0.0, min(magnitude, op.magnitude_max or 10.0))
    return op.level_fn(magnitude, op.hparams) if op.level_fn is not None else ()


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    """timm's posterize, with 0 bits giving black: what Pillow did when the recipes were published, and refuses since
    version 13."""
    return Image.new(image.mode, image.size) if bits < 1 else auto_augment.posterize(image, bits, **kwargs)


_CODES = {
    auto_augment.auto_contrast: "auto_contrast",
    auto_augment.equalize: "equalize",
    auto_augment.invert: "invert",
    _posterize: "posterize",
    auto_augment.solarize: "solarize",
    auto_augment.solarize_add: "solarize_add",
    auto_augment.brightness: "brightness",
    auto_augment.contrast: "contrast",
    auto_augment.color: "color",
    auto_augment.sharpness: "sharpness",
    auto_augment.rotate: "rotate",
    auto_augment.shear_x: "shear_x",
    auto_augment.shear_y: "shear_y",
    auto_augment.translate_x_abs: "translate_x",
    auto_augment.translate_y_abs: "translate_y",
    auto_augment.translate_x_rel: "translate_x",
    auto_augment.translate_y_rel: "translate_y",
}
_RELATIVE = (auto_augment.translate_x_rel, auto_augment.translate_y_rel)


def _code(op: AugmentOp, value: float = 0.0, *, size: int) -> tuple[int, float]:
    return OPERATIONS.index(_CODES[op.aug_fn]), value * size if op.aug_fn in _RELATIVE else float(value)


@contextlib.contextmanager
def _own_random(seed: int) -> Iterator[random.Random]:
    """Inside, timm's operations, which draw from Python's `random`, draw from a generator that starts from `seed`. To
    seed Python's own and put it back would take as long as a tenth of the image's decoding."""
    own = random.Random(seed)
    auto_augment.random = own  # type: ignore[assignment]  # the module and its generators have the same functions
    try:
        yield own
    finally:
        auto_augment.random = random
