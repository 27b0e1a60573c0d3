"""Detection sets on disk in COCO's format; each thing that is wrong in one line."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from evalkit.data.scan import is_image
from evalkit.errors import EvalkitError
from evalkit.files import parse_json
from evalkit.fingerprint import of_split

from . import coco_objects, decoding
from .readers_seg import CHECKED, SPLITS, counts, shown_size

COCO_IMAGES = {"train": 118_287, "val": 5000}
COCO_CLASSES = 80
MIN_SIDE = 32  # pixels of the shorter side: MMDetection's recipes train on no smaller image
COCO_FILES = ("annotations/instances_{}2017.json", "annotations/instances_{}.json", "annotations/{}.json")
COCO_FOLDERS = ("{}2017", "{}", "images")


@dataclass(frozen=True)
class DetData:
    """Images and COCO annotations of a detection set; paths are relative to `root`, mappings by split.

    Args:
        name: How records name the set.
        root: The folder that paths are relative to.
        classes: In the order of the annotation file, which is that of the labels in MMDetection.
        annotations: Split -> annotation file.
        images: Split -> folder of its images.
        count: Split -> number of its images.
        with_objects: Split -> number of its images of at least `MIN_SIDE` that show at least one.
        fingerprint: Split -> digest of its annotations and images.
        published: Whether it is the published set, whole.
        notes: What a reader of the numbers should know, one sentence each.
        masks: Whether every object has one; without, all have a box alone.
    """

    name: str
    root: Path
    classes: list[str]
    annotations: dict[str, str]
    images: dict[str, str]
    count: dict[str, int]
    with_objects: dict[str, int]
    fingerprint: dict[str, str]
    published: bool = False
    notes: list[str] = field(default_factory=list)
    masks: bool = True  # whether every object has one; without, all have a box alone


def coco(root: str | Path) -> DetData:
    """The set in `root`, see `coco_format`: COCO 2017 if it has its numbers of images and classes; otherwise one of its
    own name, with a note that says what is different."""
    found = coco_format(root, "coco")
    different = [] if found.count == COCO_IMAGES else [counts(found.count, COCO_IMAGES)]
    different += (
        [] if len(found.classes) == COCO_CLASSES else [f"{len(found.classes)} classes instead of {COCO_CLASSES}"]
    )
    if not different:
        return replace(found, published=True)
    return replace(
        found,
        name=Path(root).resolve().name,
        notes=[f"not COCO 2017 as published: {', '.join(different)}", *found.notes],
    )


def coco_format(root: str | Path, name: str) -> DetData:
    """Data in COCO's format: in root/annotations instances_{train,val}2017.json, instances_{train,val}.json or
    {train,val}.json; the images in root/{train,val}2017, root/{train,val} or root/images. Every object needs a mask,
    or none has one. Raises EvalkitError.

    Args:
        root: The folder.
        name: How records name the set.
    """
    root = Path(root)
    annotations = {split: _first(root, COCO_FILES, split, Path.is_file) for split in SPLITS}
    images = {split: _first(root, COCO_FOLDERS, split, Path.is_dir) for split in SPLITS}
    count, with_objects, classes, files, said, masks = {}, {}, {}, {}, [], {}
    for split in SPLITS:
        path = root / annotations[split]
        content = _read_json(path)
        masks[split] = _has_masks(content)
        problem = (
            _json_problem(content, masks[split])
            or coco_objects.problem(content, train=split == "train")
            or _missing(content["images"], root / images[split])
            or _other_size(content["images"], root / images[split])
        )
        if problem:
            raise EvalkitError(f"{path}: {problem}")
        count[split] = len(content["images"])
        files[split] = sorted(image["file_name"] for image in content["images"])
        said += coco_objects.notes(content, split)
        said += decoding.survey([str(root / images[split] / name) for name in files[split]], split)
        large = {image["id"] for image in content["images"] if min(image["width"], image["height"]) >= MIN_SIDE}
        with_objects[split] = len({entry["image_id"] for entry in content["annotations"]} & large)
        if split == "train" and not with_objects[split]:
            raise EvalkitError(
                f"{path}: no image with an object is {MIN_SIDE} pixels or more on its shorter side; enlarge the images"
            )
        classes[split] = {category["id"]: category["name"] for category in content["categories"]}
    if list(classes["train"].items()) != list(classes["val"].items()):
        raise EvalkitError(
            f"{root}: {annotations['train']} and {annotations['val']} do not list the same categories in the same"
            " order; give both one list"
        )
    said += _unlisted(root, images, files)
    said += decoding.shared(*([str(root / images[split] / name) for name in files[split]] for split in SPLITS))
    fingerprint = {
        split: of_split([], [str(root / annotations[split])], [str(root / images[split] / f) for f in files[split]])
        for split in SPLITS
    }
    if masks["train"] != masks["val"]:
        raise EvalkitError(
            f"{root}: only one of {annotations['train']} and {annotations['val']} has masks; give both some"
        )
    if not masks["train"]:
        said.append("boxes alone: the file holds no masks")
    names = list(classes["train"].values())
    return DetData(
        name,
        root,
        names,
        annotations,
        images,
        count,
        with_objects,
        fingerprint,
        notes=said,
        masks=masks["train"],
    )


def left_out(count: int, total: int) -> str:
    """What mmdetection's filter does, in a sentence.

    Args:
        count: How many images it leaves out.
        total: Of how many.
    """
    return (
        f"{count:,} of the {total:,} train images are not trained on: they show no object, or are less than {MIN_SIDE}"
        " pixels on their shorter side"
    )


def _has_masks(content: Any) -> bool:
    """Whether any object of an annotation file has a mask."""
    objects = content.get("annotations") if isinstance(content, dict) else None
    return not isinstance(objects, list) or any(isinstance(o, dict) and o.get("segmentation") for o in objects)


def _first(root: Path, candidates: Sequence[str], split: str, there: Callable[[Path], bool]) -> str:
    """The first of the candidate paths of a split that exists."""
    names = [candidate.format(split) for candidate in candidates]
    found = next((name for name in names if there(root / name)), None)
    if found is None:
        raise EvalkitError(
            f"{root} has no {names[0]} (nor {' nor '.join(names[1:])}); COCO 2017 is at cocodataset.org, own data goes"
            " into the same layout"
        )
    return found


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as e:
        raise EvalkitError(f"{path} is not readable JSON ({' '.join(str(e).split())}); fetch or write it again") from e


def _json_problem(content: Any, masks: bool = True) -> str | None:
    """What is wrong with the content of an annotation file, apart from missing images."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
            return f"the list `{key}` is missing or empty; it must be in COCO's format"
    try:
        for key in ("images", "annotations", "categories"):
            if len({entry["id"] for entry in content[key]}) < len(content[key]):
                return f"two of the `{key}` have the same id; give each its own"
        names = [entry["name"] for entry in content["categories"]]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            return "a category has no name, or the name of another; give each its own"
        if not all(entry["file_name"] and entry["width"] > 0 and entry["height"] > 0 for entry in content["images"]):
            return "an image has no size; add width and height"
        if not all(isinstance(entry["file_name"], str) for entry in content["images"]):
            return "the `file_name` of an image is no text; correct it"
        known_images, known_categories = (
            {entry["id"]: entry for entry in content[key]} for key in ("images", "categories")
        )
        for entry in content["annotations"]:
            if entry["image_id"] not in known_images or entry["category_id"] not in known_categories:
                return (
                    f"object {entry['id']} names an image or a category that the file does not list; add or remove it"
                )
            problem = _object_problem(entry, known_images[entry["image_id"]], masks)
            if problem:
                return f"object {entry['id']} {problem}"
    except (KeyError, TypeError) as e:
        return (
            f"an entry lacks {e if isinstance(e, KeyError) else 'a value of the right type'}; it must be in COCO's"
            " format"
        )
    return None


def _object_problem(entry: dict[str, Any], image: dict[str, Any], masks: bool) -> str | None:
    """What is wrong with the box or the mask of an object."""
    mask = entry.get("segmentation")
    if not masks and len(entry["bbox"]) != 4:
        return "has no box of four numbers; a detector needs one"
    if masks and (not mask or len(entry["bbox"]) != 4):
        return "has no mask or no box of four numbers; Mask R-CNN needs both"
    if not all(isinstance(number, int | float) for number in (*entry["bbox"], entry.get("area"), entry.get("iscrowd"))):
        return "has no numbers for `bbox`, `area` and `iscrowd`; AP needs all three (iscrowd 0: a single object)"
    if not masks:
        return None
    if isinstance(mask, dict):
        if "counts" not in mask or mask.get("size") != [image["height"], image["width"]]:
            return (
                "has a run-length encoded mask without `counts` or not of its image's [height, width]; write it again"
            )
    elif not isinstance(mask, list) or not isinstance(mask[0], list) or len(mask[0]) < 6:
        return "has a mask whose first polygon has fewer than three points; write it again"
    return None


def _missing(images: list[dict[str, Any]], folder: Path) -> str | None:
    """Which of the images are not in the folder."""
    names = [image["file_name"] for image in images]
    flat = {entry.name for entry in os.scandir(folder)}
    gone = [name for name in names if name not in flat and not ("/" in name and (folder / name).is_file())]
    return (
        f"{len(gone):,} of its {len(names):,} images are missing in {folder} ({gone[0]}); complete it" if gone else None
    )


def _unlisted(root: Path, folders: dict[str, str], files: dict[str, list[str]]) -> list[str]:
    """A sentence for each folder with images that no annotation file lists, which nothing reads."""
    said = []
    for folder in sorted(set(folders.values())):
        listed = {name for split, inside in folders.items() if inside == folder for name in files[split]}
        there = [entry.name for entry in os.scandir(root / folder) if is_image(entry.name)]
        if beside := sorted(set(there) - listed):
            said.append(f"{len(beside):,} images of {folder} are not listed and not used, e.g. {beside[0]}")
    return said


def _other_size(images: list[dict[str, Any]], folder: Path) -> str | None:
    """Which of `CHECKED` images cannot be read or has another size than the file says: its masks would lie
    elsewhere."""
    for image in images[:: max(1, len(images) // CHECKED)]:
        path = folder / image["file_name"]
        try:
            with Image.open(path) as opened:
                width, height = shown_size(opened)
        except Exception as e:  # decoders raise whatever a malformed file leads them to
            return f"image {path} cannot be read ({' '.join(str(e).split())}); replace it"
        if (width, height) != (image["width"], image["height"]):
            return (
                f"image {path} is {width}x{height} pixels, not {image['width']}x{image['height']}; correct its width"
                " and height"
            )
    return None
