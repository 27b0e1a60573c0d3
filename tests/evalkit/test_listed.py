"""Data sets by their own lists, on miniatures of the true layouts."""

import json
import shutil

import numpy as np
import pytest

from evalkit import data
from evalkit.data.known import KNOWN
from evalkit.errors import EvalkitError

from . import listed_miniatures as small

WNIDS = ["n01443537", "n01629819", "n01641577"]


def counts(images):
    return np.bincount(images.labels, minlength=len(images.classes)).tolist()


def test_tiny_imagenet(tmp_path):
    root = small.tiny_imagenet(tmp_path)
    train, val = (data.load("tiny-imagenet", part, root=tmp_path) for part in ("train", "val"))
    assert train.classes == val.classes == WNIDS and counts(train) == [3, 3, 3] and counts(val) == [2, 2, 2]
    assert train.ids[0] == "n01443537/images/n01443537_0.JPEG" and val.ids[0] == "n01443537/val_0.JPEG"
    label = {name.rpartition("/")[2]: WNIDS[k] for name, k in zip(val.ids, val.labels)}
    assert [label[f"val_{i}.JPEG"] for i in range(6)] == WNIDS * 2 and val.read(0).size == (40, 30)
    (root / "val" / "images" / "val_3.JPEG").unlink()
    with pytest.raises(EvalkitError, match="1 of the 6 images that val_annotations.txt lists are not below"):
        data.load("tiny-imagenet", "val", root=root)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn00000000\t0\t0\t1\t1\n")
    with pytest.raises(EvalkitError, match="names the class 'n00000000', which is none of the 3"):
        data.load("tiny-imagenet", "val", root=root)
    shutil.rmtree(root / "val")  # as some tools rearrange it
    for wnid in WNIDS:
        small.picture(root / "val" / wnid / "x.JPEG")
    assert counts(data.load("tiny-imagenet", "val", root=root)) == [1, 1, 1]


def test_cub(tmp_path):
    root = small.cub(tmp_path)
    train, test = (data.load("cub", part, root=tmp_path) for part in ("train", "val"))
    assert train.classes == ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird"]
    assert counts(train) == [2, 2, 2] and counts(test) == [1, 1, 1] and not set(train.ids) & set(test.ids)
    assert all(name.startswith(train.classes[k]) for name, k in zip(train.ids, train.labels))
    (root / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(EvalkitError, match="image 2 .* has no class"):
        data.load("cub", "train", root=root)


def test_aircraft(tmp_path):
    root = small.aircraft(tmp_path)
    sets = {part: data.load("aircraft", part, root=tmp_path) for part in ("train", "val", "trainval", "test")}
    assert sets["train"].classes == ["707-320", "Falcon 2000", "F/A-18"]  # in the order of variants.txt
    assert {part: len(s) for part, s in sets.items()} == {"train": 3, "val": 2, "trainval": 5, "test": 4}
    assert set(sets["trainval"].ids) == set(sets["train"].ids) | set(sets["val"].ids)
    assert dict(zip(sets["test"].ids, sets["test"].labels.tolist())) == {
        f"{1025794 + i:07d}.jpg": i % 3 for i in range(5, 9)
    }
    (root / "images_variant_val.txt").write_text("1025797\n")
    with pytest.raises(EvalkitError, match="a line should have 2 fields, but is '1025797'"):
        data.load("aircraft", "val", root=tmp_path)


@pytest.mark.parametrize("year", [2017, 2018])
def test_inaturalist(tmp_path, year):
    small.inaturalist(tmp_path, year)
    train, val = (data.load(f"inat{year}", part, root=tmp_path) for part in ("train", "val"))
    assert train.classes == val.classes == ["Anax junius", "Rana clamitans", "Ulmus alata"]  # by category id
    assert counts(train) == [2, 2, 1] and counts(val) == [2, 1, 1]
    assert all(train.classes[k] in name for name, k in zip(train.ids, train.labels))
    path = tmp_path / f"val{year}.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["name"] = "Ulmus"
    path.write_text(json.dumps(content))
    assert data.load(f"inat{year}", "val", root=tmp_path).classes == ["0 Ulmus", "1 Ulmus", "2 Ulmus"]
    content["annotations"][0]["category_id"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(EvalkitError, match=r"do not give each image one class, e\.g\. \(100, 7\)"):
        data.load(f"inat{year}", "val", root=tmp_path)
    path.write_text("{}")
    with pytest.raises(EvalkitError, match="is not the annotation file of iNaturalist"):
        data.load(f"inat{year}", "val", root=tmp_path)
    path.unlink()
    with pytest.raises(EvalkitError, match=f"does not hold iNaturalist {year}: val{year}.json: No such file"):
        data.load(f"inat{year}", "val", root=tmp_path)


def test_places205(tmp_path):
    small.places205(tmp_path)
    train, val = (data.load("places205", part, root=tmp_path) for part in ("train", "val"))
    assert train.classes == val.classes == ["a/abbey", "a/airport_terminal", "a/apartment_building/outdoor"]
    assert counts(train) == [2, 2, 2] and counts(val) == [1, 1, 1]
    assert all(name.startswith(train.classes[k]) for name, k in zip(train.ids, train.labels))
    lists = tmp_path / "trainvalsplit_places205"
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data/vision/torralba/deeplearning/images256", moved / "images256")
    shutil.copy(lists / "val_places205.csv", moved)
    assert data.load("places205", "val", root=moved).ids[:] == val.ids[:]
    for text, says in (
        ("a/abbey/x.jpg 0\na/bar/x.jpg 0\n", "class 0 is a/abbey and a/bar"),
        ("a/abbey/x.jpg 1\n", "its class numbers are not 0 to 0"),
        ("a/abbey/gone.jpg 0\n", "1 of the 1 images that val_places205.csv lists are not below"),
        ("../x.jpg 0\n", "lies outside"),
        ("a/abbey/x.jpg zero\n", "'zero' should be a number"),
        ("", "lists no image"),
        ("a/abbey/gsun_val0.jpg 0\n" * 2, "lists a/abbey/gsun_val0.jpg twice"),
    ):
        (lists / "val_places205.csv").write_text(text)
        with pytest.raises(EvalkitError, match=says) as e:
            data.load("places205", "val", root=tmp_path)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_another_layout_gives_one_line(tmp_path, name):
    part = KNOWN[name].parts[0]
    with pytest.raises(EvalkitError, match="give data_dir=DIR"):
        data.load(name, part)
    with pytest.raises(EvalkitError, match="no such folder"):
        data.load(name, part, root=tmp_path / "nowhere")
    small.picture(tmp_path / "train" / "cat" / "x.jpg")
    with pytest.raises(EvalkitError, match="does not hold") as e:
        data.load(name, part, root=tmp_path)
    assert "\n" not in str(e.value)
    with pytest.raises(EvalkitError, match=f"unknown split of {name} 'trian'"):
        data.load(name, "trian", root=tmp_path)
