"""A training set whole in memory, decoded once: for the processes of a machine to share, or on the device."""

import mmap
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import fingerprint
from ..errors import EvalkitError
from ..progress import progress
from ..runtime import available_memory, gather_objects, rank
from . import decode
from .crops import Picture, crop_batch
from .images import ArrayImages, Images, Subset
from .transforms import TrainTransform

LOOKED_AT = 64  # images that tell how large all of them are
SHARE = 0.8  # of the memory that is free, which a set may take
PLACE = 24  # bytes that say where an image lies
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
    """A set whose decoded pixels lie in memory once per machine: each training process there decodes its share into a
    file without a name, which the others map and data workers inherit. It is gone when the last of them ends, however
    that ends.

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
        if not hasattr(os, "memfd_create"):
            raise EvalkitError("cache=memory needs Linux; use cache=none")
        super().__init__(images.name, images.ids, images.labels, images.classes)
        self.fast = transform.fast
        look = fingerprint.sample(len(images), LOOKED_AT)
        mean = sum(pixels_of(images, transform, i).nbytes for i in look) / len(look)
        everyone = gather_objects((this_machine(), available_memory()))
        here = [process for process, (machine, _) in enumerate(everyone) if machine == everyone[rank()][0]]
        known = [free for _, free in everyone if free is not None]
        check_room("memory", mean * len(images), SHARE * min(known) if known else None)
        file = os.memfd_create("images")
        rows, error = range(here.index(rank()), len(images), len(here)), None
        try:
            fill(file, images, transform, rows, threads)
        except EvalkitError as e:
            error = e
        files = gather_objects((error, os.getpid(), file))
        raise_first(found for found, _, _ in files)
        try:
            self.parts = [mapped(*files[process][1:]) for process in here]  # image i is in part i modulo their number
        except OSError as e:
            error = EvalkitError(f"cache=memory: the images of another process are out of reach ({e}); use cache=none")
        raise_first(gather_objects(error))  # also, all have it open by now
        os.close(file)

    def picture(self, i: int) -> Picture:
        """Image i as the transform has decoded it: Pillow's, or (3, H, W) uint8 with decode=fast."""
        k, part = divmod(i, len(self.parts))
        first, height, width = self.parts[part][PLACE * k : PLACE * (k + 1)].view(np.int64).tolist()
        pixels = self.parts[part][first : first + 3 * height * width].reshape(height, width, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1) if self.fast else Image.fromarray(pixels)

    def read(self, i: int) -> Image.Image:
        picture = self.picture(i)
        return picture if isinstance(picture, Image.Image) else decode.to_image(picture)

    def __str__(self) -> str:
        by = f", shared by {len(self.parts)} processes" if len(self.parts) > 1 else ""
        return f"{len(self):,} images in memory, {sum(part.nbytes for part in self.parts) / 2**20:,.0f} MiB{by}"


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


def fill(file: int, images: Images, transform: TrainTransform, rows: range, threads: int) -> None:
    """Write the places of some images (first byte, height and width of each, int64), then their pixels, (H, W, 3).

    Args:
        file: Descriptor of an empty file.
        images: The set.
        transform: Decodes the images.
        rows: Positions of these images.
        threads: That decode.

    Raises BadImage.
    """
    places = np.zeros((len(rows), 3), np.int64)
    end = places.nbytes
    with ThreadPoolExecutor(max(1, threads)) as pool, progress("decoding", len(rows)) as advance:
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            for k, pixels in enumerate(pool.map(lambda i: pixels_of(images, transform, i), some), start):
                os.pwrite(file, np.ascontiguousarray(pixels).data, end)
                places[k] = end, *pixels.shape[:2]
                end += pixels.nbytes
            advance(len(some))
    os.pwrite(file, places.data, 0)
    os.ftruncate(file, max(1, end))  # an empty file could not be mapped


def mapped(process: int, file: int) -> np.ndarray:
    """The bytes of a process' file: shared, and copied where somebody writes, so that no other sees it. Raises OSError.

    Args:
        process: Its number.
        file: The descriptor there.
    """
    own = os.open(f"/proc/{process}/fd/{file}", os.O_RDONLY)
    try:
        return np.frombuffer(mmap.mmap(own, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE), np.uint8)
    finally:
        os.close(own)


def this_machine() -> tuple[str, str]:
    """What processes have in common that see one another's files: the machine since it was started, and its part."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), os.readlink("/proc/self/ns/pid")


def raise_first(errors: Iterable[EvalkitError | None]) -> None:
    """Raise what failed on any process, on each of them: none waits for another that has ended."""
    for error in errors:
        if error is not None:
            raise error


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
