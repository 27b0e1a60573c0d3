"""What is a demonstration and what is published, by what the data and the settings are: never by a folder's name or a
count alone."""

import numpy as np
import pytest
from PIL import Image

from evalkit import accuracy, data, models
from evalkit.data.embedded import digits
from evalkit.data.images import ArrayImages, Images, Subset
from evalkit.data.published import TRAIN_IMAGES, published_set
from evalkit.models import Loaded, imagenet_classes

IMAGENET = imagenet_classes()


def images(labels, classes):
    made = Images.__new__(Images)
    made.labels, made.classes, made.demonstration = np.asarray(labels, dtype=np.int64), list(classes), False
    return made


def val(classes=IMAGENET, each=50):
    return images(np.repeat(np.arange(len(classes)), each), classes)


def test_imagenet_val_is_its_classes_with_fifty_images_each():
    assert published_set(val()) == "imagenet-val"
    assert published_set(val(IMAGENET[::-1])) == "imagenet-val"  # in whatever order
    flowers = images(np.arange(50_000) % 2, ["daisy", "rose"])
    assert published_set(flowers) is None  # as many images, of something else
    assert published_set(val([f"class {i}" for i in range(1000)])) is None
    assert published_set(val(IMAGENET[:-1])) is None
    uneven = np.repeat(np.arange(1000), 50)
    uneven[0] = 1
    assert published_set(images(uneven, IMAGENET)) is None
    assert published_set(images(uneven[1:], IMAGENET)) is None
    nameless = val()
    nameless.labels[0] = -1
    assert published_set(nameless) is None


def test_imagenet_train_is_its_classes_and_number_of_images():
    count = np.full(1000, 1281)
    count[: TRAIN_IMAGES - count.sum()] += 1
    labels = np.repeat(np.arange(1000), count)
    assert len(labels) == TRAIN_IMAGES and published_set(images(labels, IMAGENET)) == "imagenet-train"
    assert published_set(images(labels[:-1], IMAGENET)) is None
    lopsided = np.concatenate([np.zeros(TRAIN_IMAGES - 999, int), np.arange(1, 1000)])
    assert published_set(images(lopsided, IMAGENET)) is None


@pytest.mark.parametrize("name", ["digits", "digits-photo", "digits-a", "digits-o"])
def test_an_embedded_set_is_a_demonstration_because_of_what_it_is(name):
    made = data.load(name)
    assert made.demonstration and Subset(made, [0, 1]).demonstration and published_set(made) is None
    made.name = "imagenet"
    assert made.demonstration


@pytest.mark.parametrize("name", ["digits", "digits-photo-mine"])
def test_own_data_are_none_whatever_their_folder_is_called(tmp_path, name):
    for label in "ab":
        (tmp_path / name / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / label / "x.png")
    made = data.folder(tmp_path / name)
    assert made.name == name and not made.demonstration
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    assert not ArrayImages("digits", ["x", "y"], [0, 1], ["a", "b"], pixels).demonstration


def loaded(**meta):
    return Loaded(None, "vit", None, "a" * 64, "x", "mixpro", "mine", "raw", meta)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, True),  # somebody else's weights: how they were made is their authors' word
        ({"config": {"lr": 1}, "published": True, "recipe": "mixpro"}, True),
        ({"config": {"lr": 1}, "published": False}, False),  # a run of ours, by other settings or not to its end
        ({"config": {"lr": 1}}, False),  # of an earlier version: it does not say
        ({"config": {"lr": 1}, "published": "yes"}, False),
    ],
)
def test_the_settings_of_a_run_count_too(meta, expected):
    assert loaded(**meta).published is expected
    assert loaded(**meta).subject().recipe == meta.get("recipe")
    for mode, fits in (("published", True), ("run", True), ("model", False), ("native", False)):
        assert accuracy.is_published(loaded(**meta), val(), mode) is (expected and fits)
    assert not accuracy.is_published(loaded(**meta), images(np.arange(50_000) % 2, ["daisy", "rose"]), "published")


def test_a_recipe_of_a_foreign_meta_is_text_or_nothing():
    assert loaded(recipe=["x"]).subject().recipe is None and loaded(recipe="x").subject().recipe == "x"
    assert models.Loaded is Loaded and not digits("val").problems
