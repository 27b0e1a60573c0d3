"""What a published set holds when it is whole, and what `whole` means for what is called published."""

import dataclasses

import numpy as np
import pytest

from evalkit.data import known
from evalkit.data.images import ArrayImages, Subset
from evalkit.data.known import KNOWN, open_known, size_of
from evalkit.data.published import published_set, sets_of_recipe

# images and classes by the papers and home pages of the sets (Krizhevsky 2009; cs231n; Wah et al. 2011; Maji et al.
# 2013; Krause et al. 2013; Nilsback and Zisserman 2008; Parkhi et al. 2012; Bossard et al. 2014; Van Horn et al. 2018
# and its 2018 edition; Zhou et al. 2014)
PUBLISHED = {
    "cifar10": (10, {"train": 50_000, "test": 10_000}),
    "cifar100": (100, {"train": 50_000, "test": 10_000}),
    "tiny-imagenet": (200, {"train": 100_000, "val": 10_000}),
    "cub": (200, {"train": 5994, "test": 5794}),
    "aircraft": (100, {"train": 3334, "val": 3333, "trainval": 6667, "test": 3333}),
    "cars": (196, {"train": 8144, "test": 8041}),
    "flowers": (102, {"train": 1020, "val": 1020, "trainval": 2040, "test": 6149}),
    "pets": (37, {"trainval": 3680, "test": 3669}),
    "food101": (101, {"train": 75_750, "test": 25_250}),
    "inat2017": (5089, {"train": 579_184, "val": 95_986}),
    "inat2018": (8142, {"train": 437_513, "val": 24_426}),
    "places205": (205, {"train": 2_448_873, "val": 20_500}),
}


def test_the_published_numbers():
    found = {name: (s.classes, {part: n for part, (n, _) in s.splits.items()}) for name, s in KNOWN.items()}
    assert found == PUBLISHED
    assert sum(PUBLISHED["cub"][1].values()) == 11_788 and PUBLISHED["aircraft"][1]["trainval"] + 3333 == 10_000
    assert size_of("aircraft", "trainval") == (6667, 100) and size_of("cub", "val") == (5794, 200)
    assert size_of("cub", "nothing") is None and size_of("imagenet", "train") is None
    assert sum(n for part, n in PUBLISHED["flowers"][1].items() if part != "trainval") == 8189
    assert sum(PUBLISHED["cars"][1].values()) == 16_185 and sum(PUBLISHED["food101"][1].values()) == 101_000
    for s in KNOWN.values():
        assert s.val in s.splits and all(each in (None, n / s.classes) for n, each in s.splits.values())


def test_whole_is_the_published_number_of_images_and_classes(tmp_path, monkeypatch):
    def images(n=12, classes=3):
        labels = np.arange(n) % classes
        pixels = np.zeros((n, 2, 2, 3), np.uint8)
        return ArrayImages("set", [f"{i}" for i in range(n)], labels, [f"c{k}" for k in range(classes)], pixels)

    small = dataclasses.replace(KNOWN["cifar10"], classes=3, splits={"train": (12, 4), "test": (6, 2)})
    for made, says in (
        (images(), None),
        (images(11), "11 images instead of 12"),
        (images(12, 4), "4 classes instead of 3"),
    ):
        monkeypatch.setitem(known.KNOWN, "cifar10", dataclasses.replace(small, read=lambda root, part, made=made: made))
        opened = open_known("cifar10", "train", tmp_path)
        assert (opened.whole, published_set(opened)) == ((None, None) if says else ("cifar10-train", "cifar10-train"))
        assert opened.remarks == ([f"CIFAR-10, train: not the published set: {says}"] if says else [])
    uneven = images()
    uneven.labels[0] = 1
    assert known.compare(uneven, small, "train") == ["3 images of c0 instead of 4"]
    whole = images()
    whole.whole = "cifar10-train"
    assert published_set(Subset(whole, [0, 1])) is None


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (None, ("imagenet-train", "imagenet-val")),
        ({"data": "folder", "train_split": "train", "val_split": "val"}, ("imagenet-train", "imagenet-val")),
        ({"data": "cub", "train_split": "train", "val_split": "val"}, ("cub-train", "cub-test")),
        ({"data": "aircraft", "train_split": "trainval", "val_split": "test"}, ("aircraft-trainval", "aircraft-test")),
        ({"data": "digits", "train_split": "train", "val_split": "val"}, ("digits-train", "digits-val")),
    ],
)
def test_the_sets_that_a_recipe_was_published_on(recipe, expected):
    assert sets_of_recipe(recipe) == expected
