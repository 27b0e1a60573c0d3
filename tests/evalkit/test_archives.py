"""Stanford Cars, Flowers-102, Oxford Pets and Food-101 on miniatures of their layouts, beside torchvision's readers."""

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from evalkit import data
from evalkit.data.known import KNOWN
from evalkit.errors import EvalkitError

from . import listed_miniatures as small

PARTS = {
    "cars": ("train", "test"),
    "flowers": ("train", "val", "test"),
    "pets": ("trainval", "test"),
    "food101": ("train", "test"),
}
PEER = {
    "cars": lambda root, part: datasets.StanfordCars(root, part),
    "flowers": lambda root, part: datasets.Flowers102(root, part),
    "pets": lambda root, part: datasets.OxfordIIITPet(root, part),
    "food101": lambda root, part: datasets.Food101(root, part),
}


@pytest.mark.parametrize("name", PARTS)
def test_images_and_labels_are_torchvisions(tmp_path, name, monkeypatch):
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)  # of the true files alone
    root = getattr(small, name)(tmp_path)
    for part in PARTS[name]:
        ours, peer = data.load(name, part, root=tmp_path), PEER[name](tmp_path, part)
        other = {ours.read(i).tobytes() for i in range(len(ours))}
        assert {peer[i][0].tobytes() for i in range(len(peer))} == other
        at = {id.rpartition("/")[2]: int(k) for id, k in zip(ours.ids, ours.labels)}
        files = getattr(peer, "_image_files", None) or getattr(peer, "_images", None) or [p for p, _ in peer._samples]
        assert at == {str(file).rpartition("/")[2]: peer[i][1] for i, file in enumerate(files)}
        inner = data.load(name, part, root=root)  # the folder itself, as well as the one above it
        assert (inner.ids[:], inner.fingerprint) == (ours.ids[:], ours.fingerprint)
        assert ours.whole is None and "not the published set" in ours.remarks[0]


def test_classes_by_name_and_both_parts_of_flowers(tmp_path):
    for name in PARTS:
        getattr(small, name)(tmp_path)
    found = {name: data.load(name, parts[0], root=tmp_path).classes for name, parts in PARTS.items()}
    assert found == {
        "cars": ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "BMW M3 Coupe 2012"],
        "flowers": ["1", "2", "3"],
        "pets": ["Abyssinian", "american_bulldog", "Bengal"],
        "food101": ["apple_pie", "beet_salad", "creme_brulee"],
    }
    both = data.load("flowers", "trainval", root=tmp_path)
    parts = [data.load("flowers", part, root=tmp_path).ids for part in ("train", "val")]
    assert both.ids[:] == sorted(parts[0][:] + parts[1][:]) and np.bincount(both.labels).tolist() == [2, 2, 2]
    assert data.load("pets", "val", root=tmp_path).ids[:] == data.load("pets", "test", root=tmp_path).ids[:]


def test_labels_of_the_test_cars_may_lie_in_the_devkit(tmp_path):
    small.cars(tmp_path, withlabels="devkit")
    assert len(data.load("cars", "test", root=tmp_path)) == 4


def test_what_transfers_publish():
    """Table 1 of Kornblith et al., CVPR 2019; that of the Pets prints 3,369 test images where the lists hold 3,669."""
    per_class = {name for name, known in KNOWN.items() if known.per_class}
    assert per_class == {"aircraft", "pets", "flowers"}
    sizes = {name: [KNOWN[name].splits[part][0] for part in KNOWN[name].parts] for name in (*PARTS, "aircraft")}
    assert sizes == {
        "cars": [8144, 8041],
        "flowers": [2040, 6149],
        "pets": [3680, 3669],
        "food101": [75_750, 25_250],
        "aircraft": [6667, 3333],
    }
    assert all(part in known.splits for known in KNOWN.values() for part in known.parts)


def broken(root, name):
    """(what is done to the miniature, what the error says)"""
    of = {
        "cars": [
            (lambda: (root / "devkit/cars_train_annos.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200)), "cannot"),
            (lambda: savemat(root / "devkit/cars_train_annos.mat", {"other": [1]}), "cannot read annotations of"),
            (lambda: savemat(root / "devkit/cars_train_annos.mat", {"annotations": [1, 2]}), "have no fname and class"),
            (
                lambda: savemat(root / "devkit/cars_train_annos.mat", {"annotations": {"fname": "a.jpg", "class": 9}}),
                "'9' should be a number from 1 to 3",
            ),
            (lambda: (root / "devkit/cars_train_annos.mat").unlink(), "No such file"),
        ],
        "flowers": [
            (lambda: savemat(root / "setid.mat", {"trnid": [1, 99]}), "'99' should be a number from 1 to 10"),
            (lambda: savemat(root / "setid.mat", {"trnid": [1, 1]}), "lists image_00001.jpg twice"),
            (lambda: savemat(root / "imagelabels.mat", {"labels": [1.5]}), "'1.5' should be a number"),
            (lambda: (root / "jpg/image_00003.jpg").unlink(), "1 of the 3 images that setid.mat lists are not below"),
        ],
        "pets": [
            (lambda: (root / "annotations/trainval.txt").write_text("Bengal_1 1 1 1\nBombay_1 1 1 1\n"), "class 1 is"),
            (lambda: (root / "annotations/trainval.txt").write_text("Bengal_1 2 1 1\n"), "are not 1 to 1"),
            (lambda: (root / "annotations/trainval.txt").write_text("Bengal_1 x 1 1\n"), "'x' should be a number"),
            (lambda: (root / "annotations/trainval.txt").write_text(""), "are not|lists no image"),
        ],
        "food101": [
            (lambda: (root / "meta/train.txt").write_text("pizza/1\n"), "names the class 'pizza'"),
            (lambda: (root / "meta/train.txt").write_text("apple_pie/../../1\n"), "lies outside"),
            (lambda: (root / "meta/train.txt").unlink(), "cannot read"),
        ],
    }
    return of[name]


@pytest.mark.parametrize("name", PARTS)
def test_what_is_damaged_gives_one_line(tmp_path, name):
    for number in range(len(broken(tmp_path, name))):
        folder = tmp_path / str(number)
        damage, says = broken(getattr(small, name)(folder), name)[number]
        damage()
        with pytest.raises(EvalkitError, match=says) as e:
            data.load(name, PARTS[name][0], root=folder)
        assert "\n" not in str(e.value)
