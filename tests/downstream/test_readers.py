"""Layouts in miniature with the true folder names, and one clear line for each thing that can be wrong with them."""

import importlib.util
import json
import os
import re
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from evalkit.downstream import readers_det, readers_seg
from evalkit.downstream.readers import detection, segmentation
from evalkit.downstream.readers_seg import CONTEXT_CLASSES
from evalkit.errors import EvalkitError

COUNT = {"train": 4, "val": 3}


def photo(path, size=(10, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(zlib.crc32(str(path).encode()).to_bytes(4, "big")[:3])).save(path)


def mask(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.asarray(labels, np.uint8), (8, 10))).save(path)


@pytest.fixture
def voc(tmp_path):
    """VOC 2010 with Pascal Context, all 60 labels in use."""
    root = tmp_path / "VOCdevkit/VOC2010"
    for split, ids in (("train", range(4)), ("val", range(10, 13))):
        names = [f"2008_{i:06d}" for i in ids]
        for name in names:
            photo(root / f"JPEGImages/{name}.jpg")
            mask(root / f"SegmentationClassContext/{name}.png", range(60))
        lists = root / "ImageSets/SegmentationContext"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def miniature(monkeypatch):
    """The published counts, scaled down."""
    monkeypatch.setattr(readers_seg, "CONTEXT_IMAGES", COUNT)
    monkeypatch.setattr(readers_seg, "CONVERTED_IMAGES", {"train": 3, "val": 2})
    monkeypatch.setattr(readers_det, "COCO_IMAGES", COUNT)


def objects(ids):
    square = [1, 1, 6, 1, 6, 6, 1, 6]
    return [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "bbox": [1, 1, 5, 5],
            "area": 25,
            "iscrowd": 0,
            "segmentation": [square],
        }
        for i in ids
    ]


def write_coco(root, *, names=("annotations/instances_{}2017.json", "{}2017"), classes=80):
    categories = [{"id": i + 1, "name": f"c{i}"} for i in range(classes)]
    for split, ids in (("train", range(1, 5)), ("val", range(11, 14))):
        images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 32} for i in ids]
        for image in images:
            photo(root / names[1].format(split) / image["file_name"], (40, 32))
        path = root / names[0].format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": objects(ids), "categories": categories}))
    return root


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco")


def said(call, *args, **kwargs):
    with pytest.raises(EvalkitError) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- Pascal Context


def test_context_classes_are_those_of_mmsegmentation():
    module = importlib.util.find_spec("mmseg")
    if module is None:
        pytest.skip("mmsegmentation is not installed")
    # read, since importing it takes seconds
    source = (Path(module.origin).parent / "datasets/pascal_context.py").read_text()
    metainfo = source.split("METAINFO = dict(")[1].split("palette")[0]
    assert (
        tuple(eval(metainfo.split("classes=")[1].strip().rstrip(","))) == CONTEXT_CLASSES and len(CONTEXT_CLASSES) == 60
    )


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2010"])
def test_pascal_context_is_found_and_published(voc, miniature, inside):
    found = segmentation(str(voc.parents[1] / inside), voc)
    assert (found.name, found.root, found.published, found.notes) == ("pascal-context", voc, True, [])
    assert found.classes == list(CONTEXT_CLASSES) and {s: len(i) for s, i in found.ids.items()} == COUNT
    for split in COUNT:
        for i in found.ids[split]:
            assert (voc / found.images[split] / (i + found.suffixes[0])).is_file() and (
                voc / found.masks[split] / (i + found.suffixes[1])
            ).is_file()
        assert (voc / found.lists[split]).read_text().split() == found.ids[split]


def test_the_published_counts_are_those_of_paper_and_converter():
    assert readers_seg.CONTEXT_IMAGES == {"train": 4998, "val": 5105} and readers_seg.CONVERTED_IMAGES == {
        "train": 4996,
        "val": 5104,
    }
    assert readers_det.COCO_IMAGES == {"train": 118287, "val": 5000} and readers_det.COCO_CLASSES == 80


def test_what_the_converter_keeps_is_published_with_a_note(voc, miniature, monkeypatch):
    monkeypatch.setattr(readers_seg, "CONTEXT_IMAGES", {"train": 6, "val": 5})
    monkeypatch.setattr(readers_seg, "CONVERTED_IMAGES", COUNT)
    found = segmentation(str(voc), voc)
    assert found.published and found.notes == [
        "4 train and 3 val images instead of 6 and 5: the images that MMSegmentation's converter keeps"
    ]


def test_another_number_of_images_is_not_pascal_context(voc):
    text = said(segmentation, "pascal-context", voc, str(voc.parents[1]))
    assert (
        f"{voc}: not Pascal Context as published: 4 train and 3 val images instead of 4,998 and 5,105. Complete it, or"
        " use it" in text
    )
    own = segmentation(str(voc), voc)
    assert (own.name, own.published) == ("VOC2010", False) and own.notes == [
        "not Pascal Context as published: 4 train and 3 val images instead of 4,998 and 5,105"
    ]


def relabel(name, labels):
    return lambda root: mask(root / f"SegmentationClassContext/2008_{name}.png", labels)


BROKEN_CONTEXT = {
    "no photos": (lambda root: shutil.rmtree(root / "JPEGImages"), r"JPEGImages|classes.txt"),
    "no masks": (
        lambda root: shutil.rmtree(root / "SegmentationClassContext"),
        "has no folder SegmentationClassContext; make it from VOC 2010",
    ),
    "no lists": (
        lambda root: shutil.rmtree(root / "ImageSets"),
        "has no folder ImageSets/SegmentationContext; make it",
    ),
    "no val list": (
        lambda root: (root / "ImageSets/SegmentationContext/val.txt").unlink(),
        "cannot read .*val.txt: No such file",
    ),
    "empty list": (lambda root: (root / "ImageSets/SegmentationContext/val.txt").write_text(""), "val.txt is empty"),
    "twice": (
        lambda root: (root / "ImageSets/SegmentationContext/val.txt").write_text("2008_000010\n" * 2),
        "lists an image twice",
    ),
    "both": (
        lambda root: (root / "ImageSets/SegmentationContext/val.txt").write_text("2008_000000"),
        r"1 images are in train.txt and val.txt \(2008_000000\)",
    ),
    "photo gone": (
        lambda root: (root / "JPEGImages/2008_000002.jpg").unlink(),
        r"1 of 4 train files are missing in .*JPEGImages \(2008_000002.jpg\)",
    ),
    "mask gone": (
        lambda root: (root / "SegmentationClassContext/2008_000011.png").unlink(),
        r"1 of 3 val files .*ClassContext \(2008_000011.png\)",
    ),
    "label 60": (
        relabel("000011", [0, 60]),
        r"2008_000011.png holds the label 60, but there are 60 classes \(0 to 59\)",
    ),
    "label 255": (
        relabel("000003", [0, 255]),
        "2008_000003.png holds the label 255, but every pixel .*has a class.*59 classes or with reduce_zero_label",
    ),
    "colours": (
        lambda root: photo(root / "SegmentationClassContext/2008_000001.png"),
        "has mode RGB instead of one 8-bit channel",
    ),
    "size": (lambda root: photo(root / "JPEGImages/2008_000001.jpg", (8, 10)), "is 10x8 pixels, its image 8x10"),
    "no image": (
        lambda root: (root / "SegmentationClassContext/2008_000001.png").write_bytes(b""),
        "2008_000001.png or its image cannot be read",
    ),
}


@pytest.mark.parametrize("case", BROKEN_CONTEXT)
def test_each_fault_of_pascal_context_in_one_line(voc, miniature, case):
    fault, expected = BROKEN_CONTEXT[case]
    fault(voc)
    text = said(segmentation, str(voc), voc)
    assert re.search(expected, text), text


def test_label_maps_are_sampled_over_the_whole_split(voc, miniature, monkeypatch):
    monkeypatch.setattr(readers_seg, "CHECKED", 2)
    relabel("000002", [99])(voc)  # of 0, 1, 2, 3 the first and the third
    assert "label 99" in said(segmentation, str(voc), voc)


def test_fingerprints_tell_label_maps_classes_and_ids_apart(voc, miniature):
    before = segmentation(str(voc), voc).fingerprint
    assert before == segmentation(str(voc.parents[1]), voc).fingerprint and before["train"] != before["val"]
    relabel("000012", [0, 5])(voc)
    after = segmentation(str(voc), voc).fingerprint
    assert after["train"] == before["train"] and after["val"] != before["val"]


# ---- folders of images and masks


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "mine"
    for split, n in COUNT.items():
        for i in range(n):
            photo(root / f"images/{split}/{i}.jpg")
            mask(root / f"masks/{split}/{i}.png", [0, 1, 2, 255])
    (root / "classes.txt").write_text("ground\nplant\n\nstone\n")
    return root


def test_own_folders(folders):
    found = segmentation(str(folders), folders)
    assert (found.name, found.classes, found.published, found.suffixes) == (
        "mine",
        ["ground", "plant", "stone"],
        False,
        (".jpg", ".png"),
    )
    assert found.ids == {"train": list("0123"), "val": list("012")} and found.lists == {"train": None, "val": None}
    assert all((folders / found.masks[s] / f"{i}.png").is_file() for s, ids in found.ids.items() for i in ids)


BROKEN_FOLDERS = {
    "no classes": (lambda root: (root / "classes.txt").unlink(), "cannot read .*classes.txt.*label 0 first"),
    "one class": (
        lambda root: (root / "classes.txt").write_text("a\n"),
        "must hold 2 to 255 different classes, one per line, but holds 1",
    ),
    "same class": (lambda root: (root / "classes.txt").write_text("a\nb\na\n"), "different classes"),
    "no val": (
        lambda root: shutil.rmtree(root / "images/val"),
        "cannot read .*images/val: .*expected .*masks/{train,val}/",
    ),
    "empty": (lambda root: [p.unlink() for p in (root / "images/val").iterdir()], "images/val holds no image"),
    "mask gone": (
        lambda root: (root / "masks/val/1.png").unlink(),
        r"1 of 3 val files are missing in .*masks/val \(1.png\)",
    ),
    "masks gone": (lambda root: shutil.rmtree(root / "masks"), "4 of 4 train files are missing in .*masks/train"),
    "label": (
        lambda root: mask(root / "masks/val/1.png", [3]),
        r"holds the label 3, but there are 3 classes \(0 to 2\)",
    ),
    "mixed": (lambda root: photo(root / "images/val/9.png"), ".jpg and .png files; convert them to one kind"),
}


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
def test_each_fault_of_own_folders_in_one_line(folders, case):
    fault, expected = BROKEN_FOLDERS[case]
    fault(folders)
    text = said(segmentation, str(folders), folders)
    assert re.search(expected, text), text


# ---- COCO


def test_coco_2017_is_found_and_published(coco, miniature, monkeypatch):
    monkeypatch.setenv("EVALKIT_DATA", str(coco.parent))
    for data, given in (("coco", None), ("coco", str(coco)), (str(coco), None), (str(coco.parent), None)):
        found = detection(data, coco, given)
        assert (found.name, found.root, found.published, found.count, len(found.classes)) == (
            "coco",
            coco,
            True,
            COUNT,
            80,
        )
        for split in COUNT:
            assert (
                found.annotations[split] == f"annotations/instances_{split}2017.json"
                and found.images[split] == f"{split}2017"
            )
    edit(coco / "annotations/instances_train2017.json", lambda c: c["annotations"].pop())
    assert detection(str(coco), coco).with_objects == {"train": 3, "val": 3}
    assert found.fingerprint["train"] != found.fingerprint["val"] and found.fingerprint["val"].startswith(
        "content-full:"
    )


def test_another_number_of_images_or_classes_is_not_coco(tmp_path):
    root = write_coco(tmp_path / "mine", classes=3)
    what = "not COCO 2017 as published: 4 train and 3 val images instead of 118,287 and 5,000, 3 classes instead of 80"
    assert f"{root}: {what}. Complete it, or use it as a set of your own with data={root}" in said(
        detection, "coco", root, str(root)
    )
    own = detection(str(root), root)
    assert (own.name, own.published, own.classes) == ("mine", False, ["c0", "c1", "c2"])
    empty = [f"no {split} object is of 2 of the 3 classes: c1, c2" for split in ("train", "val")]
    assert own.notes == [what, *empty]


@pytest.mark.parametrize(
    "names",
    [("annotations/instances_{}.json", "{}"), ("annotations/{}.json", "images"), ("annotations/{}.json", "{}2017")],
    ids=lambda n: "-".join(n),
)
def test_own_data_in_cocos_format(tmp_path, names):
    root = write_coco(tmp_path / "mine", names=names, classes=2)
    found = detection(str(root), root)
    assert (found.name, found.annotations["val"], found.images["val"]) == (
        "mine",
        names[0].format("val"),
        names[1].format("val"),
    )


def test_classes_keep_the_order_of_the_file(coco):
    for split in COUNT:
        edit(coco / f"annotations/instances_{split}2017.json", lambda c: c["categories"].reverse())
    assert detection(str(coco), coco).classes[0] == "c79"


def in_val(change):
    return lambda root: edit(root / "annotations/instances_val2017.json", change)


BROKEN_COCO = {
    "no annotations": (
        lambda root: shutil.rmtree(root / "annotations"),
        "has no annotations/instances_train2017.json .*annotations/train.json.*cocodataset",
    ),
    "no val": (
        lambda root: (root / "annotations/instances_val2017.json").unlink(),
        "has no annotations/instances_val2017.json",
    ),
    "no photos": (lambda root: shutil.rmtree(root / "val2017"), r"has no val2017 \(nor val nor images\)"),
    "photo gone": (
        lambda root: (root / "val2017/000000000012.jpg").unlink(),
        r"1 of its 3 images are missing in .*val2017 \(000000000012.jpg\)",
    ),
    "half": (
        lambda root: (root / "annotations/instances_val2017.json").write_text('{"images": ['),
        "is not readable JSON",
    ),
    "list": (
        lambda root: (root / "annotations/instances_val2017.json").write_text("[]"),
        "the list `images` is missing or empty",
    ),
    "no objects": (in_val(lambda c: c["annotations"].clear()), "the list `annotations` is missing or empty"),
    "no id": (in_val(lambda c: c["images"][0].pop("id")), "an entry lacks 'id'"),
    "same id": (in_val(lambda c: c["images"][0].update(id=12)), "two of the `images` have the same id"),
    "same object": (in_val(lambda c: c["annotations"][0].update(id=12)), "two of the `annotations` have the same id"),
    "same name": (
        in_val(lambda c: c["categories"][0].update(name="c5")),
        "a category has no name, or the name of another",
    ),
    "unknown image": (
        in_val(lambda c: c["annotations"][0].update(image_id=99)),
        "object 11 names an image or a category that the file does not list",
    ),
    "unknown class": (
        in_val(lambda c: c["annotations"][1].update(category_id=99)),
        "object 12 names an image or a category",
    ),
    "no mask": (
        in_val(lambda c: c["annotations"][0].update(segmentation=[])),
        "object 11 has no mask or no box of four numbers; Mask R-CNN needs both",
    ),
    "no box": (in_val(lambda c: c["annotations"][0].update(bbox=[1, 2])), "object 11 has no mask or no box"),
    "no crowd": (
        in_val(lambda c: c["annotations"][1].pop("iscrowd")),
        "object 12 has no numbers for `bbox`, `area` and `iscrowd`; AP needs all three",
    ),
    "no area": (in_val(lambda c: c["annotations"][0].update(area=None)), "object 11 has no numbers"),
    "words": (in_val(lambda c: c["annotations"][0].update(bbox=[1, "2", 3, 4])), "object 11 has no numbers"),
    "run lengths": (
        in_val(lambda c: c["annotations"][0].update(segmentation={"size": [40, 32], "counts": [1280]})),
        r"not of its image's \[height, width\]",
    ),
    "no run": (
        in_val(lambda c: c["annotations"][0].update(segmentation={"size": [32, 40]})),
        "object 11 has a run-length encoded mask without `counts`",
    ),
    "two points": (
        in_val(lambda c: c["annotations"][2].update(segmentation=[[1, 1, 2, 2]])),
        "object 13 has a mask whose first polygon has fewer",
    ),
    "flat": (
        in_val(lambda c: c["annotations"][2].update(segmentation=[1, 1, 2, 2, 3, 1])),
        "object 13 has a mask whose first polygon has fewer",
    ),
    "turned": (
        in_val(lambda c: c["images"][1].update(width=32, height=40)),
        "000000000012.jpg is 40x32 pixels, not 32x40; correct",
    ),
    "no photo": (
        lambda root: (root / "val2017/000000000013.jpg").write_bytes(b"?"),
        "val2017/000000000013.jpg cannot be read",
    ),
    "no size": (in_val(lambda c: c["images"][0].update(width=0)), "no size"),
    "no name": (in_val(lambda c: c["categories"][0].update(name=None)), "a category has no name"),
    "other classes": (
        in_val(lambda c: c["categories"][0].update(name="other")),
        "do not list the same categories in the same order",
    ),
    "other order": (in_val(lambda c: c["categories"].reverse()), "do not list the same categories in the same order"),
}


@pytest.mark.parametrize("case", BROKEN_COCO)
def test_each_fault_of_coco_in_one_line(coco, miniature, case):
    fault, expected = BROKEN_COCO[case]
    fault(coco)
    text = said(detection, str(coco), coco)
    assert re.search(expected, text), text


def test_a_photo_is_as_wide_as_it_is_shown(coco, folders):
    """OpenCV turns a photo as its camera says, so that is what masks must fit."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for path, size in ((coco / "val2017/000000000012.jpg", (32, 40)), (folders / "images/val/1.jpg", (8, 10))):
        Image.new("RGB", size).save(path, exif=turned)
        assert cv2.imread(str(path)).shape[1::-1] == size[::-1]
    assert detection(str(coco), coco).count["val"] == len(segmentation(str(folders), folders).ids["val"])
    photo(folders / "images/val/1.jpg", (8, 10))
    assert "is 10x8 pixels, its image 8x10" in said(segmentation, str(folders), folders)


def test_images_too_small_to_train_on_do_not_count(coco):
    def shrink(ids):
        for i in ids:
            photo(coco / f"train2017/{i:012d}.jpg", (40, 31))
        edit(
            coco / "annotations/instances_train2017.json",
            lambda c: [image.update(height=31) for image in c["images"] if image["id"] in ids],
        )

    shrink([2])
    assert detection(str(coco), coco).with_objects == {"train": 3, "val": 3}
    shrink([1, 2, 3, 4])
    assert "no image with an object is 32 pixels or more on its shorter side" in said(detection, str(coco), coco)


# ---- names


def test_the_embedded_scenes_pass_the_checks(tmp_path):
    seg, det = segmentation("digits-scenes", tmp_path / "made"), detection("digits-scenes", tmp_path / "made")
    assert (seg.name, det.name, seg.published, det.published) == ("digits-scenes", "digits-scenes", False, False)
    assert seg.fingerprint == det.fingerprint and seg.classes == ["background", *det.classes] == [
        "background",
        *map(str, range(10)),
    ]
    assert {s: len(i) for s, i in seg.ids.items()} == det.count == {"train": 240, "val": 60}


def test_unknown_places_are_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("EVALKIT_DATA", raising=False)
    text = said(segmentation, "pascal-context", tmp_path)
    assert (
        "neither data_dir nor EVALKIT_DATA is set; let data_dir=DIR or the variable EVALKIT_DATA name the folder that"
        " holds VOCdevkit/VOC2010" in text
    )
    assert "neither data_dir nor EVALKIT_DATA is set" in said(detection, "coco", tmp_path)
    monkeypatch.setenv("EVALKIT_DATA", str(tmp_path / "none"))
    assert "none is no folder" in said(detection, "coco", tmp_path)
    assert "'digit-scenes' is no folder; give an existing one, or digits-scenes or pascal-context" in said(
        segmentation, "digit-scenes", tmp_path
    )
    monkeypatch.setenv("EVALKIT_DATA", str(tmp_path))
    assert "holds no VOC2010 folder with JPEGImages" in said(segmentation, "pascal-context", tmp_path)


# ---- the real thing, where somebody has it


def real(inside):
    missing = not (Path(os.environ.get("EVALKIT_DATA", "unset")) / inside).is_dir()
    return pytest.mark.skipif(missing, reason=f"EVALKIT_DATA does not name a folder that holds {inside}")


@pytest.mark.slow
@real("VOCdevkit/VOC2010")
def test_real_pascal_context(tmp_path):
    assert segmentation("pascal-context", tmp_path).published


@pytest.mark.slow
@real("coco/annotations")
def test_real_coco(tmp_path):
    assert detection("coco", tmp_path).published
