"""digits-scenes: several real handwritten digits on real photographs, with exact masks and boxes, in the layouts of
Pascal Context and COCO 2017.

The digits are scikit-learn's copy of the UCI optical digits, the photographs the two that come with scikit-learn. Each
digit is painted in one bright colour over a dimmed crop; one painted later covers what lies below, but never more than
`HIDDEN` of a digit. A pixel belongs to the topmost digit that gives it at least half of its colour. The set
demonstrates segmentation and detection without a download; it is no benchmark.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evalkit import fingerprint
from evalkit.data.embedded import DIGITS, digit_rows, ink, photos, source_digits
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng, parse_json, write_atomic

NAME = "digits-scenes"
VERSION = 1  # raised whenever a scene can look different
FIRST_ID = {"train": 1, "val": 500_001}
HIDDEN = 0.25  # share of a digit's pixels that others may cover
TRIES = 50  # places drawn for a digit before it is left out of a scene that is full
INFO = "scenes.json"
VOC = "VOCdevkit/VOC2010"
COCO = "coco"


@dataclass(frozen=True)
class Scene:
    """An image of digits that overlap.

    Args:
        pixels: (H, W, 3) uint8.
        digits: (n,) int64, what the n digits are, the lowest first.
        masks: (n, H, W) bool, their visible pixels.
        rows: (n,) int64, their places among scikit-learn's digits.
    """

    pixels: np.ndarray
    digits: np.ndarray
    masks: np.ndarray
    rows: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(H, W) uint8: 0 for background, 1 + d for the digit d."""
        return ((1 + self.digits)[:, None, None] * self.masks).sum(axis=0).astype(np.uint8)

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) int64: left, top, width and height in pixels, tight around each mask."""
        across, down = np.asarray(self.masks.any(axis=1)), np.asarray(self.masks.any(axis=2))
        left, top = across.argmax(axis=1), down.argmax(axis=1)
        right, bottom = across.shape[1] - across[:, ::-1].argmax(axis=1), down.shape[1] - down[:, ::-1].argmax(axis=1)
        return np.stack([left, top, right - left, bottom - top], axis=1)


def make_scene(split: str, index: int, *, seed: int = 0, size: int = 96) -> Scene:
    """One scene: up to 6 digits, lying or upright. The splits share no digit.

    Args:
        split: train or val.
        index: Which scene of the split, from 0.
        seed: The seed of all scenes.
        size: Pixels of the short side; the long one is 4/3 of it.
    """
    rng = derive_rng(NAME, VERSION, seed, split, index)
    strokes, labels = source_digits()
    height, width = rng.permutation([size, round(size * 4 / 3)])
    pixels = _background(rng, width, height)
    masks, rows = np.zeros((0, height, width), bool), []
    whole: list[int] = []  # pixels of each digit, hidden ones too
    for row in rng.choice(digit_rows(split), size=rng.integers(2, 7), replace=False):
        colour = rng.uniform(0.6, 1.0, 3)
        for _ in range(TRIES):
            side = round(size * rng.uniform(0.22, 0.5))
            x, y = rng.integers(width - side + 1), rng.integers(height - side + 1)
            opacity = np.zeros((height, width, 1))
            opacity[y : y + side, x : x + side, 0] = ink(strokes[row], side)
            own = opacity[..., 0] >= 0.5
            below = masks & ~own
            if (below.sum(axis=(1, 2)) >= (1 - HIDDEN) * np.array(whole)).all():
                pixels = pixels * (1 - opacity) + 255 * colour / colour.max() * opacity
                masks = np.concatenate([below, own[None]])
                rows.append(row)
                whole.append(own.sum())
                break
    return Scene(np.round(pixels).astype(np.uint8), labels[rows], masks, np.array(rows))


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) float64: a random crop of a photograph, perhaps mirrored, at 0.2 to 0.5 of its brightness."""
    pictures = list(photos().values())
    photo = pictures[rng.integers(len(pictures))]
    zoom = rng.uniform(0.3, 1.0) * min(photo.width / width, photo.height / height)
    left, top = rng.random(2) * (photo.width - zoom * width, photo.height - zoom * height)
    crop = photo.resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, left + zoom * width, top + zoom * height)
    )
    pixels = np.asarray(crop, dtype=np.float64)[:, :: rng.choice([-1, 1])]
    return pixels * rng.uniform(0.2, 0.5)


# ---- on disk


def write_scenes(root: str | Path, *, seed: int = 0, train: int = 240, val: int = 60, size: int = 96) -> dict[str, str]:
    """Write scenes in both layouts, unless they are there already; returns the fingerprint of each split.

    Pascal Context: VOCdevkit/VOC2010/{JPEGImages, SegmentationClassContext, ImageSets/SegmentationContext}, labels 0
    (background) and 1 + digit. COCO: coco/{train2017, val2017, annotations/instances_{train,val}2017.json}, category 1
    + digit, masks run-length encoded. The folder appears whole or not at all.

    Args:
        root: The folder that is made.
        seed: The seed of all scenes.
        train: How many scenes to train on.
        val: How many scenes to validate on.
        size: Pixels of the short side.

    Raises EvalkitError where it holds anything else, ValueError for an empty split.
    """
    root, settings = Path(root), {"version": VERSION, "seed": seed, "train": train, "val": val, "size": size}
    for split in FIRST_ID:
        if settings[split] < 1:
            raise ValueError(f"Expected argument `{split}` to be an integer larger than 0, but got {settings[split]}")
    if (found := _cached(root, settings)) is not None:
        return found
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise EvalkitError(
            f"{root} is not empty and not the {NAME} asked for ({train} + {val}, size {size}, seed {seed}), as they"
            " were made; remove it or choose another folder"
        )
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        fingerprints = {split: _write_split(temporary, split, settings) for split in FIRST_ID}
        _write_json(temporary / INFO, {**settings, "fingerprints": fingerprints, "contents": _contents(temporary)})
        os.replace(temporary, root)  # onto an empty folder or none; another process may have been quicker
    except OSError as e:
        if (found := _cached(root, settings)) is None:
            raise EvalkitError(
                f"cannot write {root}: {e.strerror or e}; free some space or choose another folder"
            ) from e
        return found
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return fingerprints


def _cached(root: Path, settings: dict[str, int]) -> dict[str, str] | None:
    """The fingerprints of the scenes that are there, whole, as they were written and made with these settings."""
    try:
        info = parse_json((root / INFO).read_text(encoding="utf-8"))
        fingerprints = info.pop("fingerprints")
        contents = info.pop("contents", None)  # those of evalkit 0.1.0 do not say it
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    files = [path for split in FIRST_ID for i in range(settings[split]) for path in _paths(root, split, i).values()]
    whole = info == settings and all(path.is_file() for path in files)
    return fingerprints if whole and contents in (None, _contents(root)) else None


def _contents(root: Path) -> str:
    """Of every file of the scenes, as it lies there."""
    files = sorted(path for path in root.rglob("*.*") if path.suffix in (".jpg", ".png", ".json", ".txt"))
    return fingerprint.of_files([str(path) for path in files if path.name != INFO])[1]


def _paths(root: Path, split: str, index: int) -> dict[str, Path]:
    """The files of a scene; in both layouts its number is the name, as COCO does it."""
    stem = f"{FIRST_ID[split] + index:012d}"
    voc = root / VOC
    return {
        "voc": voc / "JPEGImages" / f"{stem}.jpg",
        "labels": voc / "SegmentationClassContext" / f"{stem}.png",
        "coco": root / COCO / f"{split}2017" / f"{stem}.jpg",
    }


def _write_split(root: Path, split: str, settings: dict[str, int]) -> str:
    """All files of a split; the sha256 of its scenes as they were before compression."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    for i in range(settings[split]):
        scene = make_scene(split, i, seed=settings["seed"], size=settings["size"])
        for array in (scene.pixels, scene.masks, scene.digits):
            digest.update(repr(array.shape).encode() + array.tobytes())
        paths, number = _paths(root, split, i), FIRST_ID[split] + i
        photo = Image.fromarray(scene.pixels)
        for name in ("voc", "coco"):
            _save(paths[name], partial(photo.save, format="JPEG", quality=95, subsampling=0))
        _save(paths["labels"], partial(Image.fromarray(scene.labels).save, format="PNG"))
        images.append({"id": number, "file_name": paths["coco"].name, "width": photo.width, "height": photo.height})
        annotations += [
            {"id": 10 * number + j, "image_id": number, **made} for j, made in enumerate(_annotations(scene))
        ]
    stems = [Path(image["file_name"]).stem for image in images]
    listed = root / VOC / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    _save(listed, lambda f: f.write("".join(f"{stem}\n" for stem in stems).encode()))
    categories = [{"id": 1 + i, "name": name, "supercategory": "digit"} for i, name in enumerate(DIGITS)]
    about = {"description": f"{NAME} {split}", "version": str(VERSION)}
    content = {"info": about, "images": images, "annotations": annotations, "categories": categories}
    _write_json(root / COCO / "annotations" / f"instances_{split}2017.json", content)
    return digest.hexdigest()


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    """One COCO object per digit. Run-length encoded, since a polygon has no holes and moves the border by half a
    pixel."""
    from pycocotools import mask as coco_mask

    made = []
    for digit, mask, box in zip(scene.digits, scene.masks, scene.boxes):
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        shape = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
        made.append(
            {
                "category_id": 1 + int(digit),
                "bbox": box.tolist(),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": shape,
            }
        )
    return made


def _save(path: Path, write: Callable[[Any], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        write(f)


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    write_atomic(path, lambda f: f.write(text.encode()))
