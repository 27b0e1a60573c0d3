"""digits-scenes: what lies on disk against what is painted, both layouts against each other and against pycocotools."""

import contextlib
import io
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.datasets import load_digits

from evalkit.downstream import scenes
from evalkit.downstream.scenes import make_scene, write_scenes
from evalkit.errors import EvalkitError

COUNT = {"train": 6, "val": 4}


def write(root, **changes):
    return write_scenes(root, **({**COUNT, "size": 48} | changes))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "root"
    write(root)
    return root


def coco(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(root / f"coco/annotations/instances_{split}2017.json")


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- a scene


@pytest.fixture(scope="module")
def many():
    return [make_scene(split, i) for split in ("train", "val") for i in range(60)]


def test_scenes_vary(many):
    assert {s.pixels.shape for s in many} == {(96, 128, 3), (128, 96, 3)} and {s.pixels.dtype for s in many} == {
        np.dtype(np.uint8)
    }
    count = [len(s.digits) for s in many]
    assert min(count) == 2 and max(count) == 6
    assert set(np.concatenate([s.digits for s in many])) == set(range(10))
    sides = np.concatenate([s.boxes[:, 3] for s in many])
    assert sides.min() < 24 and sides.max() > 42
    pairs = [(a, b) for s in many for a, b in itertools.combinations(s.boxes, 2)]
    # boxes overlap
    assert sum((np.maximum(a[:2], b[:2]) < np.minimum(a[:2] + a[2:], b[:2] + b[2:])).all() for a, b in pairs) > 30


def test_digits_are_scikit_learns_and_no_split_sees_one_of_the_other(many):
    target = load_digits().target
    used = {"train": many[:60], "val": many[60:]}
    rows = {split: np.concatenate([s.rows for s in part]) for split, part in used.items()}
    assert not set(rows["train"]) & set(rows["val"])
    strokes = {split: {load_digits().images[i].tobytes() for i in set(r)} for split, r in rows.items()}
    assert not strokes["train"] & strokes["val"] and len(strokes["val"]) > 100
    for s in many:
        assert np.array_equal(target[s.rows], s.digits) and len(set(s.rows)) == len(s.rows)


def test_masks_are_what_was_painted(monkeypatch):
    """With squares for digits every pixel is one colour or background: masks and covering can be read off the
    picture."""
    bare = {}
    monkeypatch.setattr(scenes, "ink", lambda strokes, side: np.zeros((side, side)))
    monkeypatch.setattr(scenes, "HIDDEN", 1.0)  # the same draws with and without ink
    for i in range(12):
        bare[i] = make_scene("train", i).pixels
    monkeypatch.setattr(scenes, "ink", lambda strokes, side: np.ones((side, side)))
    for i in range(12):
        s = make_scene("train", i)
        assert (s.masks.sum(axis=0) <= 1).all()
        covered = s.masks.any(axis=0)
        assert np.array_equal(s.pixels[~covered], bare[i][~covered])
        for j, mask in enumerate(s.masks[s.masks.any(axis=(1, 2))]):
            assert len({tuple(p) for p in s.pixels[mask]}) == 1, (i, j)
            assert s.pixels[mask].max() == 255
        top = s.masks[-1]  # nothing covers the last one
        x, y, w, h = s.boxes[-1]
        assert w == h and top.sum() == w * h and top[y : y + h, x : x + w].all()


def test_no_digit_is_hidden(monkeypatch):
    seen = []
    monkeypatch.setattr(scenes, "ink", lambda strokes, side: np.ones((side, side)))
    for i in range(20):
        s = make_scene("val", i)
        seen += [mask.sum() / max(w, h) ** 2 for mask, (_, _, w, h) in zip(s.masks, s.boxes)]
    # squares cover one another, but no more than that
    assert min(seen) >= 0.75 and sum(share < 1 for share in seen) > 5


def test_half_of_the_colour_decides(monkeypatch):
    for opacity, seen in ((0.49, 0), (0.5, 1)):
        monkeypatch.setattr(scenes, "ink", lambda strokes, side, opacity=opacity: np.full((side, side), opacity))
        assert make_scene("train", 0).masks.any() == seen


def test_labels_and_boxes_by_brute_force(many):
    for s in many[:20]:
        labels = np.zeros(s.pixels.shape[:2], int)
        for digit, mask, box in zip(s.digits, s.masks, s.boxes):
            labels[mask] = digit + 1
            at = np.argwhere(mask)
            (top, left), (bottom, right) = at.min(axis=0), at.max(axis=0)
            assert box.tolist() == [left, top, right - left + 1, bottom - top + 1]
        assert np.array_equal(s.labels, labels) and s.labels.dtype == np.uint8


def test_a_scene_depends_on_its_number_alone():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    a, b, other = make_scene("train", 3), make_scene("train", 3), make_scene("train", 3, seed=1)
    assert np.array_equal(a.pixels, b.pixels) and np.array_equal(a.masks, b.masks)
    assert a.pixels.shape != other.pixels.shape or not np.array_equal(a.pixels, other.pixels)
    assert np.array_equal(np.random.get_state()[1], state)


# ---- on disk


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_files_equal_the_scenes(root, split):
    data = coco(root, split)
    assert data.getCatIds() == list(range(1, 11)) and [c["name"] for c in data.loadCats(data.getCatIds())] == list(
        "0123456789"
    )
    assert len(data.getImgIds()) == COUNT[split] == len(list((root / f"coco/{split}2017").iterdir()))
    for i, image in enumerate(data.loadImgs(sorted(data.getImgIds()))):
        s = make_scene(split, i, size=48)
        with Image.open(root / f"coco/{split}2017" / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"]) == s.pixels.shape[1::-1] and photo.format == "JPEG"
            assert np.abs(np.asarray(photo).astype(int) - s.pixels).mean() < 3
        found = data.loadAnns(data.getAnnIds(image["id"]))
        assert len(found) == len(s.digits)
        for made, digit, mask in zip(found, s.digits, s.masks):
            assert (
                np.array_equal(data.annToMask(made), mask) and made["category_id"] == digit + 1 and made["iscrowd"] == 0
            )
            at = np.argwhere(mask)[:, ::-1]
            low, high = at.min(axis=0), at.max(axis=0) + 1
            assert made["bbox"] == [*low.tolist(), *(high - low).tolist()] and made["area"] == len(at)


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_layouts_hold_the_same(root, split):
    voc, data = root / "VOCdevkit/VOC2010", coco(root, split)
    stems = (voc / f"ImageSets/SegmentationContext/{split}.txt").read_text().split()
    assert [f"{stem}.jpg" for stem in stems] == [image["file_name"] for image in data.loadImgs(data.getImgIds())]
    for stem in stems:
        assert (voc / f"JPEGImages/{stem}.jpg").read_bytes() == (root / f"coco/{split}2017/{stem}.jpg").read_bytes()
        with Image.open(voc / f"SegmentationClassContext/{stem}.png") as image:
            assert image.mode == "L"
            labels = np.asarray(image)
        expected = np.zeros_like(labels)
        for made in data.loadAnns(data.getAnnIds(int(stem))):
            expected[data.annToMask(made) == 1] = made["category_id"]
        assert np.array_equal(labels, expected) and labels.max() > 0


def test_ids_are_unique_and_the_splits_apart(root):
    sets = [
        json.loads((root / f"coco/annotations/instances_{split}2017.json").read_text()) for split in ("train", "val")
    ]
    for kind in ("images", "annotations"):
        ids = [[entry["id"] for entry in one[kind]] for one in sets]
        assert len(set(ids[0] + ids[1])) == len(ids[0]) + len(ids[1])
    lists = [
        (root / f"VOCdevkit/VOC2010/ImageSets/SegmentationContext/{split}.txt").read_text().split()
        for split in ("train", "val")
    ]
    assert len(list((root / "VOCdevkit/VOC2010/JPEGImages").iterdir())) == len(set(lists[0] + lists[1])) == 10


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_truth_as_prediction_has_an_ap_of_one(root, kind):
    truth = coco(root, "val")
    predicted = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")}, "score": 1.0}
        for a in truth.dataset["annotations"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCOeval(truth, truth.loadRes(predicted), kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    assert judged.stats[:3] == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    write(tmp_path / "again")
    assert files(tmp_path / "again") == files(root)
    fingerprints = write(root)
    more = write(tmp_path / "more", train=8)
    assert {k: v for k, v in files(tmp_path / "more").items() if "val" in k or "VOC2010/JPEG" in k}.items() >= {
        k: v for k, v in files(root).items() if "val" in k or "VOC2010/JPEG" in k
    }.items()
    assert more["val"] == fingerprints["val"] != more["train"] != fingerprints["train"]
    other = write(tmp_path / "other", seed=1)
    assert not set(other.values()) & set(fingerprints.values())


def test_what_is_there_is_not_made_again(root, monkeypatch):
    monkeypatch.setattr(scenes, "make_scene", None)
    info = json.loads((root / "scenes.json").read_text())
    assert write(root) == info["fingerprints"] and set(info["fingerprints"]) == {"train", "val"}


def test_another_set_damage_or_foreign_files_are_refused_in_one_line(root, tmp_path):
    write(tmp_path / "damaged")
    next((tmp_path / "damaged/coco/val2017").iterdir()).unlink()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    for folder, changes in (
        (root, {"seed": 1}),
        (tmp_path / "damaged", {}),
        (tmp_path / "foreign", {}),
        (tmp_path / "file", {}),
    ):
        before = files(folder)
        with pytest.raises(EvalkitError, match="remove it or choose another folder") as e:
            write(folder, **changes)
        assert "\n" not in str(e.value) and files(folder) == before
    with pytest.raises(ValueError, match="val"):
        write(tmp_path / "none", val=0)


def test_a_crash_leaves_nothing(tmp_path, monkeypatch):
    make, calls = scenes.make_scene, itertools.count()

    def crash(*args, **kwargs):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return make(*args, **kwargs)

    monkeypatch.setattr(scenes, "make_scene", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once(tmp_path, monkeypatch):
    """Whoever comes second finds the folder filled and uses it."""
    make, done = scenes.make_scene, []

    def slow(*args, **kwargs):
        if not done:
            done.append(True)
            monkeypatch.setattr(scenes.os, "getpid", lambda: 1)
            assert set(write(tmp_path / "root")) == {"train", "val"}
            monkeypatch.setattr(scenes.os, "getpid", lambda: 2)
        return make(*args, **kwargs)

    monkeypatch.setattr(scenes, "make_scene", slow)
    fingerprints = write(tmp_path / "root")
    monkeypatch.undo()
    assert fingerprints == write(tmp_path / "root") and [p.name for p in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    "name",
    ["VOCdevkit/VOC2010/JPEGImages", "VOCdevkit/VOC2010/SegmentationClassContext", "coco/val2017", "coco/annotations"],
)
def test_scenes_that_were_overwritten_are_not_taken_for_those_that_were_made(root, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert write(copy) == write(root)
    first, *_, last = sorted((copy / name).iterdir())
    first.write_bytes(last.read_bytes())
    with pytest.raises(EvalkitError, match="is not empty and not the digits-scenes asked for .*, as they were made"):
        write(copy)
