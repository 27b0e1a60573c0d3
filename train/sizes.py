"""What a recipe for anybody's data leaves open, settled by the images when a run begins and stored in its config.yaml:
their size, the batch, and the learning rate that goes with it."""

import io
import statistics
from dataclasses import replace
from typing import Any

from PIL import Image

from evalkit import checkpoint, data, fingerprint, models
from evalkit.data.images import BadImage
from evalkit.errors import EvalkitError

from .config import TrainConfig

LOOKED_AT = 512  # images whose sizes are read, evenly spaced over the set
STEP = 32  # pixels: any network here takes multiples of it
STEPS, BATCHES = 20, (8, 128)  # wanted of an epoch; smallest and largest batch
SMALL = 64  # networks that are made for no more than this are given images of up to this size


def settle_sizes(cfg: TrainConfig, images: data.Images) -> TrainConfig:
    """The recipe without null for image_size, batch_size and micro_batch, its learning rates scaled to the batch, with
    a sentence in `picked` for each; the recipe itself where nothing is open.

    Args:
        cfg: The recipe.
        images: The training images.

    Raises EvalkitError where none of the images can be read, and where no network is named.
    """
    if cfg.model is None:
        raise EvalkitError(
            "model is null, which means the network of a checkpoint: give init=CKPT, a run or checkpoint folder, or"
            " model=NAME"
        )
    found: dict[str, Any] = {}
    said: list[str] = []
    if cfg.image_size is None:
        size, why = image_size(cfg, images)
        found["image_size"] = size
        said.append(f"image_size={size}: {why}")
        if size != (own := native_size(cfg)) and takes_one_size(cfg) and "img_size" not in cfg.model_args:
            found["model_args"] = {**cfg.model_args, "img_size": size}
            said.append(f"model_args.img_size={size}: {cfg.model} is made for {own} pixels and takes one size")
        if cfg.augment != "rrc" and cfg.eval_resize is None and cfg.eval_size is None:
            found["eval_resize"] = size
            said.append(
                f"eval_resize={size}: validation sees whole images, as training does with augment={cfg.augment}"
            )
    batch = cfg.batch_size
    if batch is None:
        batch = batch_size(len(images))
        if cfg.micro_batch is not None:
            batch = max(batch // cfg.micro_batch, 1) * cfg.micro_batch
        found["batch_size"] = batch
        said.append(f"batch_size={batch}: {len(images):,} training images, {len(images) // batch:,} steps an epoch")
    if cfg.micro_batch is None:
        found["micro_batch"] = batch
    if cfg.lr_batch is not None:
        share = batch / cfg.lr_batch
        found |= {name: getattr(cfg, name) * share for name in ("lr", "min_lr", "warmup_lr")} | {"lr_batch": None}
        if share != 1:
            said.append(f"lr={found['lr']:g}: {cfg.lr:g} is meant for batches of {cfg.lr_batch}")
    if not found:
        return cfg
    settled = replace(cfg, **found, picked=[*cfg.picked, *said])
    settled.check()
    return settled


def image_size(cfg: TrainConfig, images: data.Images) -> tuple[int, str]:
    """(pixels, why): that of the weights that training starts from, else the images' own in steps of 32, at most what
    the network is made for (64 for one that is made for less).

    Args:
        cfg: The recipe.
        images: The training images.
    """
    native = native_size(cfg)
    if cfg.init is not None:
        return native, f"the size that the weights of init={cfg.init} are for"
    sides = shorter_sides(images)
    median = statistics.median(sides)
    most = max(native, SMALL)
    size = min(max(int(median / STEP + 0.5) * STEP, STEP), most)
    of = f"{len(sides):,} images" if len(sides) == len(images) else f"{len(sides):,} of {len(images):,} images"
    limit = f", {cfg.model} is for up to {most}" if median > most else ""
    return size, f"the shorter side of {of} of {images.name} is {median:g} pixels in the median{limit}"


def batch_size(count: int) -> int:
    """The largest power of two that leaves `STEPS` steps to an epoch of so many images, within `BATCHES`, and never
    more than there are.

    >>> [batch_size(n) for n in (6, 20, 400, 1_000, 100_000)]
    [6, 8, 16, 32, 128]
    """
    least, most = BATCHES
    wanted = max(count // STEPS, 1)
    return min(max(1 << (wanted.bit_length() - 1), least), most, count)


def shorter_sides(images: data.Images) -> list[int]:
    """The shorter side of each of a fixed sample of the images, in pixels; of files the header alone is read. What
    cannot be read is left out. Raises EvalkitError where nothing is left."""
    found = []
    for i in fingerprint.sample(len(images), LOOKED_AT):
        try:
            content = images.encoded(i)
            if content is None:
                found.append(min(images.read(i).size))
            else:
                with Image.open(io.BytesIO(content)) as image:
                    found.append(min(image.size))
        except (BadImage, OSError, ValueError, Image.DecompressionBombError):
            continue
    if not found:
        raise EvalkitError(f"none of the images of {images.name} that were looked at can be read; give image_size=N")
    return found


def native_size(cfg: TrainConfig) -> int:
    """Pixels per side that the recipe's network is made for: where it starts from a run, those of that run."""
    if cfg.init not in (None, "pretrained") and (known := checkpoint.read_meta(cfg.init).get("image_size")):
        return int(known)
    return models.create(cfg.model, **cfg.model_args).input_size[0]


def takes_one_size(cfg: TrainConfig) -> bool:
    """Whether the recipe's network is built for one size of images, as most ViTs are."""
    known = models.create(cfg.model, **cfg.model_args).model.pretrained_cfg or {}
    return bool(known.get("fixed_input_size"))
