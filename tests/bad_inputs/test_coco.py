"""Annotation files that pycocotools or MMDetection would misread, drop or merge."""

import json
import shutil

import numpy as np
import pytest

from evalkit.downstream import coco_objects
from evalkit.downstream.readers import detection

from .cases import Case
from .make import put

KIND = "Annotation files that pycocotools or MMDetection misread, drop or merge"


def square(number, image, x=4.0, y=6.0, w=20.0, h=16.0, **changes):
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = {"id": number, "image_id": image, "category_id": 1, "bbox": [x, y, w, h], "segmentation": [polygon]}
    return entry | {"area": w * h, "iscrowd": 0} | changes


def whole(folder):
    """A set of two images a split that has nothing wrong."""
    for split in ("train", "val"):
        images = []
        for i in (1, 2):
            put(folder / split / f"{split}{i}.png", i + 10 * (split == "val"), size=64)
            images.append({"id": i, "file_name": f"{split}{i}.png", "width": 64, "height": 64})
        content = {"images": images, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
        content["annotations"] = [square(1, 1), square(2, 2, x=30, w=10), square(3, 2, category_id=2)]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def met(folder, change):
    """(split, what is done to its content): `evalkit transfer det` looks at the set."""
    split, edit = change
    path = whole(folder) / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return "; ".join(detection(str(folder), folder).notes)


def first(**values):
    return lambda content: content["annotations"][0].update(values)


def each(change):
    return lambda content: [change(entry) for entry in content["annotations"]]


def shares(entry):
    entry["bbox"] = [v / 64 for v in entry["bbox"]]


def corners(entry):
    x, y, w, h = entry["bbox"]
    entry["bbox"] = [x, y, x + w, y + h]


def run_lengths(counts, size=(64, 64)):
    return first(segmentation={"counts": counts, "size": list(size)})


def crowds(content):
    for entry in content["annotations"]:
        entry["iscrowd"] = 1


def more(*entries):
    return lambda content: content["annotations"].extend(entries)


NAN, INF = float("nan"), float("inf")
REFUSED = {
    "a number as file name": (lambda c: c["images"][0].update(file_name=5), "`file_name` of an image is no text"),
    "a box that is a mapping": (first(bbox={"x": 1}), "no box of four numbers"),
    "an image of 10^6 pixels with run lengths": (
        lambda c: (
            c["images"][0].update(width=10**6, height=10**6),
            c["annotations"][0].update(segmentation={"counts": [0, 10**12], "size": [10**6, 10**6]}),
        ),
        "is 64x64 pixels, not 1000000x1000000",
    ),
    "boxes of 0 to 1": (each(shares), "lie within 0 to 1"),
    "boxes as two corners": (each(corners), "a box of two corners|reaches out of its image"),
    "one box as two corners": (first(bbox=[4, 6, 24, 22]), "a box of two corners"),
    "a box out of the image": (first(bbox=[50, 50, 30, 30]), "reaches out of its image"),
    "a box left of the image": (first(bbox=[-30, 6, 20, 16]), "reaches out of its image"),
    "a NaN in a box": (first(bbox=[4, NAN, 20, 16]), "no finite number"),
    "an infinite box": (first(bbox=[4, 6, INF, 16]), "no finite number"),
    "a NaN as area": (first(area=NAN), "no finite number"),
    "a negative area": (first(area=-3), "has an area of -3"),
    "an area of 10^12": (first(area=1e12), "has an area of 1e\\+12"),
    "a negative width": (first(bbox=[24, 6, -20, 16]), "has a box of -20 x 16"),
    "a negative height": (first(bbox=[4, 22, 20, -16]), "has a box of 20 x -16"),
    "true as a coordinate": (first(bbox=[True, 6, 20, 16]), "no finite number"),
    "iscrowd 2": (first(iscrowd=2), "has iscrowd 2"),
    "crowds alone": (crowds, "all of its objects are crowds"),
    "a polygon of two points": (first(segmentation=[[1, 2, 3, 4]]), "fewer than three points|three points"),
    "a polygon of an odd number of values": (first(segmentation=[[1, 2, 9, 4, 5, 9, 7]]), "at least three points x, y"),
    "a second polygon that is none": (first(segmentation=[[4, 6, 24, 6, 24, 22], [1, 2]]), "at least three points"),
    "a polygon with text": (first(segmentation=[[4, 6, "x", 6, 24, 22]]), "no finite number"),
    "a polygon with a NaN": (first(segmentation=[[4, 6, NAN, 6, 24, 22]]), "no finite number"),
    "a polygon on a line": (first(segmentation=[[4, 6, 14, 6, 24, 6]]), "points lie on a line"),
    "a polygon out of the image": (first(segmentation=[[4, 6, 90, 6, 24, 22]]), "a polygon that reaches out"),
    "run lengths that do not add up": (run_lengths([10, 20]), "do not add up to the 4,096 pixels"),
    "run lengths with a negative one": (run_lengths([4100, -4]), "do not add up"),
    "run lengths of other pixels": (run_lengths([4096], (32, 128)), "run-length encoded mask"),
    "run lengths without a pixel": (run_lengths([4096]), "without a pixel"),
    "compressed run lengths cut short": (run_lengths("0"), "do not add up"),
    "compressed run lengths of foreign letters": (run_lengths("\u20ac!"), "do not add up"),
    "text as id of an image": (lambda c: c["images"].append({**c["images"][0], "id": "x"}), "no whole number"),
    "an image listed twice": (lambda c: c["images"].append({**c["images"][0], "id": 9}), "the same file"),
    "a fraction as id of a category": (lambda c: c["categories"].append({"id": 2.5, "name": "ox"}), "no whole number"),
}
SAID = {
    "train": {
        "a box of no width": (first(bbox=[4, 6, 0, 16]), "1 objects narrower than a pixel"),
        "an area of 0": (first(area=0), "1 objects narrower than a pixel"),
        "objects marked ignore": (first(ignore=1), "1 objects marked `ignore` are left out"),
        "an object that stands there twice": (more(square(9, 1)), "1 train objects stand there twice"),
        "a class without an object": (
            each(lambda e: e.update(category_id=1)),
            "no train object is of 1 of .* dog",
        ),
    },
    "val": {
        "objects marked ignore": (first(ignore=1), "is not heeded"),
        "101 objects in an image": (
            lambda c: c["annotations"].extend(square(10 + i, 1, x=4 + i / 4) for i in range(101)),
            "1 images show more than the 100",
        ),
        "a class of crowds alone": (
            lambda c: c["annotations"][2].update(iscrowd=1),
            "no val object is of 1 of the 2 classes: dog",
        ),
    },
}


def doubled(folder, count):
    """So many of the two validation images are training images under another name."""
    whole(folder)
    for i in range(1, count + 1):
        shutil.copy(folder / "train" / f"train{i}.png", folder / "val" / f"val{i}.png")
    return "; ".join(detection(str(folder), folder).notes)


def of_text(folder, text):
    (whole(folder) / "annotations" / "train.json").write_bytes(text)
    return detection(str(folder), folder)


CASES = [
    *(
        Case(f"{n} of 2 val images are train images", doubled, f"{n} of the 2 val images are train", "said", n)
        for n in (1, 2)
    ),
    *(
        Case(f"an annotation file of {what}", of_text, says="is not readable JSON|is missing or empty", argument=text)
        for what, text in (("100,000 brackets", b"[" * 100_000), ("bytes", b"\xff\x00"), ("UTF-16", b"\xff\xfe{\0}\0"))
    ),
    *(
        Case(f"{name}, {split}", met, says=says, argument=(split, edit))
        for name, (edit, says) in REFUSED.items()
        for split in ("train", "val")
    ),
    Case("a box of no width, val", met, says="no prediction can match it", argument=("val", first(bbox=[4, 6, 0, 16]))),
    *(
        Case(f"{name}, {split}", met, says=says, fate="said", argument=(split, edit))
        for split, found in SAID.items()
        for name, (edit, says) in found.items()
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_a_set_with_nothing_wrong_has_no_notes(tmp_path):
    assert all("not COCO" in note for note in detection(str(whole(tmp_path)), tmp_path).notes)


def test_compressed_run_lengths_are_those_of_pycocotools():
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.9):
        mask = np.asfortranarray(rng.random((37, 53)) < density, dtype=np.uint8)
        flat = mask.flatten(order="F").astype(int)
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        runs = runs if flat[0] == 0 else [0, *runs]
        assert coco_objects.decoded(coco_mask.encode(mask)["counts"].decode()) == runs
