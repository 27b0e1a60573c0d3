"""Embedded stand-ins for ImageNet-A and ImageNet-O, made the way the originals were (Hendrycks et al., Natural
Adversarial Examples, CVPR 2021).

A fixed classifier chose those images: of new labelled pictures the ones it gets wrong, and of pictures of other things
the ones it confidently takes for one of the classes. Here the classifier is logistic regression on gradient histograms,
the pictures are scenes like those of `digits-photo`. They demonstrate the two protocols on real strokes and
photographs. They are not benchmarks: nothing measured on them says anything about ImageNet-A or -O.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..runtime import derive_rng
from .embedded import DIGITS, SIZE, check_split, compose, digit_rows, digits_photo, repeat_shuffled, source_digits
from .images import ArrayImages

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Candidates = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]

IMAGES = 600  # of each set
ROUND = 2000  # candidates judged at a time
CONFIDENT = 0.7  # the classifier's probability from which a letter counts as taken for a digit
LETTERS = "ACEFHKMNPRUVWXaefhkmnpruwx"  # none that a hand could mean as a digit
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)


def digits_a(split: str = "val", size: int = SIZE) -> ArrayImages:
    """600 scenes of digits from the "val" split of `digits-photo` that the fixed classifier gets wrong; labels are the
    true digits.

    Args:
        split: Must be val.
        size: Pixels per side.
    """
    check_split(split, ("val",))
    strokes, labels = source_digits()

    def candidates(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows = repeat_shuffled(digit_rows("val"), ROUND, rng)
        return strokes[rows], labels[rows]

    return _select("digits-a", size, candidates, lambda probabilities, true: probabilities.argmax(axis=1) != true)


def digits_o(split: str = "val", size: int = SIZE) -> ArrayImages:
    """600 scenes of a letter, none of the ten classes, that the fixed classifier takes for a digit with probability
    above 0.7; labels are -1.

    Args:
        split: Must be val.
        size: Pixels per side.
    """
    check_split(split, ("val",))
    return _select(
        "digits-o",
        size,
        lambda rng: (_letters(ROUND, rng), np.full(ROUND, -1)),
        lambda probabilities, _: probabilities.max(axis=1) > CONFIDENT,
    )


def _select(
    name: str, size: int, candidates: Candidates, keep: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> ArrayImages:
    """The first 600 scenes of `candidates` (rng -> strokes, labels) for which `keep` (class probabilities, labels) says
    so."""
    ids, labels, pixels = [], [], []
    for number in itertools.count():
        strokes, true = candidates(derive_rng(name, "strokes", number))
        judged = compose(strokes, derive_rng(name, "scenes", number))[0]
        shown = judged if size == SIZE else compose(strokes, derive_rng(name, "scenes", number), size)[0]
        chosen = np.flatnonzero(keep(_probabilities(judged), true))
        ids += [f"val/{number * ROUND + i:05d}" for i in chosen]
        labels += true[chosen].tolist()
        pixels.append(shown[chosen])
        if len(ids) >= IMAGES:
            kept = np.concatenate(pixels)[:IMAGES]
            return ArrayImages(name, ids[:IMAGES], labels[:IMAGES], DIGITS, kept, demonstration=True)
    raise AssertionError("there is no last number")


# ---- the fixed classifier


def _probabilities(pixels: np.ndarray) -> np.ndarray:
    """(N, 10) float64 class probabilities of the fixed classifier for (N, 32, 32, 3) uint8."""
    return _classifier().predict_proba(gradient_histograms(pixels))


@functools.cache
def _classifier() -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    train, once = digits_photo("train"), len(digit_rows("train"))  # its first scenes show every training digit once
    return LogisticRegression(max_iter=2000).fit(gradient_histograms(train.pixels[:once]), train.labels[:once])


def gradient_histograms(pixels: np.ndarray, cell: int = 8, directions: int = 4) -> np.ndarray:
    """(N, (S / cell)^2 * directions): gradient strength per cell and direction, root of its part of the image's norm.

    Args:
        pixels: (N, S, S, 3) uint8.
        cell: Pixels per side of a cell.
        directions: How many directions are told apart.
    """
    grey = pixels.max(axis=3).astype(np.float64)
    n, side, _ = grey.shape
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    right[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    direction = np.floor((np.arctan2(down, right) / (2 * np.pi) + 0.5) * directions).astype(np.int64) % directions
    at, cells = np.arange(side) // cell, side // cell
    place = (np.arange(n)[:, None, None] * cells + at[:, None]) * cells + at
    bins = np.bincount(
        (place * directions + direction).ravel(), np.hypot(down, right).ravel(), minlength=n * cells**2 * directions
    )
    bins = bins.reshape(n, -1)
    return np.sqrt(bins / np.maximum(np.linalg.norm(bins, axis=1, keepdims=True), 1e-12))


# ---- letters


def _letters(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 8, 8) strokes of random letters, fonts and slants, reduced like the optical digits: 32 x 32 bitmaps, ink
    counted in blocks of 4 x 4 pixels."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 40) for name in FONTS]
    letter, font, angle = rng.integers(len(LETTERS), size=n), rng.integers(len(fonts), size=n), rng.uniform(-15, 15, n)
    return np.stack([_letter(LETTERS[letter[i]], fonts[font[i]], angle[i]) for i in range(n)])


def _letter(text: str, font: ImageFont.FreeTypeFont, angle: float) -> np.ndarray:
    canvas = Image.new("L", (80, 80))
    ImageDraw.Draw(canvas).text((40, 40), text, 255, font=font, anchor="mm")
    canvas = canvas.rotate(angle, Image.Resampling.BILINEAR)
    canvas = canvas.crop(canvas.getbbox())
    scale = 32 / max(canvas.size)
    canvas = canvas.resize([max(1, round(side * scale)) for side in canvas.size], Image.Resampling.BILINEAR)
    bitmap = Image.new("L", (32, 32))
    bitmap.paste(canvas, ((32 - canvas.width) // 2, (32 - canvas.height) // 2))
    ink = np.asarray(bitmap) > 127
    return ink.reshape(8, 4, 8, 4).sum(axis=(1, 3)).astype(np.float64)
