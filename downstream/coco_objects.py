"""What pycocotools and MMDetection would misread, drop or merge in an annotation file, found before they see it.

Refused is what makes a perfect prediction score below 1 or is read as something else: boxes and masks outside of their
image or in another format, numbers that are none, run lengths that do not add up, sets of crowds alone. What
MMDetection leaves out of training is counted.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

BOX = tuple[float, float, float, float]  # left, top, right, bottom
OUTSIDE = 1.0  # pixels that a box or polygon may reach over the border: rounding
MAX_AREA = 1e10  # what pycocotools takes for an object of any size
MANY = 100  # predictions per image that average precision counts


def problem(content: dict[str, Any], train: bool) -> str | None:
    """What is wrong with the objects of a file whose images and categories are as they should be; None for nothing.

    Args:
        content: The parsed annotation file.
        train: Whether it is the training split, where a box without area is left out instead of refused.
    """
    images = {image["id"]: image for image in content["images"]}
    objects = content["annotations"]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in images):
        return "the `id` of an image is no whole number; number the images"
    if not all(isinstance(c["id"], int) and not isinstance(c["id"], bool) for c in content["categories"]):
        return "the `id` of a category is no whole number; number the categories"
    shared = [name for name, n in Counter(image["file_name"] for image in content["images"]).items() if n > 1]
    if shared:
        return f"two of the images are the same file, {shared[0]}; list it once"
    if all(entry["iscrowd"] for entry in objects):
        return "all of its objects are crowds (iscrowd 1), of which nothing is learned or measured; mark single objects"
    boxes = [entry["bbox"] for entry in objects]
    if all(isinstance(v, int | float) and 0 <= v <= 1 for box in boxes for v in box) and any(
        v % 1 for box in boxes for v in box
    ):
        return "its boxes lie within 0 to 1, but COCO counts pixels; multiply them by width and height"
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
    small = sum(entry["area"] <= 0 or min(entry["bbox"][2:]) < 1 for entry in objects)
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
    numbers = [*entry["bbox"], entry["area"]]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in numbers):
        return "has a `bbox` or an `area` that is no finite number; correct it"
    if entry["iscrowd"] not in (0, 1):
        return f"has iscrowd {entry['iscrowd']!r}; it is 0 (a single object) or 1 (a crowd)"
    if entry["area"] < 0 or entry["area"] > MAX_AREA:
        return f"has an area of {entry['area']:g} pixels; correct it"
    x, y, w, h = entry["bbox"]
    if w < 0 or h < 0 or (not train and min(w, h) == 0 and not entry["iscrowd"]):
        return f"has a box of {w:g} x {h:g} pixels; no prediction can match it: correct or remove it"
    mask = entry["segmentation"]
    found = _run_lengths(mask, width * height) if isinstance(mask, dict) else _polygons(mask, width, height)
    if found:
        return found
    bounds = None if isinstance(mask, dict) else _bounds(mask)
    if bounds and _overlap((x, y, w, h), bounds) > 0.99 and _overlap((x, y, x + w, y + h), bounds) < 0.9:
        return "has a box of two corners; COCO's is left, top, width, height: convert it"
    if x < -OUTSIDE or y < -OUTSIDE or x + w > width + OUTSIDE or y + h > height + OUTSIDE:
        return (
            f"has a box that reaches out of its image of {width}x{height} pixels ([{x:g}, {y:g}, {w:g}, {h:g}], which"
            " are left, top, width, height); correct it"
        )
    return None


def _polygons(mask: Any, width: int, height: int) -> str | None:
    for polygon in mask:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "has a polygon that is no list of at least three points x, y; write it again"
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in polygon):
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
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


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
