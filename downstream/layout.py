"""Where the images and annotations of a data set are, and whether they are what they should be: one clear line for each thing that is wrong.

Pascal Context lies in VOC 2010's folders, COCO 2017 in its own; EVALKIT_DATA names the folder that holds them. Own data: folders of images and masks for
segmentation, JSON in COCO's format for detection. Nothing is converted here.
"""

import os
from dataclasses import replace
from pathlib import Path

from evalkit.data.embedded import DIGITS
from evalkit.errors import EvalkitError

from . import scenes
from .layout_det import DetData, coco_2017, coco_format, differences
from .layout_seg import SegData, context, find_voc, pascal_context, seg_folders

ENVIRONMENT = "EVALKIT_DATA"


def segmentation(data: str, made: Path, allow_partial: bool = False) -> SegData:
    """The set `data` means: digits-scenes (written to `made`), pascal-context (below EVALKIT_DATA), or a folder with either layout. Raises EvalkitError."""
    if data == scenes.NAME:
        fingerprint = scenes.write_scenes(made)
        return context(made / scenes.VOC, scenes.NAME, ["background", *DIGITS], fingerprint)
    root = _root(data, "pascal-context", "VOCdevkit/VOC2010")
    return pascal_context(root, allow_partial) if data == "pascal-context" or find_voc(root) else seg_folders(root)


def detection(data: str, made: Path, allow_partial: bool = False) -> DetData:
    """The set `data` means: digits-scenes (written to `made`), coco (below EVALKIT_DATA), or a folder in COCO's format. Raises EvalkitError."""
    if data == scenes.NAME:
        fingerprint = scenes.write_scenes(made)
        return replace(coco_format(made / scenes.COCO, scenes.NAME), fingerprint=fingerprint)
    root = _root(data, "coco", "annotations/, train2017/ and val2017/")
    root = root / "coco" if (root / "coco").is_dir() else root
    if data == "coco":
        return coco_2017(root, allow_partial)
    found = coco_format(root, root.resolve().name)
    return found if differences(found) else replace(found, name="coco", published=True)


def _root(data: str, real: str, holds: str) -> Path:
    """The folder of the set `real`, from the environment, or the folder `data` itself."""
    if data != real:
        if not Path(data).is_dir():
            raise EvalkitError(f"data '{data}' is no folder; give an existing one, or {scenes.NAME} or {real}")
        return Path(data)
    folder = os.environ.get(ENVIRONMENT)
    if not folder or not Path(folder).is_dir():
        where = f"{ENVIRONMENT}={folder} is no folder" if folder else f"{ENVIRONMENT} is not set"
        raise EvalkitError(f"cannot find {real}: {where}; let it name the folder that holds {holds}, or give that folder as data=DIR")
    return Path(folder)
