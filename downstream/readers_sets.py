"""ADE20K, Cityscapes and PASCAL VOC 2012 for segmentation, as their authors distribute them. Nothing is converted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from evalkit.errors import EvalkitError

from . import readers_seg
from .readers_seg import SPLITS, SegData, counts


@dataclass(frozen=True)
class Layout:
    """Where a published set lies and what it holds.

    Args:
        holds: The folder that is looked for, at or below the one that is given.
        dataset: Name of mmsegmentation's class for it, which knows the names of the classes.
        images: Split -> folder of the images.
        masks: Split -> folder of the label maps.
        suffixes: Ends of the names of an image and of its label map.
        count: Split -> images that the published set has.
        how: What to do where something is missing.
        lists: Split -> file with one id per line; None: all images of the folder.
        nested: Whether images lie in folders of folders, one per city.
        zero_is_none: Whether label 0 is no class and class i has the label i + 1.
    """

    holds: str
    dataset: str
    images: dict[str, str]
    masks: dict[str, str]
    suffixes: tuple[str, str]
    count: dict[str, int]
    how: str
    lists: dict[str, str] | None = None
    nested: bool = False
    zero_is_none: bool = False


SETS = {
    "ade20k": Layout(
        holds="ADEChallengeData2016",
        dataset="ADE20KDataset",
        images={"train": "images/training", "val": "images/validation"},
        masks={"train": "annotations/training", "val": "annotations/validation"},
        suffixes=(".jpg", ".png"),
        count={"train": 20_210, "val": 2000},
        how="unpack ADEChallengeData2016.zip of the scene parsing benchmark there",
        zero_is_none=True,
    ),
    "cityscapes": Layout(
        holds="cityscapes",
        dataset="CityscapesDataset",
        images={split: f"leftImg8bit/{split}" for split in SPLITS},
        masks={split: f"gtFine/{split}" for split in SPLITS},
        suffixes=("_leftImg8bit.png", "_gtFine_labelTrainIds.png"),
        count={"train": 2975, "val": 500},
        how="unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there, then run csCreateTrainIdLabelImgs"
        " of cityscapesScripts",
        nested=True,
    ),
    "voc2012": Layout(
        holds="VOCdevkit/VOC2012",
        dataset="PascalVOCDataset",
        images=dict.fromkeys(SPLITS, "JPEGImages"),
        masks=dict.fromkeys(SPLITS, "SegmentationClass"),
        suffixes=(".jpg", ".png"),
        count={"train": 1464, "val": 1449},
        how="unpack VOCtrainval_11-May-2012.tar there",
        lists={split: f"ImageSets/Segmentation/{split}.txt" for split in SPLITS},
    ),
}


def read(name: str, root: Path, names: Callable[[str], list[str]]) -> SegData:
    """A published set; one of its own name where the number of images is another, with a note.

    Args:
        name: Of `SETS`.
        root: The folder at or below which it lies.
        names: The class names of a data set by the name of mmsegmentation's class.

    Raises EvalkitError for what is missing or wrong.
    """
    layout = SETS[name]
    places = [root / layout.holds, root / Path(layout.holds).name, root]
    place = next((p for p in places if (p / layout.images["train"]).is_dir()), None)
    if place is None:
        raise EvalkitError(f"{root} holds no {layout.holds} with {layout.images['train']}; {layout.how}")
    ids = {split: _ids(layout, place, split) for split in SPLITS}
    found = SegData(
        name,
        place,
        names(layout.dataset),
        layout.images,
        layout.masks,
        ids,
        {split: layout.lists[split] if layout.lists else None for split in SPLITS},
        layout.suffixes,
        {},
        nested=layout.nested,
        zero_is_none=layout.zero_is_none,
    )
    # pixels of no class are 255 in the files; with `zero_is_none` they are 0
    made = {split: readers_seg.check_masks(found, split, ignore=not layout.zero_is_none) for split in SPLITS}
    found = replace(found, fingerprint=made, notes=readers_seg.notes(found))
    count = {split: len(found.ids[split]) for split in SPLITS}
    if count == layout.count:
        return replace(found, published=True)
    said = f"not {name} as published: {counts(count, layout.count)}"
    return replace(found, name=place.resolve().name, notes=[said, *found.notes])


def _ids(layout: Layout, place: Path, split: str) -> list[str]:
    """The images of a split, by their paths below its folder without the suffix."""
    if layout.lists:
        return readers_seg.listed(place / layout.lists[split], layout.how)
    folder, suffix = place / layout.images[split], layout.suffixes[0]
    paths = folder.glob(f"*/*{suffix}") if layout.nested else folder.glob(f"*{suffix}")
    ids = sorted(p.relative_to(folder).as_posix().removesuffix(suffix) for p in paths if not p.name.startswith("."))
    if not ids:
        raise EvalkitError(f"{folder} holds no image; {layout.how}")
    return ids
