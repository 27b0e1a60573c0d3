"""Fine-grained sets that transfers are measured on, each as its authors distribute it: Stanford Cars, Oxford
Flowers-102, Oxford-IIIT Pets, Food-101."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EvalkitError
from .folders import FolderImages
from .listed import fields_of, lines_of, listed, number_of, one_of, unpacked

AGAIN = "unpack the archive again"


def cars(root: str | Path, split: str) -> FolderImages:
    """Stanford Cars: devkit/cars_meta.mat, devkit/cars_train_annos.mat with cars_train/, and
    cars_test_annos_withlabels.mat, beside cars_test/ or in devkit/.

    Args:
        root: Folder that the archives were unpacked in, or its parent.
        split: "train" or "test".
    """
    root = unpacked(root, ("stanford_cars",), "devkit/cars_meta.mat", "Stanford Cars")
    devkit = root / "devkit"
    path = devkit / "cars_train_annos.mat"
    if split == "test":  # those of the devkit have no classes
        name = "cars_test_annos_withlabels.mat"
        path = root / name if (root / name).is_file() else devkit / name
    names = [str(name) for name in matlab(devkit / "cars_meta.mat", "class_names").tolist()]
    table = matlab(path, "annotations")
    if table.dtype.names is None or not {"fname", "class"} <= set(table.dtype.names):
        raise EvalkitError(f"{path}: its annotations have no fname and class; {AGAIN}")
    rows = [(str(row["fname"]), place(row["class"], len(names), path)) for row in table]
    return listed("cars", root / f"cars_{split}", rows, names, path)


def flowers(root: str | Path, split: str) -> FolderImages:
    """Oxford Flowers-102: jpg/image_NNNNN.jpg, imagelabels.mat with the class of each, and setid.mat with the numbers
    of the images of each part. The archive names no class: they are 1 to 102.

    Args:
        root: Folder that the archives were unpacked in, or its parent.
        split: "train", "val", "test", or "trainval", both of the first.
    """
    root = unpacked(root, ("flowers-102",), "setid.mat", "Oxford Flowers-102")
    keys = {"train": ("trnid",), "val": ("valid",), "test": ("tstid",), "trainval": ("trnid", "valid")}[split]
    labels, path = matlab(root / "imagelabels.mat", "labels"), root / "setid.mat"
    count = max(place(label, len(labels), root / "imagelabels.mat") for label in labels) + 1
    rows = []
    for number in (number for key in keys for number in matlab(path, key)):
        image = place(number, len(labels), path)
        rows.append((f"image_{image + 1:05d}.jpg", int(labels[image]) - 1))
    return listed("flowers", root / "jpg", rows, [str(k) for k in range(1, count + 1)], path)


def pets(root: str | Path, split: str) -> FolderImages:
    """Oxford-IIIT Pets: images/NAME_N.jpg and annotations/trainval.txt and test.txt, lines of an image, its class, its
    species and its breed.

    Args:
        root: Folder that both archives were unpacked in, or its parent.
        split: "trainval" or "test".
    """
    root = unpacked(root, ("oxford-iiit-pet",), "annotations/trainval.txt", "Oxford-IIIT Pets")
    path = root / "annotations" / f"{split}.txt"
    of: dict[int, str] = {}
    found = []
    for line in lines_of(path):
        name, rest = fields_of(line, None, 2, path)
        label, breed = number_of(rest.split()[0], path), name.rpartition("_")[0]
        if of.setdefault(label, breed) != breed:
            raise EvalkitError(f"{path}: class {label} is {of[label]} and {breed}; {AGAIN}")
        found.append((f"{name}.jpg", label - 1))
    if sorted(of) != list(range(1, len(of) + 1)):
        raise EvalkitError(f"{path}: its class numbers are not 1 to {len(of)}; {AGAIN}")
    return listed("pets", root / "images", found, [of[k] for k in sorted(of)], path)


def food101(root: str | Path, split: str) -> FolderImages:
    """Food-101: images/CLASS/NUMBER.jpg, meta/classes.txt, and meta/train.txt and test.txt, lines of CLASS/NUMBER.

    Args:
        root: Folder that the archive unpacks to, or its parent.
        split: "train" or "test".
    """
    root = unpacked(root, ("food-101",), "meta/classes.txt", "Food-101")
    names, path = lines_of(root / "meta" / "classes.txt"), root / "meta" / f"{split}.txt"
    position = {name.strip(): i for i, name in enumerate(names)}
    rows = [(f"{name}.jpg", position[one_of(name.partition("/")[0], position, path)]) for name in lines_of(path)]
    return listed("food101", root / "images", rows, list(position), path)


# ---- files of MATLAB


def matlab(path: Path, name: str) -> np.ndarray:
    """A variable of a .mat file, (N,). Raises EvalkitError for a file that is not there, is none, or lacks it.

    Args:
        path: The file.
        name: Of the variable.
    """
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            found = np.atleast_1d(loadmat(file, squeeze_me=True, variable_names=[name])[name])
        if found.ndim != 1:
            raise ValueError(f"{name} has the shape {found.shape}")
        return found
    except Exception as e:  # damaged files fail in many ways
        reason = e.strerror if isinstance(e, OSError) else (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise EvalkitError(f"cannot read {name} of {path}: {reason}; {AGAIN}") from e


def place(number: Any, of: int, path: Path) -> int:
    """A number from 1 on as a place from 0 on. Raises EvalkitError for one that is none of `of`.

    Args:
        number: As the file has it.
        of: How many there are.
        path: The file, for errors.
    """
    try:
        whole = int(number)
        assert whole == number and 1 <= whole <= of
    except (TypeError, ValueError, OverflowError, AssertionError) as e:
        raise EvalkitError(f"{path}: {str(number)[:40]!r} should be a number from 1 to {of}; {AGAIN}") from e
    return whole - 1
