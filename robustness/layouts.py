"""Which images a protocol reads: the real folders, checked against what was published, or the embedded stand-ins."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit import data
from evalkit.data.folders import FolderImages, flat_files, flat_folder
from evalkit.data.images import Images, Subset
from evalkit.data.transforms import EvalTransform, TimmTransform
from evalkit.data.val_labels import WNID, read_val_labels
from evalkit.errors import EvalkitError
from evalkit.models import Facts, Loaded
from evalkit.preparation import preparation

from .sets import SETS, wnids

PUBLISHED_SIDE = 224


@dataclass(frozen=True)
class Opened:
    """A data set and how it compares with the published one.

    Args:
        images: The images, with the names of their classes.
        classes: The classes of the protocol, in order.
        matched: Those of them that have a folder.
        complete: Whether no image of the set is missing.
        published: Whether it is the published set, whole.
        notes: What a reader of the numbers should know, one sentence each.
    """

    images: Images
    classes: list[str]
    matched: list[str]
    complete: bool
    published: bool
    notes: list[str]


def choose(kind: str, given: str | None, loaded: Facts, option: str = "--data") -> str:
    """The data of a set: what was given, else what stands in for it where the checkpoint was trained on an embedded set
    or on Fashion-MNIST. Raises EvalkitError, which names the `option` that gives them, otherwise.

    Args:
        kind: The data set, a name in SETS.
        given: The folder or embedded set that the user named; None: nothing.
        loaded: The model; see `stand_ins` of a set.
        option: The option that gives the data, for the error.
    """
    stand_in = given if given is not None else SETS[kind].stand_ins.get(trained_on(loaded) or "")
    if stand_in is None:
        raise no_default(kind, loaded.label, option)
    return stand_in


def no_default(kind: str, label: str, option: str = "--data") -> EvalkitError:
    """The error where nobody named the data and nothing stands in for them.

    Args:
        kind: The data set, a name in SETS.
        label: The model, as a person calls it.
        option: The option that gives the data.
    """
    wanted = SETS[kind]
    why = (
        f"{label} was not trained on {' or '.join(wanted.stand_ins)}, so there is"
        if wanted.stand_ins
        else f"{kind} has"
    )
    return EvalkitError(f"{why} no default data; give the {wanted.title} folder with {option} DIR")


def trained_on(loaded: Facts) -> str | None:
    """The name of the data that a checkpoint was trained on, if it says so."""
    name = (loaded.meta.get("data") or {}).get("name")
    return name if isinstance(name, str) else None


def open_set(
    kind: str,
    spec: str,
    loaded: Facts,
    allow_partial: bool,
    only: Sequence[str] | None = None,
    labels: str | None = None,
) -> Opened:
    """Open an embedded set or a folder of class folders as one of SETS (but imagenet-c).

    For a model of the ImageNet classes the folder must be the published set: only its classes, none missing or empty,
    the published counts; otherwise its class folders must be some of the model's classes. Raises EvalkitError naming
    what is not so.

    Args:
        kind: The data set, a name in SETS.
        spec: A folder, or the name of an embedded set.
        loaded: The model, whose classes the folders must be.
        allow_partial: Whether missing folders and images are accepted.
        only: The classes that are read; None: all.
        labels: A file that tells the classes of images of "val" that lie there without class folders, see
            `evalkit.data.val_labels`.
    """
    own = check_known(loaded)
    if not Path(spec).is_dir():
        if "/" in spec:
            raise EvalkitError(f"no such folder: {spec}")
        if labels is not None:
            raise EvalkitError(f"val_labels belongs to a folder of images; {spec} is an embedded set")
        images = _load(spec, loaded.input_size[0] if spec in data.MADE_AT_ANY_SIZE else None)
        kept = images if only is None else Subset(images, np.flatnonzero(labels_in(images, only) >= 0))
        return Opened(
            kept,
            images.classes,
            images.classes,
            True,
            False,
            [f"{spec} stands in for the published data: a demonstration, not a benchmark"],
        )
    published = is_imagenet(loaded)
    known = wnids(kind) if published and SETS[kind].subset else own
    root = class_root(Path(spec), kind)
    images = _images(kind, root, known, kind if published else Path(spec).name, labels)
    count = np.bincount(images.labels, minlength=len(known))
    filled = [c for c, n in zip(known, count) if n]
    if only is not None:
        images = Subset(images, np.flatnonzero(labels_in(images, only) >= 0))
    if not published:
        classes = filled if only is None else [c for c in filled if c in set(only)]
        return Opened(
            images, classes, classes, True, False, [f"{spec} is a folder of the model's own classes, not a benchmark"]
        )
    classes = sorted(known) if only is None else list(only)
    problems = find_problems(kind, classes, dict(zip(known, count.tolist())))
    if problems and not allow_partial:
        raise EvalkitError(
            f"{root} is not complete: {'; '.join(problems)}. Complete it, or accept it as partial with"
            " allow_partial=true"
        )
    return Opened(
        images,
        classes,
        [c for c in classes if c in set(filled)],
        not problems,
        True,
        [f"{kind} is partial: {p}" for p in problems],
    )


def check_known(loaded: Facts) -> list[str]:
    """The names of the model's classes. Raises EvalkitError where they have none."""
    if loaded.classes is None:
        raise EvalkitError(
            f"the class names of {loaded.label} are not known, so its outputs cannot be matched with folders; name"
            " them in Python: dataclasses.replace(models.load(...), classes=[...])"
        )
    return loaded.classes


def is_imagenet(loaded: Facts) -> bool:
    """Whether the model's classes are ImageNet's, by WordNet id, so that the published sets apply."""
    return {c for s in SETS.values() if s.subset for c in s.wnids()} <= set(loaded.classes or [])


def _images(kind: str, root: Path, known: Sequence[str], name: str, labels: str | None) -> FolderImages:
    """The images below `root`: in folders called as their classes (ImageNetV2: numbered by the sorted classes), or
    without, by a file of labels."""
    flat = (
        kind == "val"
        and not any(entry.is_dir() and not entry.name.startswith(".") for entry in root.iterdir())
        and flat_files(root)
    )
    if labels is not None:
        if not flat:
            raise EvalkitError(
                f"val_labels is for images without class folders, but {root} holds folders; leave val_labels out"
            )
        return flat_folder(root, read_val_labels(labels, known), classes=known, name=name)
    if flat:
        raise EvalkitError(
            f"{root} holds {len(flat)} images but no class folders; name their classes with val_labels=FILE: lines of a"
            " file name and a WordNet id, or the development kit's ILSVRC2012_validation_ground_truth.txt"
        )
    rename = {str(i): c for i, c in enumerate(sorted(known))} if kind == "imagenet-v2" else None
    return data.folder(root, classes=known, name=name, allow_partial=True, rename=rename)


@functools.lru_cache(maxsize=4)  # the stand-ins take seconds to make, and a run evaluates several models
def _load(name: str, size: int | None) -> Images:
    return data.load(name, split="val", size=size)


def class_root(folder: Path, kind: str) -> Path:
    """`folder`, or the one inside it that the archive of `kind` unpacks to. Raises EvalkitError where there are
    several.

    Args:
        folder: What the user named.
        kind: The data set, a name in SETS.
    """
    inside = [folder / name for name in SETS[kind].unpacked or (kind,) if (folder / name).is_dir()]
    if not inside or any(WNID.fullmatch(p.name) for p in folder.iterdir()):
        return folder
    if len(inside) > 1:
        raise EvalkitError(
            f"{folder} holds {' and '.join(p.name for p in inside)}, which are different sets; give one of them"
        )
    return inside[0]


def find_problems(kind: str, classes: Sequence[str], count: dict[str, int]) -> list[str]:
    """What differs from the published set, one clause each; `count`: images of each class.

    Args:
        kind: The data set, a name in SETS.
        classes: The class folders that are there.
        count: Class -> number of its images.
    """
    problems = []
    gone = [c for c in classes if count[c] == 0]
    if gone:
        problems.append(
            f"{len(gone)} of {len(classes)} class folders are missing or empty"
            f" ({', '.join(gone[:5])}{', ...' if len(gone) > 5 else ''})"
        )
    found = sum(count[c] for c in classes)
    total, each = SETS[kind].images, SETS[kind].per_class
    if total is not None and found != total:
        problems.append(f"{found:,} images instead of {total:,}")
    odd = [] if each is None else [c for c in classes if count[c] not in (0, each)]
    if odd:
        problems.append(f"{len(odd)} classes without exactly {each} images ({odd[0]} has {count[odd[0]]})")
    return problems


def check_line(opened: Opened, loaded: Facts) -> str:
    """What a person should see before trusting a number: folders found, classes compared.

    Args:
        opened: The checked data set.
        loaded: The model that it is measured with.
    """
    return (
        f"{len(opened.matched)} of {len(opened.classes)} class folders matched by name, of {loaded.num_classes}"
        " classes of the model"
    )


def class_indices(loaded: Facts, classes: Sequence[str]) -> np.ndarray:
    """Position of each of `classes` among the model's outputs, (K',) int64, by name. Raises EvalkitError for a class
    the model does not have.

    Args:
        loaded: The model with the names of its outputs.
        classes: Names of classes, (K',).
    """
    position = {name: i for i, name in enumerate(loaded.classes or [])}
    missing = [c for c in classes if c not in position]
    if missing:
        raise EvalkitError(
            f"model {loaded.label} has no class '{missing[0]}'; {len(missing)} of {len(classes)} classes of the data"
            " are not among its own"
        )
    return np.array([position[c] for c in classes], dtype=np.int64)


def labels_in(images: Images, classes: Sequence[str]) -> np.ndarray:
    """Label of every image as an index into `classes`, (N,) int64, by name; -1 where it is none of them.

    Args:
        images: The images, with the names of their classes.
        classes: Names of the classes among which they are classified.
    """
    position = {name: i for i, name in enumerate(classes)}
    table = np.array([position.get(name, -1) for name in images.classes] + [-1], dtype=np.int64)
    return table[images.labels]


def spread(n: int, limit: int | None) -> np.ndarray:
    """All of 0..n-1, or `limit` of them evenly spaced.

    Args:
        n: How many there are.
        limit: How many are kept; None: all.
    """
    return np.arange(n) if limit is None or limit >= n else np.arange(limit) * n // limit


def pipeline(
    loaded: Loaded, images: Images, mode: str | None, own: bool = False
) -> tuple[EvalTransform | TimmTransform, dict[str, Any]]:
    """The preprocessing and how it is named in a record. Raises EvalkitError for a model with another than square
    input.

    Args:
        loaded: The model, with the preprocessing of its pre-training and of its run.
        images: The images; an embedded set is used as it is.
        mode: The preprocessing that the user asked for; None: the protocol's.
        own: Whether a checkpoint of a run sees the images as the run validated itself, unless `mode` says otherwise.
    """
    height, width = loaded.input_size
    if height != width:
        raise EvalkitError(
            f"model {loaded.label} takes images of {height}x{width} pixels; the protocols are defined for square ones"
        )
    mode, transform = preparation(loaded, images, mode, own)
    return transform, {"mode": mode, "side": height} | ({"run": str(transform)} if mode == "run" else {})


def is_published(preprocess: dict[str, Any]) -> bool:
    """Whether this is the published preprocessing: shorter side 256, centre crop 224; or the one of the run itself,
    whose recipe then decides."""
    return preprocess["mode"] == "run" or preprocess == {"mode": "published", "side": PUBLISHED_SIDE}
