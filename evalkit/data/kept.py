"""A training set whole in memory, decoded once: for data workers to share, or on the device."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import fingerprint
from ..errors import EvalkitError
from ..progress import progress
from ..runtime import available_memory
from . import decode
from .crops import Picture, crop_batch
from .images import ArrayImages, Images, Subset
from .transforms import TrainTransform

LOOKED_AT = 64  # images that tell how large all of them are
SHARE = 0.8  # of the memory that is free, which a set may take
BLOCK = 1 << 26  # bytes
TOGETHER = 256  # images that are decoded before they are put away


def keep(images: Images, transform: TrainTransform, cache: str, device: torch.device, threads: int) -> Images:
    """The images that batches are made of: themselves, or what holds them in memory or on the device, with the same
    bits.

    Args:
        images: The training images.
        transform: How they are decoded and augmented.
        cache: The value of the key `cache`.
        device: Where the run trains.
        threads: That decode.

    Raises EvalkitError for a set that does not fit, or that the augmentation does not allow to be kept like that.
    """
    if cache == "memory":
        return KeptImages(images, transform, threads)
    return DeviceImages(images, transform, device, threads) if cache == "device" else images


class KeptImages(Images):
    """A set whose decoded pixels lie in a few large arrays, which forked processes share.

    Args:
        images: The set.
        transform: Decodes the images.
        threads: That decode.
    """

    def __init__(self, images: Images, transform: TrainTransform, threads: int):
        if in_memory(images):
            raise EvalkitError(f"cache=memory has no effect: the images of {images.name} are in memory already")
        if threads and multiprocessing.get_start_method() != "fork":
            raise EvalkitError("cache=memory is shared with data workers by fork alone; give workers=0")
        super().__init__(images.name, images.ids, images.labels, images.classes)
        self.fast = transform.fast
        look = fingerprint.sample(len(images), LOOKED_AT)
        mean = sum(pixels_of(images, transform, i).nbytes for i in look) / len(look)
        free = available_memory()
        check_room("memory", mean * len(images), None if free is None else SHARE * free / local_processes())
        self.blocks = [np.empty(BLOCK, np.uint8)]
        self.places = np.empty((len(images), 4), np.int64)  # block, first byte, height, width
        filled = 0
        with (
            ThreadPoolExecutor(max(1, threads)) as pool,
            progress("decoding", len(images)) as advance,
        ):
            for start in range(0, len(images), TOGETHER):
                rows = range(start, min(start + TOGETHER, len(images)))
                for i, pixels in zip(rows, pool.map(lambda i: pixels_of(images, transform, i), rows)):
                    if filled + pixels.nbytes > len(self.blocks[-1]):
                        self.blocks.append(np.empty(max(BLOCK, pixels.nbytes), np.uint8))
                        filled = 0
                    self.blocks[-1][filled : filled + pixels.nbytes] = pixels.ravel()
                    self.places[i] = len(self.blocks) - 1, filled, *pixels.shape[:2]
                    filled += pixels.nbytes
                advance(len(rows))

    def picture(self, i: int) -> Picture:
        """Image i as the transform has decoded it: Pillow's, or (3, H, W) uint8 with decode=fast."""
        block, first, height, width = self.places[i].tolist()
        pixels = self.blocks[block][first : first + 3 * height * width].reshape(height, width, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1) if self.fast else Image.fromarray(pixels)

    def read(self, i: int) -> Image.Image:
        picture = self.picture(i)
        return picture if isinstance(picture, Image.Image) else decode.to_image(picture)

    def __str__(self) -> str:
        return (
            f"{len(self):,} images in memory, {int((self.places[:, 2] * self.places[:, 3] * 3).sum()) / 2**20:,.0f} MiB"
        )


class DeviceImages(Images):
    """A set on the device, where its images are cropped and mirrored in batch.

    Args:
        images: The set.
        transform: Of augment=none, pad-crop or pad-crop-flip, whose colours are changed on the device too.
        device: Where they lie.
        threads: That decode.
    """

    def __init__(self, images: Images, transform: TrainTransform, device: torch.device, threads: int):
        super().__init__(images.name, images.ids, images.labels, images.classes)
        size = transform.size
        if transform.augment == "rrc":
            raise EvalkitError("cache=device does not go with augment=rrc, which resizes images; use cache=memory")
        if (transform.rand_augment or transform.jitter) and not transform.on_device:
            raise EvalkitError("cache=device augments there: add augment_device=device, or use cache=memory")
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        check_room("the device", 3 * size * size * len(images), None if free is None else SHARE * free)
        self.pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8, device=device)
        with ThreadPoolExecutor(max(1, threads)) as pool, progress("decoding", len(images)) as advance:
            for start in range(0, len(images), TOGETHER):
                rows = range(start, min(start + TOGETHER, len(images)))
                decoded = list(pool.map(lambda i: pixels_of(images, transform, i), rows))
                for i, pixels in zip(rows, decoded):
                    if pixels.shape[:2] != (size, size):
                        raise EvalkitError(
                            f"cache=device wants images of image_size={size}, but {images.ids[i]} has"
                            f" {pixels.shape[1]} x {pixels.shape[0]} pixels; use cache=memory"
                        )
                self.pixels[start : rows.stop] = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
                advance(len(rows))

    def cropped(self, index: Tensor, offsets: Tensor) -> Tensor:
        """(m, 3, S, S) uint8 on the device, as a data worker makes them; nothing waits for it.

        Args:
            index: (m,) positions in the set.
            offsets: (m, 3), see `crops.crop_batch`.
        """
        index, offsets = (t.to(self.pixels.device, non_blocking=True) for t in (index, offsets))
        return crop_batch(self.pixels[index], offsets)

    def read(self, i: int) -> Image.Image:
        return decode.to_image(self.pixels[i].cpu())

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"pixels": None}  # data workers draw, and need no pixels

    def __str__(self) -> str:
        return f"{len(self):,} images on the device, {self.pixels.nbytes / 2**20:,.0f} MiB"


def pixels_of(images: Images, transform: TrainTransform, i: int) -> np.ndarray:
    """Image i as decoded for training, (H, W, 3) uint8. Raises BadImage.

    Args:
        images: The set.
        transform: Decodes the images.
        i: Position of the image.
    """
    data = decode.encoded(images, i)
    picture = images.read(i) if data is None else transform.decoded(data, images.ids[i])
    return np.asarray(picture) if isinstance(picture, Image.Image) else picture.permute(1, 2, 0).numpy()


def in_memory(images: Images) -> bool:
    """Whether the pixels of a set are in memory, as those of embedded sets."""
    return isinstance(images, ArrayImages) or (isinstance(images, Subset) and in_memory(images.images))


def local_processes() -> int:
    """Processes of this run that share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def check_room(where: str, needed: float, room: float | None) -> None:
    """Raise EvalkitError where a set does not fit.

    Args:
        where: Where it is to lie, as in the key `cache`.
        needed: Bytes that it takes.
        room: Bytes that it may take; None: not known.
    """
    if room is not None and needed > room:
        raise EvalkitError(
            f"the decoded training images take about {needed / 2**30:.1f} GiB, and {where} has {room / 2**30:.1f} GiB"
            " for them; use cache=none, or make them smaller with evalkit pack --short-side N"
        )
