"""Images for training sooner than by Pillow (decode=fast): the same decoded pixels, resized within 2 grey levels of
Pillow's."""

from io import BytesIO
from struct import Struct

import cv2
import numpy as np
import torch
import torchvision  # registers torch.ops.image
from PIL import Image
from torch import Tensor

from ..errors import EvalkitError
from .images import BadImage, Images, decode
from .peculiarities import MAX_PIXELS, size_problem

RESAMPLINGS = ("bilinear", "bicubic")  # that `resize` knows
FRAME = Struct(">BBHBHHB")  # how a JPEG's frame header begins: 0xFF, marker, length, bits, height, width, colours
FRAMES = {0xC0, 0xC1, 0xC2}  # its markers in what is common: Huffman-coded, sequential or progressive
SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # markers that may come before: tables, comments, EXIF
RGB = 3  # torchvision.io.ImageReadMode.RGB


def check(decoder: str, interpolation: str) -> None:
    """Args:
        decoder: The value of the key `decode`.
        interpolation: How images are resized.

    Raises EvalkitError for settings that do not go together.
    """
    if decoder == "fast" and interpolation not in RESAMPLINGS:
        raise EvalkitError(f"decode=fast has no interpolation={interpolation}; use {RESAMPLINGS[1]}, or decode=exact")
    if decoder == "fast" and not hasattr(torch.ops.image, "decode_jpeg"):
        raise EvalkitError(
            f"decode=fast needs the JPEG decoder of torchvision, which torchvision {torchvision.__version__} does not"
            " have; use decode=exact, or a version that has it"
        )


def encoded(images: Images, i: int) -> bytes | None:
    """The bytes of the file of image i, None where the set holds no files. Raises BadImage.

    Args:
        images: The set.
        i: Position of the image.
    """
    try:
        return images.encoded(i)
    except OSError as e:
        raise BadImage(images.ids[i], e.strerror or str(e)) from e


def as_image(data: bytes, id: str) -> Image.Image:
    """An image as RGB, by Pillow (decode=exact). Raises BadImage.

    Args:
        data: The bytes of its file.
        id: Its id, for the error.
    """
    return decode(BytesIO(data), id)


def as_pixels(data: bytes, id: str) -> Tensor:
    """An image as RGB, (3, H, W) uint8 (decode=fast): as Pillow decodes it, bit for bit. Raises BadImage.

    What is no plain JPEG (PNG, CMYK, larger than Pillow takes) is left to Pillow, and so is what is cut short or too
    damaged to decode, with its complaints. Of smaller damage, which Pillow decodes without a word, libjpeg tells on
    standard error.

    Args:
        data: The bytes of its file.
        id: Its id, for the error.
    """
    size = jpeg_size(data)
    if size and size[0] * size[1] <= (Image.MAX_IMAGE_PIXELS or MAX_PIXELS) and size_problem(size) is None:
        try:
            # A copy of the file, as torch warns of memory that must not be written. Not torchvision.io.decode_jpeg,
            # which since torchvision 0.29 prepares a warning each time: that it is to move into another package.
            file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return torch.ops.image.decode_jpeg(file, RGB)
        except RuntimeError:
            pass  # a damaged file; some of them Pillow can read
    return to_pixels(as_image(data, id))


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from the header of a JPEG that libjpeg decodes to what Pillow makes of it: of 8 bits and one or
    three colours; None for every other file.

    Args:
        data: The bytes of the file.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and at + FRAME.size <= len(data):
        mark, kind, length, bits, height, width, colours = FRAME.unpack_from(data, at)
        if mark == 0xFF and kind in FRAMES:
            return (width, height) if bits == 8 and colours in (1, 3) else None
        if mark != 0xFF or kind not in SKIPPED:
            return None
        at += 2 + length
    return None


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image as uint8 (3, H, W), a view of (H, W, 3)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image as uint8 (3, H, W), contiguous."""
    return planar(np.asarray(image))


def planar(pixels: np.ndarray) -> Tensor:
    """uint8 (3, H, W), contiguous, of (H, W, 3): sooner than torch and NumPy copy it."""
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)


def to_image(pixels: Tensor) -> Image.Image:
    """The RGB image of uint8 (3, H, W)."""
    planes = pixels.numpy()
    return Image.fromarray(cv2.merge(list(planes)) if pixels.is_contiguous() else planes.transpose(1, 2, 0))


def resize(pixels: Tensor, width: int, height: int, interpolation: str) -> Tensor:
    """(3, height, width) uint8, antialiased as Pillow does it.

    Args:
        pixels: (3, H, W) uint8.
        width: Columns of the result.
        height: Rows of the result.
        interpolation: "bilinear" or "bicubic".
    """
    if pixels.shape[1:] == (height, width):
        return pixels
    whole = pixels[None].contiguous(memory_format=torch.channels_last)  # for which torch has a kernel of its own
    return torch.nn.functional.interpolate(whole, (height, width), mode=interpolation, antialias=True)[0]
