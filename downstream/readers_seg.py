"""Segmentation sets on disk: Pascal Context in VOC 2010's folders, or folders of images and label maps; each thing that
is wrong in one line."""

import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from evalkit.errors import EvalkitError
from evalkit.fingerprint import of_split

from . import decoding
from .class_lists import IGNORE, class_list

SPLITS = ("train", "val")
CHECKED = 200  # label maps of a split that are opened, evenly spaced over it
_CONTEXT = (
    "background aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat "
    "ceiling chair cloth computer cow cup curtain dog door fence floor flower food grass ground horse keyboard "
    "light motorbike mountain mouse person plate platform pottedplant road rock sheep shelves sidewalk sign "
    "sky snow sofa table track train tree truck tvmonitor wall water window wood "
)
CONTEXT_CLASSES = tuple(_CONTEXT.split())
CONTEXT_IMAGES = {"train": 4998, "val": 5105}
CONVERTED_IMAGES = {"train": 4996, "val": 5104}  # what MMSegmentation's converter makes of them
CONTEXT_HOW = (
    "make it from VOC 2010 and trainval_merged.json with tools/dataset_converters/pascal_context.py of MMSegmentation"
)
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class SegData:
    """Images and label maps of a segmentation set; paths are relative to `root`, mappings by split. Label i is class i,
    255 none of them.

    Args:
        name: How records name the set.
        root: The folder that paths are relative to.
        classes: Names of the classes; label i is the i-th.
        images: Split -> folder of its images.
        masks: Split -> folder of its label maps.
        ids: Split -> file names of its images without suffix.
        lists: Split -> file with one id per line; None: every image of the folder.
        suffixes: Of an image, of a label map.
        fingerprint: Split -> digest of its images and label maps.
        published: The published set, whole.
        notes: What a reader of the numbers should know, one sentence each.
        nested: Whether images lie in folders of folders, one per city.
        zero_is_none: Whether label 0 is no class and class i has the label i + 1.
    """

    name: str
    root: Path
    classes: list[str]
    images: dict[str, str]
    masks: dict[str, str]
    ids: dict[str, list[str]]
    lists: dict[str, str | None]
    suffixes: tuple[str, str]
    fingerprint: dict[str, str]
    published: bool = False
    notes: list[str] = field(default_factory=list)
    nested: bool = False
    zero_is_none: bool = False


def pascal_context(root: str | Path) -> SegData:
    """Pascal Context with 60 classes, background included, in VOC 2010's folders at or below `root`. Raises
    EvalkitError for what is missing or wrong; another number of images is noted, and then it is not the published set
    but one of its own name."""
    voc = find_voc(Path(root))
    if voc is None:
        raise EvalkitError(f"{root} holds no VOC2010 folder with JPEGImages; unpack VOCtrainval_03-May-2010.tar there")
    for folder in ("SegmentationClassContext", "ImageSets/SegmentationContext"):
        if not (voc / folder).is_dir():
            raise EvalkitError(f"{voc} has no folder {folder}; {CONTEXT_HOW}")
    found = context(voc, "pascal-context", list(CONTEXT_CLASSES))
    count = {split: len(ids) for split, ids in found.ids.items()}
    if count == CONTEXT_IMAGES:
        return replace(found, published=True)
    said = counts(count, CONTEXT_IMAGES)
    if count == CONVERTED_IMAGES:
        kept = f"{said}: the images that MMSegmentation's converter keeps"
        return replace(found, published=True, notes=[kept, *found.notes])
    other = f"not Pascal Context as published: {said}"
    return replace(found, name=Path(root).resolve().name, notes=[other, *found.notes])


def find_voc(root: Path) -> Path | None:
    """The VOC2010 folder that `root` is or holds."""
    return next(
        (voc for voc in (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010") if (voc / "JPEGImages").is_dir()), None
    )


def context(voc: Path, name: str, classes: list[str], fingerprint: dict[str, str] | None = None) -> SegData:
    """A set in Pascal Context's layout whose label maps hold labels of known classes only.

    Args:
        voc: The folder VOC2010.
        name: How records name the set.
        classes: Names of the classes that label maps may hold.
        fingerprint: Split -> digest; None: computed from the files.
    """
    lists: dict[str, str | None] = {split: f"ImageSets/SegmentationContext/{split}.txt" for split in SPLITS}
    ids = {split: listed(voc / path) for split, path in lists.items() if path is not None}
    both = set(ids["train"]) & set(ids["val"])
    if both:
        raise EvalkitError(f"{voc}: {len(both)} images are in train.txt and val.txt ({min(both)}); {CONTEXT_HOW}")
    images, masks = dict.fromkeys(SPLITS, "JPEGImages"), dict.fromkeys(SPLITS, "SegmentationClassContext")
    found = SegData(name, voc, classes, images, masks, ids, lists, (".jpg", ".png"), {})
    made = {split: check_masks(found, split, ignore=False) for split in SPLITS}
    return replace(found, fingerprint=fingerprint or made, notes=notes(found))


def notes(data: SegData) -> list[str]:
    """What OpenCV does to images silently, and which classes a split lacks."""
    said: list[str] = []
    for split in SPLITS:
        for folder, suffix, look in (
            (data.images[split], data.suffixes[0], decoding.survey),
            (
                data.masks[split],
                data.suffixes[1],
                partial(decoding.absent, classes=[decoding.NONE] * data.zero_is_none + data.classes),
            ),
        ):
            said += look([str(data.root / folder / f"{i}{suffix}") for i in sorted(data.ids[split])], split=split)
        maps = [str(data.root / data.masks[split] / f"{i}{data.suffixes[1]}") for i in sorted(data.ids[split])]
        said += decoding.palettes(maps[:: max(1, len(maps) // CHECKED)], split)
    images = ([str(data.root / data.images[s] / f"{i}{data.suffixes[0]}") for i in data.ids[s]] for s in SPLITS)
    return [*said, *decoding.shared(*images)]


def listed(path: Path, how: str = CONTEXT_HOW) -> list[str]:
    """The ids in a list file.

    Args:
        path: The file, one id per line.
        how: What to do where it is missing or wrong.
    """
    try:
        ids = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as e:
        raise EvalkitError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}; {how}") from e
    if not ids or len(set(ids)) < len(ids):
        raise EvalkitError(f"{path} {'lists an image twice' if ids else 'is empty'}; {how}")
    return ids


def seg_folders(root: str | Path) -> SegData:
    """Own data: root/images/{train,val}/ID.jpg, root/masks/{train,val}/ID.png of one channel, root/classes.txt with a
    class per line, label 0 first; 255 marks pixels that do not count. Raises EvalkitError."""
    root = Path(root)
    layout = f"expected {root}/images/{{train,val}}/, {root}/masks/{{train,val}}/ and {root}/classes.txt"
    classes, said = class_list(root / "classes.txt", layout)
    images, masks = ({split: f"{kind}/{split}" for split in SPLITS} for kind in ("images", "masks"))
    ids: dict[str, list[str]] = {}
    suffixes: dict[str, None] = {}
    for split in SPLITS:
        names = _files(root / images[split], layout)
        suffixes |= dict.fromkeys(Path(name).suffix for name in names)
        ids[split] = [Path(name).stem for name in names]
    if len(suffixes) > 1:
        raise EvalkitError(f"{root}/images holds {' and '.join(sorted(suffixes))} files; convert them to one kind")
    (suffix,) = suffixes
    found = SegData(root.resolve().name, root, classes, images, masks, ids, dict.fromkeys(SPLITS), (suffix, ".png"), {})
    made = {split: check_masks(found, split, ignore=True) for split in SPLITS}
    return replace(found, fingerprint=made, notes=[*said, *notes(found), *_unused(found)])


def _unused(data: SegData) -> list[str]:
    """A sentence for each folder with files that are neither an image of the set nor the label map of one."""
    said = []
    for split in SPLITS:
        for folder, suffix in zip((data.images[split], data.masks[split]), data.suffixes):
            used = {f"{i}{suffix}" for i in data.ids[split]}
            beside = sorted(
                entry.name
                for entry in os.scandir(data.root / folder)
                if entry.name not in used and not entry.name.startswith(".")
            )
            if beside:
                said.append(f"{len(beside):,} entries of {folder} are not used, e.g. {beside[0]}")
    return said


def _files(folder: Path, layout: str) -> list[str]:
    """The names of the images in a folder, sorted."""
    try:
        names = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )
    except OSError as e:
        raise EvalkitError(f"cannot read {folder}: {e.strerror or e}; {layout}") from e
    if not names:
        raise EvalkitError(f"{folder} holds no image; {layout}")
    return names


def check_masks(data: SegData, split: str, ignore: bool) -> str:
    """Every image and label map of a split is there, and of `CHECKED` label maps shape and labels are right; the
    fingerprint of class names, ids, images and maps.

    Args:
        data: The set.
        split: train or val.
        ignore: Whether label maps may hold 255.

    Raises EvalkitError for what is not.
    """
    images, masks, ids = data.root / data.images[split], data.root / data.masks[split], data.ids[split]
    for folder, suffix in ((images, data.suffixes[0]), (masks, data.suffixes[1])):
        files = folder.rglob(f"*{suffix}") if data.nested else folder.glob(f"*{suffix}")
        present = {p.relative_to(folder).as_posix() for p in files}
        gone = [f"{i}{suffix}" for i in ids if f"{i}{suffix}" not in present]
        if gone:
            raise EvalkitError(
                f"{len(gone)} of {len(ids)} {split} files are missing in {folder} ({gone[0]}); complete it"
            )
    for i in sorted(ids)[:: max(1, len(ids) // CHECKED)]:
        path = masks / f"{i}{data.suffixes[1]}"
        labels = len(data.classes) + data.zero_is_none
        problem = _mask_problem(images / f"{i}{data.suffixes[0]}", path, labels, ignore)
        if problem:
            raise EvalkitError(f"{path} {problem}")
    both = (
        [str(folder / f"{i}{suffix}") for i in sorted(ids)] for folder, suffix in zip((images, masks), data.suffixes)
    )
    return of_split([*data.classes, "", *sorted(ids)], *both)


def _mask_problem(image: Path, mask: Path, classes: int, ignore: bool) -> str | None:
    """What is wrong with a label map."""
    try:
        with Image.open(mask) as opened, Image.open(image) as photo:
            if opened.format != "PNG":
                return (
                    f"is a file of {opened.format} called .png, which may not keep labels as they are; save it as PNG"
                )
            if any(str(tile[3]).startswith("L;") for tile in opened.tile):  # which every reader stretches over 0 to 255
                return "is grey of less than 8 bits, so that label 1 is read as another; save it with 8 bits"
            if opened.mode not in ("L", "P"):
                return f"has mode {opened.mode} instead of one 8-bit channel; save labels, not colours"
            width, height = shown_size(photo)
            if opened.size != (width, height):
                return f"is {opened.width}x{opened.height} pixels, its image {width}x{height}; make it anew"
            labels = np.unique(np.asarray(opened)).tolist()
    except Exception as e:  # decoders raise whatever a malformed file leads them to
        return f"or its image cannot be read ({' '.join(str(e).split())}); replace it"
    if labels[-1] == IGNORE and not ignore:
        return (
            f"holds the label {IGNORE}, but every pixel of this set has a class: it was made for 59 classes or with"
            f" reduce_zero_label; {CONTEXT_HOW}"
        )
    wrong = [label for label in labels if label >= classes and label != IGNORE]
    return (
        f"holds the label {wrong[-1]}, but there are {classes} classes (0 to {classes - 1}); make it anew"
        if wrong
        else None
    )


def shown_size(photo: Image.Image) -> tuple[int, int]:
    """Width and height as OpenCV reads the image: turned by the orientation that a camera wrote into it. Pillow gives
    those of a TIFF so already."""
    if photo.format == "TIFF":
        return photo.size
    return photo.size[::-1] if photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8) else photo.size


def counts(found: dict[str, int], expected: dict[str, int]) -> str:
    """What differs between two counts by split, as a clause.

    Args:
        found: Split -> number of images that are there.
        expected: Split -> number of images that should be.
    """
    return (
        f"{found['train']:,} train and {found['val']:,} val images instead of {expected['train']:,} and"
        f" {expected['val']:,}"
    )
