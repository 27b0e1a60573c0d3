"""What OpenCV, with which mmsegmentation and mmdetection read images, does silently, and label maps that lack a class:
counted before training."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evalkit.data.folders import of_file, same_contents
from evalkit.data.images import SURVEYED, peculiar
from evalkit.errors import EvalkitError
from evalkit.fingerprint import FULL_BYTES, sample, size

from .class_lists import IGNORE

# evalkit.data.images names what Pillow's conversion to RGB does; OpenCV's differs for these
OPENCV = {
    "exif_orientation_ignored": "exif_orientation_applied",
    "grey16_saturated": "grey16_cut_to_8_bits",
    "float_clipped": "float_cut_to_8_bits",
}
NONE = "none"  # what label 0 is called where it is no class
NAMED = 5  # classes that a sentence names


def survey(paths: Sequence[str], split: str) -> list[str]:
    """What decoding does silently, counted over all images of a split or a fixed sample of a large one, one sentence
    each: "alpha_dropped" (a hidden colour shows), "cmyk_converted", "exif_orientation_applied",
    "grey16_cut_to_8_bits", "rgb16_cut_to_8_bits", "first_of_several_frames", "colour_profile_ignored".

    Args:
        paths: Of the images, which readers have found to be there.
        split: Name of the split, for the sentences.
    """
    rows = sample(len(paths), SURVEYED)
    count = Counter(note for i in rows for note in peculiar(paths[i]))
    of = f"{len(rows):,} {split} images" + ("" if len(rows) == len(paths) else " looked at")
    return [f"{OPENCV.get(note, note)} in {n:,} of the {of}" for note, n in sorted(count.items())]


def shared(train: Sequence[str], val: Sequence[str]) -> list[str]:
    """A sentence where validation images are training images as well; of large sets too much would have to be read.

    Args:
        train: Paths of the training images.
        val: Paths of the validation images.
    """
    if sum(map(size, [*train, *val])) > FULL_BYTES:
        return []
    found = {path for _, path in same_contents(*([(path, of_file(path)) for path in paths] for paths in (train, val)))}
    return [f"{len(found):,} of the {len(val):,} val images are train images as well"] if found else []


def absent(maps: Sequence[str], classes: Sequence[str], split: str) -> list[str]:
    """A sentence that names the classes that no label map of a split holds; maps are read until each was seen. Raises
    EvalkitError where they hold none of them.

    Args:
        maps: Paths of the label maps, in which label i is class i.
        classes: Names of the classes.
        split: Name of the split, for the sentence.
    """
    left, seen = set(range(len(classes))), set[int]()
    for path in maps:
        try:
            with Image.open(path) as image:
                seen |= set(np.unique(np.asarray(image)).tolist())
        except Exception:  # whatever a malformed file leads to; whoever reads it says so
            return []
        left -= seen
        if not left:
            return []
    if seen == {0, IGNORE}:
        raise EvalkitError(
            f"the {split} label maps hold 0 and {IGNORE} alone, and {IGNORE} marks pixels that do not count; save the"
            " labels of the classes, 1 for the object of a black and white mask"
        )
    names = [classes[i] for i in sorted(left)]
    if len(names) >= len(classes) - (0 not in left and classes[0] == NONE):
        raise EvalkitError(f"no {split} label map holds any of the {len(classes)} classes; are all of its pixels 255?")
    more = ", ..." if len(names) > NAMED else ""
    so = "they cannot be learned" if split == "train" else "they are not measured"
    which = f"{len(names)} of the {len(classes)} classes, so {so}"
    return [f"no {split} label map holds {which}: {', '.join(names[:NAMED])}{more}"]


def palettes(maps: Sequence[str], split: str) -> list[str]:
    """A sentence where a label has one colour in a map's palette and another one in another's: an image of colours that
    was reduced to a palette file by file numbers them anew each time.

    Args:
        maps: Paths of label maps.
        split: Name of the split, for the sentence.
    """
    known: dict[int, tuple[tuple[int, ...], str]] = {}
    for path in maps:
        try:
            with Image.open(path) as image:
                if image.mode != "P":
                    continue
                labels, colours = np.unique(np.asarray(image)).tolist(), image.getpalette() or []
        except (OSError, ValueError, Image.DecompressionBombError):
            return []  # whoever reads it says so
        for label in labels:
            colour = tuple(colours[3 * label : 3 * label + 3])
            before, where = known.setdefault(label, (colour, path))
            if colour != before:
                return [
                    f"label {label} of the {split} label maps is the colour {before} in {Path(where).name} and {colour}"
                    f" in {Path(path).name}: make sure that it is one class, as palettes made file by file are not"
                ]
    return []
