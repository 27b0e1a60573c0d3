"""What pycocotools and MMDetection would misread, drop or merge in an annotation file, found before they see it.

Refused is what makes a perfect prediction score below 1 or is read as something else: boxes and masks outside of their
image or in another format, numbers that are none, run lengths that do not add up, sets of crowds alone. What
MMDetection leaves out of training is counted.
"""

import itertools
import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any

from evalkit.data.peculiarities import size_problem
from evalkit.text import look_alike

BOX = tuple[float, float, float, float]  # left, top, right, bottom
OUTSIDE = 1.0  # pixels that a box or polygon may reach over the border: rounding
MAX_AREA = 1e10  # what pycocotools takes for an object of any size
LARGEST_ID = 1 << 63  # that NumPy holds
LARGEST = 1e15  # of coordinates and areas: a Python number may be one that no float holds
LONGEST_RUN = 60  # bits of a run length
ALIKE = 0.5  # intersection over union of an object's box and the box around its mask; amodal boxes are larger
ROUNDED = 64  # twice the pixels of an object so small that rounding decides its area
FEW = 20  # boxes that all look like two corners by chance
MANY = 100  # predictions per image that average precision counts


def problem(content: dict[str, Any], train: bool) -> str | None:
    """What is wrong with the objects of a file whose images and categories are as they should be; None for nothing.

    Args:
        content: The parsed annotation file.
        train: Whether it is the training split, where a box without area is left out instead of refused.
    """
    images = {image["id"]: image for image in content["images"]}
    objects = content["annotations"]
    for key, what in (("images", "an image"), ("categories", "a category"), ("annotations", "an object")):
        if not all(_whole(entry["id"]) and abs(entry["id"]) < LARGEST_ID for entry in content[key]):
            return f"the `id` of {what} is no whole number of up to 64 bits; number the {key}"
    if not all(_whole(image[side]) for image in content["images"] for side in ("width", "height")):
        return "the width or height of an image is no whole number; correct it"
    for image in content["images"]:
        if found := size_problem((image["width"], image["height"])):
            return f"image {image['file_name']}: {found}; correct its width and height"
    if any(not category["name"].strip() for category in content["categories"]):
        return "a category has an empty name; give it one"
    names = Counter(posixpath.normpath(image["file_name"]) for image in content["images"])
    shared = [name for name, n in names.items() if n > 1]
    if shared:
        return f"two of the images are the same file, {shared[0]}; list it once"
    if all(entry["iscrowd"] for entry in objects):
        return "all of its objects are crowds (iscrowd 1), of which nothing is learned or measured; mark single objects"
    for entry in objects:
        if not all(map(_is_number, (*entry["bbox"], entry["area"]))):
            return f"object {entry['id']} has a `bbox` or an `area` that is no finite number; correct it"
    boxes = [entry["bbox"] for entry in objects]
    if all(0 <= v <= 1 for box in boxes for v in box) and any(v % 1 for box in boxes for v in box):
        return "its boxes lie within 0 to 1, but COCO counts pixels; multiply them by width and height"
    if not any(entry.get("segmentation") for entry in objects) and all(map(_of_corners, objects)):
        return "its boxes are two corners, by the areas beside them; COCO's are left, top, width, height: convert them"
    for entry in objects:
        found = _object(entry, images[entry["image_id"]], train)
        if found:
            return f"object {entry['id']} {found}"
    return None


def notes(content: dict[str, Any], split: str) -> list[str]:
    """What is counted of the objects of a file without a problem, one sentence each.

    Args:
        content: The parsed annotation file.
        split: Name of the split, for the sentences.
    """
    objects, names = content["annotations"], [category["name"] for category in content["categories"]]
    images = {image["id"]: image for image in content["images"]}
    small = sum(entry["area"] <= 0 or min(entry["bbox"][2:]) < 1 for entry in objects)
    beside = [e["id"] for e in objects if not e["iscrowd"] and _beside(e, images[e["image_id"]])]
    ignored = sum(bool(entry.get("ignore")) and not entry["iscrowd"] for entry in objects)
    alike = Counter((e["image_id"], e["category_id"], *e["bbox"]) for e in objects if not e["iscrowd"])
    twice = sum(n - 1 for n in alike.values())
    full = sum(n > MANY for n in Counter(e["image_id"] for e in objects if not e["iscrowd"]).values())
    shown = {e["category_id"] for e in objects if not e["iscrowd"]}
    absent = [c["name"] for c in content["categories"] if c["id"] not in shown]
    out = []
    if split == "train" and small:
        out.append(f"{small:,} objects narrower than a pixel, or without an area, are left out of training")
    if split == "train" and ignored:
        out.append(f"{ignored:,} objects marked `ignore` are left out of training")
    if split == "val" and ignored:
        out.append(f"the mark `ignore` of {ignored:,} validation objects is not heeded: they count as others do")
    if beside:
        out.append(
            f"{len(beside):,} {split} objects have a box that is not that of their mask (they overlap by less than"
            f" {ALIKE}), e.g. object {beside[0]}"
        )
    boxes = [entry["bbox"] for entry in objects]
    if len(boxes) >= FEW and not any(e.get("segmentation") for e in objects) and all(map(_like_corners, boxes)):
        out.append(
            f"all {split} boxes would also make sense as two corners; make sure that they are x, y, width, height"
        )
    if odd := [e["id"] for e in objects if not e["iscrowd"] and _of_another_area(e, images[e["image_id"]])]:
        out.append(
            f"{len(odd):,} {split} objects have an `area` that is not theirs, e.g. object {odd[0]}: AP of small, medium"
            " and large objects goes by it"
        )
    if turned := sum(bool(_attributes(entry).get("rotation")) for entry in objects):
        out.append(f"{turned:,} {split} objects have a `rotation` among their attributes, which is not heeded")
    if any(image.get("not_exhaustive_category_ids") for image in images.values()):
        out.append(f"the {split} images are annotated for some classes only, as LVIS's are; AP here heeds no such list")
    if same := look_alike(names, names):
        out.append(f"{same[0][0]!a} and {same[0][1]!a} are two classes, though their names look the same")
    if twice:
        out.append(f"{twice:,} {split} objects stand there twice")
    if full and split == "val":
        out.append(f"{full:,} images show more than the {MANY} objects that average precision counts")
    if absent:
        more = ", ..." if len(absent) > 5 else ""
        out.append(f"no {split} object is of {len(absent)} of the {len(names)} classes: {', '.join(absent[:5])}{more}")
    return out


def _object(entry: dict[str, Any], image: dict[str, Any], train: bool) -> str | None:
    width, height = image["width"], image["height"]
    if entry["iscrowd"] not in (0, 1):
        return f"has iscrowd {entry['iscrowd']!r}; it is 0 (a single object) or 1 (a crowd)"
    if entry["area"] < 0 or entry["area"] > MAX_AREA:
        return f"has an area of {entry['area']:g} pixels; correct it"
    x, y, w, h = entry["bbox"]
    if w < 0 or h < 0 or (not train and min(w, h) == 0 and not entry["iscrowd"]):
        return f"has a box of {w:g} x {h:g} pixels; no prediction can match it: correct or remove it"
    mask = entry.get("segmentation")
    found = _mask(mask, width, height, seen=not train and not entry["iscrowd"]) if mask else None
    if found:
        return found
    bounds = _extent(mask, height) if mask else None
    if bounds and _overlap((x, y, w, h), bounds) > 0.99 and _overlap((x, y, x + w, y + h), bounds) < 0.9:
        return "has a box of two corners; COCO's is left, top, width, height: convert it"
    if x < -OUTSIDE or y < -OUTSIDE or x + w > width + OUTSIDE or y + h > height + OUTSIDE:
        return (
            f"has a box that reaches out of its image of {width}x{height} pixels ([{x:g}, {y:g}, {w:g}, {h:g}], which"
            " are left, top, width, height); correct it"
        )
    if bounds and not entry["iscrowd"] and _apart((x, y, x + w, y + h), bounds):
        return "has a box that lies elsewhere than its mask; correct one of them"
    return None


def _mask(mask: Any, width: int, height: int, seen: bool) -> str | None:
    """What is wrong with a mask; with `seen` it must have a pixel, since no prediction can match one without."""
    if isinstance(mask, dict):
        return _run_lengths(mask, width * height)
    if found := _polygons(mask, width, height):
        return found
    if seen and _flat(mask):
        from pycocotools import mask as coco_mask  # which rounds polygons to pixels; here, as few need it

        drawn = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
        if not int(coco_mask.area(drawn)):
            return "has a mask so thin that it covers no pixel; no prediction can match it: correct or remove it"
    return None


def _flat(mask: Sequence[Sequence[float]]) -> bool:
    """Whether polygons are so narrow that they may cover no pixel."""
    left, top, right, bottom = _bounds(mask)
    return min(right - left, bottom - top) < 2


def _polygons(mask: Any, width: int, height: int) -> str | None:
    for polygon in mask:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "has a polygon that is no list of at least three points x, y; write it again"
        if not all(map(_is_number, polygon)):
            return "has a polygon with a coordinate that is no finite number; correct it"
        left, top, right, bottom = _bounds([polygon])
        if left < -OUTSIDE or top < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
            return f"has a polygon that reaches out of its image of {width}x{height} pixels; correct it"
    if all(right == left or bottom == top for left, top, right, bottom in (_bounds([p]) for p in mask)):
        return "has a mask without an area: its points lie on a line; correct or remove it"
    return None


def _run_lengths(mask: dict[str, Any], pixels: int) -> str | None:
    counts = mask["counts"]
    if isinstance(counts, str):
        counts = decoded(counts)
    if (
        not isinstance(counts, list)
        or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
        or sum(counts) != pixels
    ):
        return f"has run lengths that do not add up to the {pixels:,} pixels of its image; write them again"
    return "has a mask without a pixel; correct or remove it" if sum(counts[1::2]) == 0 else None


def decoded(text: str) -> list[int] | None:
    """The run lengths of COCO's compressed text: six bits a character, the third and later ones as differences to the
    last but one; None for a text that is none."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > LONGEST_RUN:
            return None
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


def _extent(mask: Any, height: int) -> BOX | None:
    """The smallest box around a mask without a problem, as corners; None for one without a pixel."""
    if not isinstance(mask, dict):
        return _bounds(mask)
    counts = decoded(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"]
    ends = list(itertools.accumulate(counts or []))
    # pixels are counted down the columns; every second run is of the object
    runs = [(start, end - 1) for start, end in zip(ends[::2], ends[1::2]) if end > start]
    if not runs:
        return None
    whole = any(a // height != b // height for a, b in runs)  # a run that goes on in the next column touches both ends
    top, bottom = (0, height) if whole else (min(a % height for a, _ in runs), max(b % height for _, b in runs) + 1)
    return runs[0][0] // height, top, runs[-1][1] // height + 1, bottom


def _beside(entry: dict[str, Any], image: dict[str, Any]) -> bool:
    """Whether the box of an object without a problem is another one than that of its mask."""
    bounds = _extent(entry["segmentation"], image["height"]) if entry.get("segmentation") else None
    if bounds is None or min(bounds[2] - bounds[0], bounds[3] - bounds[1]) < 2:
        return False  # rounding alone makes them differ
    x, y, w, h = entry["bbox"]
    return _overlap((x, y, x + w, y + h), bounds) < ALIKE


def _of_another_area(entry: dict[str, Any], image: dict[str, Any]) -> bool:
    """Whether the area of an object is neither its mask's nor, without a mask, one that its box has room for."""
    mask, (width, height) = entry.get("segmentation"), entry["bbox"][2:]
    if not mask:  # the area of a mask that is not in the file, as in exports of boxes
        least, most = width * height / 50, 2 * width * height
    else:
        least, most = _area(mask) / 2, 2 * _area(mask)
    return most > ROUNDED and not least <= entry["area"] <= most


def _area(mask: Any) -> float:
    """Pixels of a mask without a problem; polygons that overlap count twice."""
    if isinstance(mask, dict):
        counts = decoded(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"]
        return float(sum((counts or [])[1::2]))
    return sum(abs(sum(a * d - b * c for a, b, c, d in _edges(polygon))) / 2 for polygon in mask)


def _edges(polygon: Sequence[float]) -> list[tuple[float, float, float, float]]:
    points = [(polygon[i], polygon[i + 1]) for i in range(0, len(polygon), 2)]
    return [(*a, *b) for a, b in zip(points, points[1:] + points[:1])]


def _attributes(entry: dict[str, Any]) -> dict[str, Any]:
    """What CVAT writes beside an object."""
    found = entry.get("attributes")
    return found if isinstance(found, dict) else {}


def _like_corners(box: Sequence[float]) -> bool:
    return 0 < box[0] < box[2] and 0 < box[1] < box[3]


def _of_corners(entry: dict[str, Any]) -> bool:
    """Whether an area is that of a box of left, top, right, bottom, and not of one of COCO's."""
    x, y, w, h = entry["bbox"]
    return (x > 0 or y > 0) and math.isclose(entry["area"], (w - x) * (h - y), rel_tol=0.01) and w > x and h > y


def _apart(a: BOX, b: BOX) -> bool:
    """Whether two boxes as corners have no point in common, a pixel of rounding left aside."""
    return a[0] > b[2] + 1 or b[0] > a[2] + 1 or a[1] > b[3] + 1 or b[1] > a[3] + 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bounds(polygons: Sequence[Sequence[float]]) -> BOX:
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _overlap(a: BOX, b: BOX) -> float:
    """Intersection over union of boxes as corners; 0 for one that is turned inside out."""
    if a[2] <= a[0] or a[3] <= a[1] or b[2] <= b[0] or b[3] <= b[1]:
        return 0.0
    inside = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return inside / (areas - inside)
