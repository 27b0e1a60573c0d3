"""ADE20K, Cityscapes and VOC 2012 in miniature, laid out as they are distributed."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from PIL import Image

from evalkit import config
from evalkit.downstream import readers, readers_sets, seg
from evalkit.downstream.seg import SegConfig
from evalkit.errors import EvalkitError

NAMES = [f"class {i}" for i in range(5)]


def names(dataset):
    return NAMES


def image(path, labels=None, size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if labels is None:
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
        return
    made = Image.fromarray(np.resize(np.array(labels, np.uint8), size))
    if path.parent.name == "SegmentationClass":  # with a palette, as VOC's
        made.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
        assert made.mode == "P"
    made.save(path)


def ade20k(root):
    for split, long in (("training", "train"), ("validation", "val")):
        for i in (1, 2):
            name = f"ADE_{long}_{i:08d}"
            image(root / f"ADEChallengeData2016/images/{split}/{name}.jpg")
            image(root / f"ADEChallengeData2016/annotations/{split}/{name}.png", [0, 1, 5])
    return root


def cityscapes(root):
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("lindau",))):
        for city in cities:
            stem = f"{city}/{city}_000000_000019"
            image(root / f"cityscapes/leftImg8bit/{split}/{stem}_leftImg8bit.png")
            for kind, labels in (("labelTrainIds", [0, 4, 255]), ("labelIds", [7, 33]), ("instanceIds", [9])):
                image(root / f"cityscapes/gtFine/{split}/{stem}_gtFine_{kind}.png", labels)
    return root


def voc2012(root):
    voc = root / "VOCdevkit/VOC2012"
    for i in ("2007_000032", "2007_000033", "2007_000042"):
        image(voc / f"JPEGImages/{i}.jpg")
        image(voc / f"SegmentationClass/{i}.png", [0, 3, 255])
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/train.txt").write_text("2007_000032\n2007_000042\n")
    (voc / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    return root


MADE = {"ade20k": (ade20k, 2, 2), "cityscapes": (cityscapes, 2, 1), "voc2012": (voc2012, 2, 1)}


@pytest.mark.parametrize("name", readers_sets.SETS)
def test_sets_are_read_as_they_are_distributed(name, tmp_path, monkeypatch):
    make, train, val = MADE[name]
    found = readers_sets.read(name, make(tmp_path), names)
    assert {split: len(ids) for split, ids in found.ids.items()} == {"train": train, "val": val}
    assert found.classes == NAMES and not found.published and f"not {name} as published" in found.notes[0]
    assert found.zero_is_none is (name == "ade20k") and found.nested is (name == "cityscapes")
    whole = dataclasses.replace(readers_sets.SETS[name], count={"train": train, "val": val})
    monkeypatch.setitem(readers_sets.SETS, name, whole)
    assert readers_sets.read(name, tmp_path, names).published


@pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed")
@pytest.mark.parametrize("name", readers_sets.SETS)
def test_mmsegmentation_loads_what_the_reader_found(name, tmp_path):
    """Labels of the classes as training sees them: ADE20K's zero is none, the others' none is 255."""
    from evalkit.downstream.mm import require

    require("mmseg")
    importlib.import_module("mmseg.utils").register_all_modules(init_default_scope=True)
    datasets = importlib.import_module("evalkit.downstream.mm.seg")
    own = importlib.import_module("evalkit.downstream.mm.names").classes
    found = readers_sets.read(name, MADE[name][0](tmp_path), own)
    part = {k: v for k, v in seg._part(found, "train", False).items() if k != "type"}
    load = [{"type": "LoadImageFromFile"}, {"type": "EvalkitLabels", "classes": len(found.classes)}]
    data = datasets.EvalkitSegDataset(**part, pipeline=load)
    seen = [sorted(np.unique(data[i]["gt_seg_map"]).tolist()) for i in range(len(data))]
    expected = {"ade20k": [0, 4, 255], "cityscapes": [0, 4, 255], "voc2012": [0, 3, 255]}[name]
    assert seen == [expected] * MADE[name][1]
    assert len(found.classes) == {"ade20k": 150, "cityscapes": 19, "voc2012": 21}[name]


def test_what_is_missing_or_wrong(tmp_path):
    with pytest.raises(EvalkitError, match="holds no cityscapes with leftImg8bit/train; unpack"):
        readers_sets.read("cityscapes", tmp_path, names)
    root = cityscapes(tmp_path)
    (root / "cityscapes/gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(EvalkitError, match="1 of 1 val files are missing"):
        readers_sets.read("cityscapes", root, names)
    image(ade20k(tmp_path) / "ADEChallengeData2016/annotations/training/ADE_train_00000001.png", [6])
    with pytest.raises(EvalkitError, match="holds the label 6"):
        readers_sets.read("ade20k", tmp_path, names)
    if importlib.util.find_spec("mmseg"):
        cfg = config.load(SegConfig, "ade20k-fpn", [f"data_dir={tmp_path / 'nothing'}"], folder="seg")
        with pytest.raises(EvalkitError, match="cannot find ade20k"):
            readers.segmentation(cfg.data, tmp_path, cfg.data_dir)
