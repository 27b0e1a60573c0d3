"""Annotation files that pycocotools or MMDetection would misread, drop or merge."""

import json
import shutil

import numpy as np
import pytest

from evalkit import config
from evalkit.downstream import coco_objects, det
from evalkit.downstream.about.det import DetConfig
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
    return looked_at(whole(folder), change)


def met_alone(folder, change):
    """The same of a set of boxes alone, for detectors without masks."""
    for path in (whole(folder) / "annotations").iterdir():
        content = json.loads(path.read_text())
        for entry in content["annotations"]:
            del entry["segmentation"]
        path.write_text(json.dumps(content))
    return looked_at(folder, change)


def looked_at(folder, change):
    split, edit = change
    path = folder / "annotations" / f"{split}.json"
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


def of_corners(content):
    """Boxes that reach over no border, with the areas that they mean."""
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry |= {"bbox": [x, y, x + w, y + h], "area": w * h}
        entry["image_id"] = content["images"][0]["id"]


def near(content):
    """Boxes that could be either, without areas that tell."""
    content["annotations"] = [
        {"id": 1 + i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [2, 3, 20 + i, 30], "area": 300, "iscrowd": 0}
        for i in range(20)
    ]


def turned(content):
    """A mask whose rows and columns are confused."""
    content["annotations"][0] |= {"bbox": [30, 4, 30, 6], "segmentation": [[4, 30, 10, 30, 10, 60, 4, 60]]}


def empty(content):
    """An image without an object."""
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] == 1]


NAN, INF = float("nan"), float("inf")
REFUSED = {
    "a number as file name": (lambda c: c["images"][0].update(file_name=5), "`file_name` of an image is no text"),
    "a box that is a mapping": (first(bbox={"x": 1}), "no box of four numbers"),
    "an image of 10^6 pixels with run lengths": (
        lambda c: (
            c["images"][0].update(width=10**6, height=10**6),
            c["annotations"][0].update(segmentation={"counts": [0, 10**12], "size": [10**6, 10**6]}),
        ),
        "1000000 x 1000000 pixels are too many",
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
    "text as id of an object": (first(id="x"), "`id` of an object is no whole number"),
    "no id of an object": (first(id=None), "`id` of an object is no whole number"),
    "a fraction as id of an object": (first(id=1.5), "`id` of an object is no whole number"),
    "an id of 70 bits": (
        lambda c: (c["images"][0].update(id=2**70), c["annotations"][0].update(image_id=2**70)),
        "of up to 64 bits",
    ),
    "an image listed by two paths": (
        lambda c: c["images"].append({**c["images"][0], "id": 9, "file_name": "./" + c["images"][0]["file_name"]}),
        "the same file",
    ),
    "a width that is a fraction": (lambda c: c["images"][0].update(width=64.0), "no whole number"),
    "a class of an empty name": (lambda c: c["categories"][1].update(name=" "), "an empty name"),
    "an area that no float holds": (first(area=10**400), "no finite number"),
    "a coordinate that no float holds": (first(bbox=[4, 6, -(10**400), 3]), "no finite number"),
    "a polygon's coordinate that no float holds": (
        first(segmentation=[[4, 6, 10**400, 6, 24, 22]]),
        "no finite number",
    ),
    "an image listed with 10^9 x 10^9 pixels": (
        lambda c: c["images"][1].update(width=10**9, height=10**9),
        "1000000000 x 1000000000 pixels are too many.*; correct its width and height",
    ),
    "compressed run lengths of a million bits": (run_lengths("o" * 200_000 + "0"), "do not add up"),
    "run lengths of 10^18 pixels": (run_lengths([10**18, 10**18]), "do not add up"),
    "a box elsewhere than its mask": (first(bbox=[40, 40, 10, 10]), "lies elsewhere than its mask"),
    "a box elsewhere than its run lengths": (
        run_lengths([50 * 64 + 50, 5, 4096 - 50 * 64 - 55]),
        "lies elsewhere than its mask",
    ),
    "rows and columns of a mask confused": (turned, "lies elsewhere than its mask"),
    "a fraction as id of a category": (lambda c: c["categories"].append({"id": 2.5, "name": "ox"}), "no whole number"),
}
THIN = [[10.6, 10, 10.9, 10, 10.9, 30, 10.6, 30]]
# those that are met in a file of boxes alone as well
OF_BOXES = [
    n for n in REFUSED if "polygon" not in n and "run lengths" not in n and "mask" not in n and "two corner" not in n
]
MARKS = {  # said of both splits
    "areas as shares of the image": (
        each(lambda e: e.update(area=e["area"] / 4096)),
        "3 .* objects have an `area` that is not theirs, e.g. object 1",
    ),
    "the area of the whole image": (first(area=4096), "1 .* objects have an `area` that is not theirs"),
    "objects that CVAT has turned": (first(attributes={"rotation": 30.0}), "1 .* objects have a `rotation`"),
    "an image that LVIS has looked through for some classes": (
        lambda c: c["images"][0].update(not_exhaustive_category_ids=[2]),
        "annotated for some classes only",
    ),
}
SAID = {
    "train": {
        "a box half beside its mask": (first(bbox=[16, 6, 24, 16]), "a box that is not that of their mask"),
        "a box far larger than its mask": (first(bbox=[0, 0, 64, 64]), "a box that is not that of their mask"),
        "an image that no file lists": (
            lambda c: c.update(images=c["images"][:1], annotations=[a for a in c["annotations"] if a["image_id"] == 1]),
            "1 images of train are not listed and not used, e.g. train2.png",
        ),
        "a box of no width": (first(bbox=[4, 6, 0, 16]), "1 objects narrower than a pixel"),
        "an area of 0": (first(area=0), "1 objects narrower than a pixel"),
        "objects marked ignore": (first(ignore=1), "1 objects marked `ignore` are left out"),
        "an object that stands there twice": (more(square(9, 1)), "1 train objects stand there twice"),
        **MARKS,
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
        **MARKS,
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


def transfer_data(folder, change):
    """What a transfer says before it trains."""
    looked_at(whole(folder), ("train", change))
    cfg = config.load(DetConfig, "coco", [f"data={folder}"], folder="det")
    return "; ".join(det.find_data(cfg, folder / "run").notes)


def both_lists(folder, more):
    """Categories that both files list besides."""
    for split in ("train", "val"):
        looked_at(whole(folder), (split, lambda c: None))
    for split in ("train", "val"):
        path = folder / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        content["categories"] += more
        path.write_text(json.dumps(content))
    return "; ".join(detection(str(folder), folder).notes)


CASES = [
    *(
        Case(
            f"two classes of one look, {name!a}",
            both_lists,
            "their names look the same",
            "said",
            [{"id": 3, "name": name}],
        )
        for name in ("Cat", "cat ", "c\u200bat", "\uff43at")
    ),
    Case(
        "a class of the set's own name, as Roboflow writes it",
        both_lists,
        "no train object is of 1 of the 3 classes: animals",
        "said",
        [{"id": 0, "name": "animals", "supercategory": "none"}],
    ),
    *(
        Case(f"{name}, {split}, boxes alone", met_alone, says=REFUSED[name][1], argument=(split, REFUSED[name][0]))
        for name in OF_BOXES
        for split in ("train", "val")
    ),
    *(
        Case(f"boxes as two corners that fit, {split}, boxes alone", met_alone, "two corners, by the areas", argument=a)
        for split, a in (("train", ("train", of_corners)), ("val", ("val", of_corners)))
    ),
    Case("boxes that may be two corners", met_alone, "would also make sense as two", "said", ("train", near)),
    *(
        Case(f"{name}, {split}, boxes alone", met_alone, says=says, fate="said", argument=(split, edit))
        for split, found in SAID.items()
        for name, (edit, says) in found.items()
        if not any(part in name for part in ("mask", "no file", "twice", "101"))  # they speak of masks
    ),
    Case(
        "a mask without a pixel's width, val",
        met,
        "covers no pixel",
        argument=("val", first(segmentation=THIN, bbox=[10, 10, 2, 20])),
    ),
    Case("train images without an object", transfer_data, "1 of the 2 train images are not trained on", "said", empty),
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


def test_the_box_around_run_lengths_is_that_of_pycocotools():
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    for _ in range(50):
        mask = np.zeros((19, 23), np.uint8, order="F")
        (top, bottom), (left, right) = np.sort(rng.integers(0, 19, 2)), np.sort(rng.integers(0, 23, 2))
        mask[top : bottom + 1, left : right + 1] = rng.random((bottom - top + 1, right - left + 1)) < 0.6
        found = coco_mask.encode(mask)
        x, y, w, h = coco_mask.toBbox(found)
        own = coco_objects._extent({"counts": found["counts"].decode(), "size": [19, 23]}, 19)
        assert own == (None if not mask.any() else (x, y, x + w, y + h))


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
