"""From an image to a uint8 tensor (3, S, S). Normalisation, erasing and mixing happen on the device, and augmentation
too where asked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import EvalkitError, unknown
from . import decode
from .batched_augment import augment
from .color_jitter import coded, color_changes, color_jitter
from .crops import Picture, cut, pad_crop, pad_offset, random_resized_crop, size_of
from .decode import planar, to_image, to_pixels, to_tensor
from .erasing import random_erase_box
from .randaugment import RandAugment

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)


# ---- evaluation


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side, then centre-crop.

    The other side is truncated, the crop starts at the rounded half of the excess (ties to even): torchvision's Resize
    and CenterCrop on PIL images.

    Args:
        size: Pixels per side of the crop.
        resize: Pixels of the shorter side before it.
        interpolation: "bilinear" or "bicubic".
        native: Whether the image must already have that size, and is used as it is.
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
        (left, top, _, _), size = self.box(*image.size)
        return image.resize(size, INTERPOLATIONS[self.interpolation]).crop(
            (left, top, left + self.size, top + self.size)
        )

    def box(self, width: int, height: int) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """(left, top, width, height) of the crop in pixels of the resized image, and that one's (width, height)."""
        short = min(width, height)
        width, height = (int(self.resize * side / short) for side in (width, height))
        return (round((width - self.size) / 2), round((height - self.size) / 2), self.size, self.size), (width, height)


class TimmTransform:
    """What timm does for a model: its crop_pct, crop_mode and interpolation.

    Args:
        size: Pixels per side of the result.
        cfg: The model's pretrained_cfg.
    """

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
    """How images are prepared for a model.

    Args:
        mode: "published": shorter side to floor(size * 256 / 224), bilinear, centre crop, as the robustness protocols
            were published. "native": as they are, for embedded sets. "model": what timm does for the model (crop_pct,
            crop_mode, interpolation).
        size: Pixels per side of the model's input.
        cfg: The model's pretrained_cfg, for "model".
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
    """How a training run prepares its validation images. Raises EvalkitError for keys that are no recipe's.

    Args:
        keys: The keys of its recipe.
        native_size: Images of so many pixels, if that is the size it validates at, are used as they are.
    """
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
    """The part of an image that a training image shows, in shares of the image's width and height.

    Args:
        left: Where it begins.
        top: Where it begins.
        width: How wide it is.
        height: How high it is.
        flip: Whether it is mirrored afterwards.
    """

    left: float
    top: float
    width: float
    height: float
    flip: bool


class TrainKeys(Protocol):
    """The keys of a training recipe that decide how a training image is made."""

    @property
    def image_size(self) -> int: ...
    @property
    def augment(self) -> str: ...
    @property
    def crop_scale(self) -> Sequence[float]: ...
    @property
    def auto_augment(self) -> str | None: ...
    @property
    def color_jitter(self) -> float: ...
    @property
    def erasing(self) -> float: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def decode(self) -> str: ...
    @property
    def augment_device(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A training image, and what is still to be done with it on the device.

    Args:
        pixels: (3, S, S) uint8, contiguous.
        view: The part of the image it shows; None where that is no upright box of it ("pad-crop", RandAugment).
        erase: (top, left, height, width) to fill after normalisation, all 0 for nothing.
        augment: (operation, value) of batched_augment, in order.
        offset: Top, left and whether it is mirrored, of an image that is cropped there too (`crops.crop_batch`).
    """

    pixels: Tensor
    view: View | None
    erase: tuple[int, int, int, int]
    augment: list[tuple[int, float]] = field(default_factory=list)
    offset: tuple[int, int, int] = (0, 0, 0)


class TrainTransform:
    """Augmentation of one image, driven by the generator it is called with and by nothing else: (PIL image, generator)
    -> uint8 (3, S, S).

    `cfg.augment`: "none"; "pad-crop" (reflect 4 pixels, crop; as on CIFAR); "pad-crop-flip"; "rrc" (random resized crop
    of the share `cfg.crop_scale` of the area, then flip). Images that do not have the size are first resized and
    centre-cropped to it, except by "rrc". `cfg.auto_augment` is timm's RandAugment string, `cfg.color_jitter` the
    strength of torchvision's ColorJitter (brightness, contrast, saturation). `mean` colours what RandAugment moves in.
    `cfg.decode`: with "fast" images are resized by torch, see `decode`. `cfg.augment_device`: with "device" colours and
    RandAugment are drawn here and left to `batched_augment`, see `Sample.augment`.

    Args:
        cfg: The keys of the recipe that are named above.
        mean: Colour of what RandAugment moves in, per channel in [0, 1].
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
        least, most = cfg.crop_scale
        self.crop_scale, self.interpolation = (least, most), cfg.interpolation
        self.fit = EvalTransform(self.size, self.size, cfg.interpolation)
        self.resampling = INTERPOLATIONS[cfg.interpolation]
        self.rand_augment = (
            RandAugment(cfg.auto_augment, self.size, mean, self.resampling) if cfg.auto_augment else None
        )
        self.fast, self.on_device = cfg.decode == "fast", cfg.augment_device == "device"
        decode.check(cfg.decode, cfg.interpolation)
        if self.on_device and (reason := self.only_on_cpu()):
            raise EvalkitError(f"augment_device=device is not possible: {reason}; use augment_device=cpu")

    def only_on_cpu(self) -> str | None:
        """Why this augmentation cannot be done by `batched_augment`; None if it can."""
        absent = self.rand_augment.only_on_cpu() if self.rand_augment else []
        if absent:
            return f"{absent[0]} of this auto_augment is there for the CPU only"
        if self.rand_augment and self.interpolation not in decode.RESAMPLINGS:
            return f"interpolation={self.interpolation} moves pixels on the CPU only"
        return None

    def decoded(self, data: bytes, id: str) -> Image.Image | Tensor:
        """The image in a file's bytes, as this transform likes it best. Raises BadImage."""
        return decode.as_pixels(data, id) if self.fast else decode.as_image(data, id)

    def __call__(self, image: Image.Image | Tensor, rng: np.random.Generator) -> Tensor:
        return self.sample(image, rng).pixels

    def finish(self, x: Tensor, operations: np.ndarray, values: np.ndarray) -> Tensor:
        """The batch `x` (B, 3, S, S) uint8 after what its samples left to the device: see `batched_augment.augment`."""
        if not operations.shape[1]:
            return x
        fill = self.rand_augment.fill if self.rand_augment else (0, 0, 0)
        return augment(x, operations, values, fill, self.interpolation)

    def sample(self, image: Image.Image | Tensor, rng: np.random.Generator) -> Sample:
        """The training image made of an RGB image, given as PIL's or as (3, H, W) uint8."""
        picture: Picture = image
        if self.fast and isinstance(image, Image.Image):
            picture = to_pixels(image)
        picture, view = self._cut(picture, rng)
        drawn = self.rand_augment.draw(rng) if self.rand_augment else []
        changes = color_changes(self.jitter, rng) if self.jitter else []
        later = []
        if self.on_device:
            later = self.rand_augment.coded(drawn, self.size) if self.rand_augment else coded(changes)
        elif drawn or changes:
            picture = picture if isinstance(picture, Image.Image) else to_image(picture)
            picture = self.rand_augment.apply(picture, drawn) if self.rand_augment else color_jitter(picture, changes)
        if isinstance(picture, Image.Image):
            pixels = to_tensor(picture)
        else:
            pixels = picture if picture.is_contiguous() else planar(picture.permute(1, 2, 0).numpy())
        return Sample(pixels, view, self.erase_box(rng), later)

    def draws(self, rng: np.random.Generator) -> Sample:
        """What `sample` draws for an image of the size that is wanted, without its pixels, all left to the device; not
        for augment="rrc", which resizes."""
        top, left = (0, 0) if self.augment == "none" else pad_offset(rng)
        flip = self._flips(rng)
        later = []
        if self.rand_augment:
            later = self.rand_augment.coded(self.rand_augment.draw(rng), self.size)
        elif self.jitter:
            later = coded(color_changes(self.jitter, rng))
        return Sample(torch.empty(0, dtype=torch.uint8), None, self.erase_box(rng), later, (top, left, int(flip)))

    def _flips(self, rng: np.random.Generator) -> bool:
        return self.augment in ("rrc", "pad-crop-flip") and rng.random() < 0.5

    def _cut(self, image: Picture, rng: np.random.Generator) -> tuple[Picture, View | None]:
        """The S x S pixels of the image that are seen, and which those are."""
        width, height = size_of(image)
        if self.augment == "rrc":
            left, top, w, h = random_resized_crop(width, height, rng, self.crop_scale)
            image = self._resized(cut(image, left, top, w, h), self.size, self.size)
        else:
            (left, top, w, h), (width, height) = self.fit.box(width, height)
            if size_of(image) != (self.size, self.size):
                image = cut(self._resized(image, width, height), left, top, w, h)
            if self.augment != "none":
                image = pad_crop(image, *pad_offset(rng))
        flip = self._flips(rng)
        if flip:
            image = ImageOps.mirror(image) if isinstance(image, Image.Image) else image.flip(-1)
        if self.rand_augment or self.augment.startswith("pad-crop"):
            return image, None
        return image, View(left / width, top / height, w / width, h / height, flip)

    def _resized(self, image: Picture, width: int, height: int) -> Picture:
        if isinstance(image, Image.Image):
            return image.resize((width, height), self.resampling)
        return decode.resize(image, width, height, self.interpolation)

    def erase_box(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) to erase in this image, all 0 for nothing. It is filled after normalisation, see
        `erasing`."""
        return random_erase_box(self.size, self.size, self.erasing, rng) if self.erasing else (0, 0, 0, 0)
