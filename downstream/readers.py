"""Where the images and annotations of a data set are, and whether they are what they should be: one clear line for each
thing that is wrong.

Pascal Context lies in VOC 2010's folders, COCO 2017 in its own; data_dir or EVALKIT_DATA names the folder that holds
them. Own data: folders of images and masks for segmentation, JSON in COCO's format for detection. Nothing is converted
here.
"""

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from evalkit.data.embedded import DIGITS
from evalkit.errors import EvalkitError
from evalkit.fingerprint import FULL

from . import readers_sets, scenes
from .readers_det import DetData, coco, coco_format
from .readers_seg import SegData, context, find_voc, pascal_context, seg_folders

ENVIRONMENT = "EVALKIT_DATA"
Found = TypeVar("Found", SegData, DetData)


def segmentation(data: str, made: Path, root: str | None = None) -> SegData:
    """The segmentation set of a name or folder. Raises EvalkitError for what is missing or wrong, and for a
    pascal-context that is not the published one.

    Args:
        data: digits-scenes, pascal-context, ade20k, cityscapes, voc2012, or a folder in Pascal Context's layout or
            one of images and masks.
        made: The folder that embedded scenes are written to.
        root: The folder at or below which published sets lie; None: EVALKIT_DATA.
    """
    if data == scenes.NAME:
        fingerprint = {split: f"{FULL}:{digest}" for split, digest in scenes.write_scenes(made).items()}
        return context(made / scenes.VOC, scenes.NAME, ["background", *DIGITS], fingerprint)
    if data in readers_sets.SETS:
        names: Any = import_module(f"{__package__}.mm.names").classes
        folder = _folder(data, data, root, readers_sets.SETS[data].holds)
        return _published(readers_sets.read(data, folder, names))
    folder = _folder(data, "pascal-context", root, "VOCdevkit/VOC2010")
    if data == "pascal-context":
        return _published(pascal_context(folder))
    return pascal_context(folder) if find_voc(folder) else seg_folders(folder)


def detection(data: str, made: Path, root: str | None = None) -> DetData:
    """The detection set of a name or folder. Raises EvalkitError for what is missing or wrong, and for a coco that is
    not the published one.

    Args:
        data: digits-scenes, coco, or a folder in COCO's format.
        made: The folder that embedded scenes are written to.
        root: The folder at or below which published sets lie; None: EVALKIT_DATA.
    """
    if data == scenes.NAME:
        fingerprint = {split: f"{FULL}:{digest}" for split, digest in scenes.write_scenes(made).items()}
        return replace(coco_format(made / scenes.COCO, scenes.NAME), fingerprint=fingerprint)
    folder = _folder(data, "coco", root, "annotations/, train2017/ and val2017/")
    found = coco(folder / "coco" if (folder / "coco").is_dir() else folder)
    return _published(found) if data == "coco" else found


def _folder(data: str, real: str, root: str | None, holds: str) -> Path:
    """Where the set `real` lies, or the folder `data` itself."""
    if data != real:
        if not Path(data).is_dir():
            raise EvalkitError(f"data '{data}' is no folder; give an existing one, or {scenes.NAME} or {real}")
        return Path(data)
    folder = root or os.environ.get(ENVIRONMENT)
    if not folder or not Path(folder).is_dir():
        where = f"{folder} is no folder" if folder else f"neither data_dir nor {ENVIRONMENT} is set"
        raise EvalkitError(
            f"cannot find {real}: {where}; let data_dir=DIR or the variable {ENVIRONMENT} name the folder that holds"
            f" {holds}"
        )
    return Path(folder)


def _published(found: Found) -> Found:
    if not found.published:
        raise EvalkitError(
            f"{found.root}: {found.notes[0]}. Complete it, or use it as a set of your own with data={found.root}"
        )
    return found
