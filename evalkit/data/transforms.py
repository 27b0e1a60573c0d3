"""From a PIL image to a uint8 tensor (3, S, S). Normalisation, erasing and mixing happen on the device."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from ..errors import EvalkitError, unknown
from .randaugment import RandAugment

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """The RGB image of uint8 (3, H, W)."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


# ---- evaluation


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side to `resize`, centre-crop to `size` x `size`; with `native` the image must already have
    that size.

    The other side is truncated, the crop starts at the rounded half of the excess (ties to even): torchvision's Resize
    and CenterCrop on PIL images.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    native: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if self.resize < self.size:
            raise EvalkitError(
                f"the shorter side is resized to {self.resize}, less than the crop of {self.size}; give a larger resize"
            )

    def __call__(self, image: Image.Image) -> Tensor:
        if self.native and image.size != (self.size, self.size):
            raise EvalkitError(
                f"images of this set are used as they are, {image.width} x {image.height}, but {self.size} x"
                f" {self.size} is asked for"
            )
        return to_tensor(image if self.native else self.crop(image))

    def __str__(self) -> str:
        """How images are prepared, for records and tables.

        >>> str(EvalTransform(224, 236, "bicubic"))
        'shorter side 236 (bicubic), centre 224'
        """
        if self.native:
            return f"as they are, {self.size}"
        return f"shorter side {self.resize} ({self.interpolation}), centre {self.size}"

    def crop(self, image: Image.Image) -> Image.Image:
        """The resized and cropped image."""
        (left, top, _, _), size = self.box(image)
        return image.resize(size, INTERPOLATIONS[self.interpolation]).crop(
            (left, top, left + self.size, top + self.size)
        )

    def box(self, image: Image.Image) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """(left, top, width, height) of the crop in pixels of the resized image, and that one's (width, height)."""
        short = min(image.size)
        width, height = (int(self.resize * side / short) for side in image.size)
        return (round((width - self.size) / 2), round((height - self.size) / 2), self.size, self.size), (width, height)


class TimmTransform:
    """What timm does for the model with pretrained_cfg `cfg`: its crop_pct, crop_mode and interpolation, at `size`
    pixels."""

    def __init__(self, size: int, cfg: Mapping[str, Any]):
        from timm.data import create_transform

        keys = ("crop_pct", "crop_mode", "interpolation", "mean")  # the mean colours the borders of crop_mode="border"
        self.size, self.options = size, {key: cfg[key] for key in keys if cfg.get(key) is not None}
        self.chain = create_transform(size, normalize=False, **self.options)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.chain(image)

    def __str__(self) -> str:
        shown = ", ".join(
            str(self.options[key]) for key in ("crop_pct", "interpolation", "crop_mode") if key in self.options
        )
        return f"timm's for the model ({shown}), {self.size}"


def eval_transform(mode: str, size: int, cfg: Mapping[str, Any] | None = None) -> EvalTransform | TimmTransform:
    """How images are prepared for a model whose input is `size` pixels.

    "published": shorter side to floor(size * 256 / 224), bilinear, centre crop, as the robustness protocols were
    published. "native": as they are, for embedded sets. "model": what timm does for the model with pretrained_cfg `cfg`
    (crop_pct, crop_mode, interpolation).
    """
    if mode == "published":
        return EvalTransform(size, math.floor(size * 256 / 224))
    if mode == "native":
        return EvalTransform(size, size, native=True)
    if mode != "model":
        raise unknown("preprocessing", mode, ("published", "model", "native"))
    if cfg is None:
        raise ValueError("Expected argument `cfg` to be a timm pretrained_cfg for mode 'model', but got None")
    return TimmTransform(size, cfg)


def validation_transform(keys: Mapping[str, Any], native_size: int | None = None) -> EvalTransform:
    """How a training run with the recipe `keys` prepares its validation images; images of `native_size` pixels, if that
    is the size it validates at, are used as they are. Raises EvalkitError for keys that are no recipe's."""
    try:
        size = keys["eval_size"] or keys["image_size"]
        resize = keys["eval_resize"] or math.floor(size * 256 / 224)
        return EvalTransform(size, resize, keys["interpolation"], native=native_size == size)
    except (KeyError, TypeError) as e:
        raise EvalkitError(
            f"the checkpoint does not say how its run prepared validation images ({type(e).__name__}: {e}); choose with"
            " preprocess=published or preprocess=model"
        ) from e


# ---- training


@dataclass(frozen=True, slots=True)
class View:
    """The part of an image that a training image shows: a box in shares of the image's width and height, mirrored
    afterwards if `flip`."""

    left: float
    top: float
    width: float
    height: float
    flip: bool


class TrainKeys(Protocol):
    """The keys of a training recipe that decide how a training image is made."""

    image_size: int
    augment: str
    crop_scale: Sequence[float]
    auto_augment: str | None
    color_jitter: float
    erasing: float
    interpolation: str


class TrainTransform:
    """Augmentation of one image, driven by the generator it is called with and by nothing else: (PIL image, generator)
    -> uint8 (3, S, S).

    `cfg.augment`: "none"; "pad-crop" (reflect 4 pixels, crop; as on CIFAR); "pad-crop-flip"; "rrc" (random resized crop
    of the share `cfg.crop_scale` of the area, then flip). Images that do not have the size are first resized and
    centre-cropped to it, except by "rrc". `cfg.auto_augment` is timm's RandAugment string, `cfg.color_jitter` the
    strength of torchvision's ColorJitter (brightness, contrast, saturation). `mean` colours what RandAugment moves in.
    """

    AUGMENTS = ("none", "pad-crop", "pad-crop-flip", "rrc")

    def __init__(self, cfg: TrainKeys, mean: tuple[float, ...] = IMAGENET_MEAN):
        if cfg.augment not in self.AUGMENTS:
            raise unknown("augment", cfg.augment, self.AUGMENTS)
        if cfg.auto_augment and cfg.color_jitter:
            raise EvalkitError(
                "auto_augment and color_jitter are both set; timm then leaves the jitter out, and so do the published"
                " runs: set color_jitter=0"
            )
        if cfg.color_jitter < 0:
            raise EvalkitError(f"color_jitter={cfg.color_jitter} is negative; give 0 for none")
        if not 0 <= cfg.erasing <= 1:
            raise EvalkitError(f"erasing={cfg.erasing} is a probability; give a number from 0 to 1")
        self.size, self.augment, self.jitter, self.erasing = cfg.image_size, cfg.augment, cfg.color_jitter, cfg.erasing
        self.crop_scale = tuple(cfg.crop_scale)
        self.fit = EvalTransform(self.size, self.size, cfg.interpolation)
        self.resampling = INTERPOLATIONS[cfg.interpolation]
        self.rand_augment = (
            RandAugment(cfg.auto_augment, self.size, mean, self.resampling) if cfg.auto_augment else None
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        return self.with_view(image, rng)[0]

    def with_view(self, image: Image.Image, rng: np.random.Generator) -> tuple[Tensor, View | None]:
        """The training image, and what it shows of the image; None where that is no upright box of it ("pad-crop",
        RandAugment)."""
        if self.augment == "rrc":
            box, size = random_resized_crop(*image.size, rng, self.crop_scale), image.size
            left, top, width, height = box
            image = image.crop((left, top, left + width, top + height)).resize((self.size, self.size), self.resampling)
        else:
            box, size = self.fit.box(image)
            image = image if image.size == (self.size, self.size) else self.fit.crop(image)
            if self.augment != "none":
                image = pad_crop(image, rng)
        flip = self.augment in ("rrc", "pad-crop-flip") and rng.random() < 0.5
        if flip:
            image = ImageOps.mirror(image)
        upright = self.augment in ("none", "rrc") and not self.rand_augment
        view = View(box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1], flip) if upright else None
        if self.rand_augment:
            image = self.rand_augment(image, rng)
        if self.jitter:
            image = color_jitter(image, self.jitter, rng)
        return to_tensor(image), view

    def erase_box(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) to erase in this image, all 0 for nothing. It is filled after normalisation, see
        `erase_boxes`."""
        return random_erase_box(self.size, self.size, self.erasing, rng) if self.erasing else (0, 0, 0, 0)


def pad_crop(image: Image.Image, rng: np.random.Generator, padding: int = 4) -> Image.Image:
    """A random crop of the image's own size after reflecting `padding` pixels at each side."""
    top, left = rng.integers(-padding, padding + 1, size=2)
    return Image.fromarray(np.asarray(image)[_reflected(top, image.height)][:, _reflected(left, image.width)])


def _reflected(start: int, n: int) -> np.ndarray:
    """Positions start ... start + n - 1 in a line of n pixels that is mirrored at its first and last one."""
    beyond_first = np.abs(np.arange(start, start + n))
    return n - 1 - np.abs(n - 1 - beyond_first)


def random_resized_crop(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float] = (0.08, 1.0)
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a crop with the share `scale` of the area and an aspect ratio of 3/4 to 4/3,
    log-uniform.

    Szegedy et al., CVPR 2015; the law of torchvision's RandomResizedCrop."""
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


def color_jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, in random order, each times a factor uniform within 1 +- `strength`."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for _ in kinds]
    for i in rng.permutation(len(kinds)):
        image = kinds[i](image).enhance(factors[i])
    return image


def random_erase_box(
    height: int, width: int, probability: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of 2-33 % of the area, aspect ratio 0.3-3.3, all 0 for none (Zhong et al., arXiv
    1708.04896; law of timm's RandomErasing)."""
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


def erase_boxes(x: Tensor, boxes: Tensor, rng: np.random.Generator) -> Tensor:
    """Fill, in place, the boxes (B, 4) of `Batch.erase` in the NORMALISED batch `x` (B, C, H, W) with standard normal
    noise, one draw per value.

    timm erases after normalisation, so the noise has the scale of normalised pixels; in uint8 it could not be the same.
    """
    sizes = [x.shape[1] * h * w for _, _, h, w in boxes.tolist()]
    noise = torch.from_numpy(rng.standard_normal(sum(sizes), dtype=np.float32)).to(x)
    for image, (top, left, h, w), values in zip(x, boxes.tolist(), noise.split(sizes)):
        image[:, top : top + h, left : left + w] = values.view(x.shape[1], h, w)
    return x
