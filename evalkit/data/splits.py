"""What must hold of training and validation images together, and what a reader must know of them."""

import functools
from collections.abc import Sequence

import numpy as np

from .. import fingerprint
from ..errors import EvalkitError
from ..runtime import derive_rng
from ..text import look_alike
from .folders import same_contents_within, same_files
from .images import Images, Subset

SHOWN = 5  # classes that are named


def check_splits(train: Images, val: Images, names: tuple[str, str]) -> list[str]:
    """What a reader must know of two splits, one sentence each.

    Args:
        train: The training images.
        val: The validation images.
        names: What errors call the two.

    Raises EvalkitError for other classes in one than in the other, for a single class and for splits that are the same
    images.
    """
    if val.classes != train.classes:
        only, other = (sorted(set(a) - set(b)) for a, b in ((train.classes, val.classes), (val.classes, train.classes)))
        odd = ", ".join(sorted([*only, *other])[:3])
        if same := look_alike(only, other):
            odd = f"{same[0][0]!a} and {same[0][1]!a}, which only look the same"
        raise EvalkitError(
            f"splits '{names[0]}' and '{names[1]}' of {train.name} differ in their classes, e.g. {odd}; make the"
            " folders match"
        )
    if len(train.classes) < 2:
        raise EvalkitError(
            f"{train.name} has a single class, '{train.classes[0]}', which any classifier gets right; give a folder"
            " with a folder per class"
        )
    if val.fingerprint == train.fingerprint:
        raise EvalkitError(
            f"splits '{names[0]}' and '{names[1]}' of {train.name} hold the same images; put them into folders of their"
            " own, or validate on a part of the training images with holdout=0.2"
        )
    both = (("training", train), ("validation", val))
    remarks = [f"{what} images: {note}" for what, images in both for note in [*images.remarks, *images.survey()]]
    remarks += [remark for what, images in both for remark in absent_classes(images, f"{what} image")]
    remarks += [remark for what, images in both for remark in contradictions(images, f"{what} images")]
    # of larger sets too much would have to be read
    if all(fingerprint.scheme_of(images.fingerprint) == fingerprint.FULL for _, images in both):
        shared = {sample for _, sample in same_files(train, range(len(train)), val, range(len(val)))}
        if shared:
            remarks.append(
                f"{len(shared):,} of the {len(val):,} validation images are training images as well, e.g. {min(shared)}"
            )
    return remarks


def absent_classes(images: Images, what: str = "image") -> list[str]:
    """A sentence that names the classes without an image, if there are any.

    Args:
        images: The set.
        what: What one of its members is called.
    """
    count = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    gone = [name for name, n in zip(images.classes, count) if n == 0]
    if not gone:
        return []
    return [
        f"no {what} is of {len(gone)} of the {len(images.classes)} classes: {', '.join(gone[:SHOWN])}"
        f"{', ...' if len(gone) > SHOWN else ''}"
    ]


@functools.lru_cache(maxsize=2)  # screen and record ask for the same
def contradictions(images: Images, what: str = "images") -> Sequence[str]:
    """A sentence about images with the same content and another label, and one about copies within a class, if there
    are any; of large sets too much would have to be read. One, too, about classes whose names look the same.

    Args:
        images: The set.
        what: What its members are called.
    """
    said = []
    same = look_alike(images.classes, images.classes)
    if same := [(a, b) for a, b in same if len(a) > 1 or a.casefold() != b.casefold()]:  # A and a are letters
        said.append(f"{same[0][0]!a} and {same[0][1]!a} are two classes, though their names look the same")
    if fingerprint.scheme_of(images.fingerprint) != fingerprint.FULL:
        return said
    others, copies = same_contents_within(images)
    if others:
        said.append(f"{len(others):,} {what} stand under two classes, e.g. {others[0][0]} and {others[0][1]}")
    if copies:
        said.append(
            f"{len(copies):,} {what} are copies of another of their class, e.g. {copies[0][1]} of {copies[0][0]}"
        )
    return said


def hold_out(images: Images, share: float) -> tuple[Subset, Subset]:
    """The images without a share of each class, and that share: always the same images of a set, whatever the seed of a
    run and the order of the set.

    Args:
        images: The set.
        share: The share of each class that is held out, 0 to 1.

    Raises EvalkitError where not one image would be held out, or none of a class left.
    """
    order, held = np.array(images.by_id()), []
    for label in np.unique(images.labels[images.labels >= 0]):
        rows = order[images.labels[order] == label]
        count = round(share * len(rows))
        if count == len(rows):
            raise EvalkitError(
                f"holdout={share:g} leaves no training image of class '{images.classes[label]}'; give a smaller share"
            )
        held.append(derive_rng("holdout", images.classes[label]).permutation(rows)[:count])
    out = np.zeros(len(images), dtype=bool)
    out[np.concatenate(held)] = True
    if not out.any():
        raise EvalkitError(f"holdout={share:g} holds out none of the {len(images)} images; give a larger share")
    return Subset(images, np.flatnonzero(~out)), Subset(images, np.flatnonzero(out))


def spread(images: Images, limit: int | None) -> Images:
    """Images evenly spaced over the set. Raises EvalkitError for more than there are.

    Args:
        images: The set.
        limit: How many; None: all of them.
    """
    if limit is None:
        return images
    if limit > len(images):
        raise EvalkitError(f"limit={limit} is more than the {len(images)} training images; give {len(images)} or less")
    return Subset(images, np.arange(limit) * len(images) // limit)
