"""Data sets that come with packages: handwritten digits, the same over photographs, and Fashion-MNIST."""

import functools
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..arrays import unpacked
from ..errors import EvalkitError, unknown
from ..runtime import derive_rng
from .images import ArrayImages

#: Side of an embedded image in pixels, unless another one is asked for.
SIZE = 32
MAX_IDX = 64 << 20  # bytes of an unpacked idx file; the largest of Fashion-MNIST holds 47 million
SPLITS = ("train", "val")
DIGITS = [str(d) for d in range(10)]
PHOTO_IMAGES = {"train": 4800, "val": 1000}
FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


def digits(split: str, size: int = SIZE) -> ArrayImages:
    """The 1,797 8 x 8 digits of scikit-learn, enlarged, as RGB; a fixed stratified quarter of them is "val".

    Args:
        split: train or val.
        size: Pixels per side.
    """
    strokes, labels = source_digits()
    rows = digit_rows(split)
    grey = np.stack([_enlarge(strokes[i], size) for i in rows])
    ids, pixels = [f"{split}/{i:04d}" for i in rows], np.repeat(grey[..., None], 3, axis=3)
    return ArrayImages("digits", ids, labels[rows], DIGITS, pixels, demonstration=True)


def digits_photo(split: str, size: int = SIZE) -> ArrayImages:
    """Digits over photographs: 4,800 ("train") and 1,000 ("val") scenes with one digit each; the two splits share no
    digit. The foreground is known.

    Args:
        split: train or val.
        size: Pixels per side.
    """
    strokes, labels = source_digits()
    rng = derive_rng("digits-photo", split)
    rows = repeat_shuffled(digit_rows(split), PHOTO_IMAGES[split], rng)
    pixels, foreground = compose(strokes[rows], rng, size)
    ids = [f"{split}/{i:05d}" for i in range(len(rows))]
    return ArrayImages("digits-photo", ids, labels[rows], DIGITS, pixels, foreground, demonstration=True)


def fashion_mnist(split: str, root: str | Path | None = None) -> ArrayImages:
    """Fashion-MNIST (Xiao et al., 2017) from its four idx.gz files, padded from 28 to 32 pixels, as RGB; the published
    test images are "val".

    Args:
        split: train or val.
        root: The folder of the four files; None: where Debian's package puts them.
    """
    folder = FASHION_FOLDER if root is None else Path(root)
    prefix = {"train": "train", "val": "t10k"}[check_split(split)]
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or labels.max(initial=0) >= len(FASHION_CLASSES):
        raise EvalkitError(
            f"{folder} does not hold Fashion-MNIST: images {images.shape}, labels {labels.shape}; install"
            " dataset-fashion-mnist again"
        )
    pixels = np.repeat(np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None], 3, axis=3)
    return ArrayImages(
        "fashion-mnist", [f"{split}/{i:05d}" for i in range(len(images))], labels, FASHION_CLASSES, pixels
    )


# ---- digits and how a scene is made of them


@functools.cache
def source_digits() -> tuple[np.ndarray, np.ndarray]:
    """(strokes (1797, 8, 8) float64 from 0 to 16, labels (1797,) int64) of scikit-learn's copy of the UCI optical
    digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target.astype(np.int64)


@functools.cache
def photos() -> dict[str, Image.Image]:
    """The two photographs that scikit-learn brings, by name: china and flower."""
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    return {Path(name).stem: Image.fromarray(photo) for name, photo in zip(bunch.filenames, bunch.images)}


def check_split(split: str, options: tuple[str, ...] = SPLITS) -> str:
    """The split itself; raises EvalkitError where it is none.

    Args:
        split: What was given.
        options: The splits that there are.
    """
    if split not in options:
        raise unknown("split", split, options)
    return split


def digit_rows(split: str) -> np.ndarray:
    """Positions of the source digits of a split: of each class a quarter is "val", the rest "train"."""
    labels, rows = source_digits()[1], []
    for digit in range(10):
        shuffled = derive_rng("digits", "split", digit).permutation(np.flatnonzero(labels == digit))
        held_out = round(len(shuffled) / 4)
        rows.append(shuffled[held_out:] if check_split(split) == "train" else shuffled[:held_out])
    return np.sort(np.concatenate(rows))


def repeat_shuffled(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Entries of a list: each comes once in random order before any comes again.

    Args:
        rows: What there is.
        n: How many entries are wanted.
        rng: Where the draws come from.
    """
    return np.concatenate([rng.permutation(rows) for _ in range(math.ceil(n / len(rows)))])[:n]


def compose(strokes: np.ndarray, rng: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Scenes of digits: pixels (N, size, size, 3) uint8 and foreground (N, size, size) bool.

    Each is painted in one bright colour, at random scale and place, over a random crop of a photograph dimmed to
    0.2-0.5 of its brightness. All draws are relative to the side, so that a larger `size` shows the same scenes in more
    detail. Foreground is every pixel the strokes cover, however faintly.

    Args:
        strokes: (N, 8, 8) from 0 to 16.
        rng: Where the draws come from.
        size: Pixels per side.
    """
    n, pictures = len(strokes), list(photos().values())
    which = rng.integers(len(pictures), size=n)
    crop = rng.uniform(32, 160, n)
    corner = rng.random((n, 2))
    brightness = rng.uniform(0.2, 0.5, n)
    scale = rng.uniform(0.8, 1.0, n)
    place = rng.random((n, 2))
    colour = rng.uniform(0.6, 1.0, (n, 3))
    colour = 255 * colour / colour.max(axis=1, keepdims=True)
    pixels = np.empty((n, size, size, 3), np.uint8)
    foreground = np.zeros((n, size, size), bool)
    for i in range(n):
        photo = pictures[which[i]]
        left, top = corner[i] * (np.array(photo.size) - crop[i])
        background = photo.resize(
            (size, size), Image.Resampling.BILINEAR, box=(left, top, left + crop[i], top + crop[i])
        )
        side = round(scale[i] * size)
        x, y = (place[i] * (size - side + 1)).astype(int)
        opacity = np.zeros((size, size, 1))
        opacity[y : y + side, x : x + side, 0] = ink(strokes[i], side)
        pixels[i] = np.round(np.asarray(background) * brightness[i] * (1 - opacity) + colour[i] * opacity)
        foreground[i] = opacity[..., 0] > 0
    return pixels, foreground


def ink(strokes: np.ndarray, side: int) -> np.ndarray:
    """Opacity (side, side) in [0, 1] of strokes.

    Args:
        strokes: (8, 8) from 0 to 16.
        side: Pixels per side of the result.
    """
    # steeper edges than those of the enlarged 8 x 8 strokes, which are little but edge
    return np.clip(_enlarge(strokes, side) / 170 - 0.25, 0, 1)


def _enlarge(strokes: np.ndarray, side: int) -> np.ndarray:
    """(8, 8) strokes from 0 to 16 as (side, side) uint8."""
    return np.asarray(Image.fromarray(np.uint8(strokes * (255 / 16))).resize((side, side), Image.Resampling.BICUBIC))


# ---- idx files


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in a gzipped idx file."""
    try:
        data = unpacked(path, MAX_IDX)
    except FileNotFoundError:
        raise EvalkitError(
            f"{path} is not there; run `apt install dataset-fashion-mnist`, or give the folder of its idx.gz files as"
            " data_dir=DIR"
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise EvalkitError(f"cannot read {path}: {e}; install dataset-fashion-mnist again") from e
    start = 4 + 4 * dimensions
    magic, *shape = np.frombuffer(data[:start].ljust(start, b"\0"), ">i4").tolist()
    if magic != 0x0800 + dimensions or start + math.prod(shape) != len(data):
        raise EvalkitError(
            f"{path} is not an idx file of {dimensions}-dimensional bytes; install dataset-fashion-mnist again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
