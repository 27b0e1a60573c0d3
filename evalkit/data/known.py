"""Published data sets by name, read as their authors distribute them: what each holds when it is whole, and its
reader."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import EvalkitError, unknown
from .archives import cars, flowers, food101, pets
from .cifar import cifar
from .images import Images
from .listed import aircraft, cub, inaturalist, places205, tiny_imagenet


@dataclass(frozen=True)
class Known:
    """A published data set.

    Args:
        title: As its authors call it.
        classes: How many.
        splits: Part -> its images in all, and of each class where those are as many.
        read: (folder, part) -> its images.
        val: The part that "val" stands for, as in commands that ask for no other.
        parts: The part that published transfers train on, and the one that they measure.
        per_class: Whether they print the mean accuracy of the classes; else top-1. Sources of both: Kornblith et al.,
            "Do Better ImageNet Models Transfer Better?", CVPR 2019, Table 1; of sets that are not there the papers of
            the sets.
    """

    title: str
    classes: int
    splits: dict[str, tuple[int, int | None]]
    read: Callable[[str | Path, str], Images]
    val: str = "val"
    parts: tuple[str, str] = ("train", "val")
    per_class: bool = False


KNOWN: dict[str, Known] = {
    "cifar10": Known(
        "CIFAR-10",
        10,
        {"train": (50_000, 5000), "test": (10_000, 1000)},
        partial(cifar, 10),
        val="test",
        parts=("train", "test"),
    ),
    "cifar100": Known(
        "CIFAR-100",
        100,
        {"train": (50_000, 500), "test": (10_000, 100)},
        partial(cifar, 100),
        val="test",
        parts=("train", "test"),
    ),
    "tiny-imagenet": Known("Tiny-ImageNet", 200, {"train": (100_000, 500), "val": (10_000, 50)}, tiny_imagenet),
    "cub": Known(
        "CUB-200-2011",
        200,
        {"train": (5994, None), "test": (5794, None)},
        cub,
        val="test",
        parts=("train", "test"),
    ),
    "aircraft": Known(
        "FGVC-Aircraft",
        100,
        {"train": (3334, None), "val": (3333, None), "trainval": (6667, None), "test": (3333, None)},
        aircraft,
        parts=("trainval", "test"),
        per_class=True,
    ),
    "cars": Known(
        "Stanford Cars",
        196,
        {"train": (8144, None), "test": (8041, None)},
        cars,
        val="test",
        parts=("train", "test"),
    ),
    "flowers": Known(
        "Oxford Flowers-102",
        102,
        {"train": (1020, 10), "val": (1020, 10), "trainval": (2040, 20), "test": (6149, None)},
        flowers,
        parts=("trainval", "test"),
        per_class=True,
    ),
    "pets": Known(
        "Oxford-IIIT Pets",
        37,
        {"trainval": (3680, None), "test": (3669, None)},
        pets,
        val="test",
        parts=("trainval", "test"),
        per_class=True,
    ),
    "food101": Known(
        "Food-101",
        101,
        {"train": (75_750, 750), "test": (25_250, 250)},
        food101,
        val="test",
        parts=("train", "test"),
    ),
    "inat2017": Known(
        "iNaturalist 2017", 5089, {"train": (579_184, None), "val": (95_986, None)}, partial(inaturalist, 2017)
    ),
    "inat2018": Known(
        "iNaturalist 2018", 8142, {"train": (437_513, None), "val": (24_426, None)}, partial(inaturalist, 2018)
    ),
    "places205": Known("Places205", 205, {"train": (2_448_873, None), "val": (20_500, 100)}, places205),
}


def open_known(name: str, split: str, root: str | Path | None) -> Images:
    """The images of a part of a published set below `root`. `whole` of the result says which they are, where they are
    all of it; else a remark says what is not as published.

    Args:
        name: Of KNOWN.
        split: One of its parts; "val" is the one it is validated on.
        root: Folder that its archive was unpacked in.

    Raises EvalkitError for another part, and for files that are not there or not in the distributed layout."""
    known = KNOWN[name]
    if root is None:
        raise EvalkitError(f"data '{name}' needs the folder of {known.title}; give data_dir=DIR")
    if not Path(root).is_dir():
        raise EvalkitError(f"no such folder: {root}; give the one that {known.title} was unpacked in as data_dir=DIR")
    part = known.val if split == "val" else split
    if part not in known.splits:
        raise unknown(f"split of {name}", split, known.splits)
    images = known.read(root, part)
    differences = compare(images, known, part)
    if differences:
        images.remarks.append(f"{known.title}, {part}: not the published set: {', '.join(differences)}")
    else:
        images.whole = f"{name}-{part}"
    return images


def size_of(name: str, part: str) -> tuple[int, int] | None:
    """(images, classes) of a part of a published set, as its authors print them; None for other names.

    Args:
        name: Of KNOWN.
        part: Of the set.
    """
    known = KNOWN.get(name)
    size = known and known.splits.get(known.val if part == "val" else part)
    return (size[0], known.classes) if known and size else None


def compare(images: Images, known: Known, part: str) -> list[str]:
    """What differs from the published part, one clause each.

    Args:
        images: What was found.
        known: The published set.
        part: Which part of it.
    """
    total, each = known.splits[part]
    found = []
    if len(images.classes) != known.classes:
        found.append(f"{len(images.classes):,} classes instead of {known.classes:,}")
    if len(images) != total:
        found.append(f"{len(images):,} images instead of {total:,}")
    count = np.bincount(images.labels, minlength=len(images.classes))
    if not found and each is not None and (count != each).any():
        odd = int(np.flatnonzero(count != each)[0])
        found.append(f"{count[odd]:,} images of {images.classes[odd]} instead of {each:,}")
    return found
