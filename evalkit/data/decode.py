"""Images for training sooner than by Pillow (decode=fast): the same decoded pixels, resized within 2 grey levels of
Pillow's."""

from io import BytesIO

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from ..errors import EvalkitError
from .images import BadImage, Images, decode
from .peculiarities import size_problem

RESAMPLINGS = ("bilinear", "bicubic")  # that `resize` knows


def check(decoder: str, interpolation: str) -> None:
    """Args:
        decoder: The value of the key `decode`.
        interpolation: How images are resized.

    Raises EvalkitError for settings that do not go together.
    """
    if decoder == "fast" and interpolation not in RESAMPLINGS:
        raise EvalkitError(f"decode=fast has no interpolation={interpolation}; use {RESAMPLINGS[1]}, or decode=exact")


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

    What is no plain JPEG (PNG, CMYK, damaged, larger than Pillow takes) is left to Pillow, and so are its complaints.

    Args:
        data: The bytes of its file.
        id: Its id, for the error.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        small = height * width <= (Image.MAX_IMAGE_PIXELS or height * width) and size_problem((width, height)) is None
        plain = small and colours in ("YCbCr", "Gray", "RGB")
    except ValueError:
        plain = False
    if plain:
        try:
            return torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)
        except ValueError:
            pass  # a damaged file; some of them Pillow can read
    return to_pixels(as_image(data, id))


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image as uint8 (3, H, W), a view of (H, W, 3)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image as uint8 (3, H, W), contiguous."""
    return torch.from_numpy(np.stack(cv2.split(np.asarray(image))))


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
