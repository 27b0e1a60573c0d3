"""Sheets show each image, its truth and its prediction, and nothing that is not there."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from evalkit import plots
from evalkit.downstream import sheets
from evalkit.downstream.sheets import Objects

CLASSES = ["background", "cat", "do$g", "_owl"]


def picture(ax):
    (image,) = ax.get_images()
    return np.asarray(image.get_array())


def sample(value, height=6, width=8):
    return np.full((height, width, 3), value, np.uint8)


def test_segmentation_paints_classes_and_leaves_the_background():
    truth, predicted = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    truth[:2, :3], truth[5, 7], predicted[:2, 1:3] = 1, 255, 2
    figure = sheets.segmentation([(sample(100), truth, predicted), (sample(50), truth * 0, predicted * 0)], CLASSES)
    plain, true, found, *second = figure.axes
    assert (picture(plain) == 100).all() and [ax.get_title() for ax in figure.axes] == [
        "image",
        "truth",
        "prediction",
    ] * 2
    expected = (25 + 191.25 * np.array(sheets.colour(1))).astype(np.uint8)
    assert (
        (picture(true)[:2, :3] == expected).all()
        and (picture(true)[2:5] == 100).all()
        and (picture(true)[5, 7] == 0).all()
    )
    changed = (picture(found) != 100).any(axis=2)
    assert np.array_equal(changed, predicted == 2)
    assert all((picture(ax) == 50).all() for ax in second)
    (legend,) = figure.legends
    # neither background nor what does not occur
    assert [text.get_text() for text in legend.get_texts()] == [" cat", r" do\$g"]
    assert [to_rgb(patch.get_facecolor()) for patch in legend.get_patches()] == [
        pytest.approx(sheets.colour(i)) for i in (1, 2)
    ]


def test_without_a_background_class_label_zero_is_painted():
    labels = np.zeros((6, 8), np.uint8)
    figure = sheets.segmentation([(sample(100), labels, labels)], ["ground", "plant"])
    assert (picture(figure.axes[1]) != 100).any() and len(figure.legends[0].get_texts()) == 1


def objects(scores=None):
    masks = np.zeros((3, 6, 8), bool)
    for i in range(3):
        masks[i, 2 * i, 2 * i : 2 * i + 2] = True
    boxes = np.array([[2 * i, 2 * i, 2 * i + 2, 2 * i + 1] for i in range(3)], float)
    return Objects(boxes, masks, np.array([1, 2, 3]), scores)


def test_detection_shows_masks_boxes_and_names_above_the_threshold():
    figure = sheets.detection([(sample(100), objects(), objects(np.array([0.9, 0.5, 0.49])))], CLASSES)
    plain, true, found = figure.axes
    assert not plain.patches and [t.get_text() for t in true.texts] == [" cat", r" do\$g", " _owl"]
    assert [t.get_text() for t in found.texts] == [r" do\$g 50", " cat 90"]  # the surest last, on top
    assert [t.get_va() for t in true.texts] == ["top", "bottom", "bottom"]  # the first would be off the image
    assert np.array_equal((picture(true) != 100).any(axis=2), objects().masks.any(axis=0))
    assert np.array_equal((picture(found) != 100).any(axis=2), objects().masks[:2].any(axis=0))
    corners = [(p.get_x() + 0.5, p.get_y() + 0.5, p.get_width(), p.get_height()) for p in true.patches]
    assert corners == [(0, 0, 2, 1), (2, 2, 2, 1), (4, 4, 2, 1)]  # pixels are centred on their index
    assert [to_rgb(p.get_edgecolor()) for p in found.patches] == [pytest.approx(sheets.colour(i)) for i in (2, 1)]


def test_nothing_found_and_odd_numbers_of_images():
    nothing = Objects(np.zeros((0, 4)), np.zeros((0, 6, 8), bool), np.zeros(0, int), np.zeros(0))
    samples = [
        (sample(40), objects(), nothing),
        (sample(80, 9, 4), nothing, nothing),
        (sample(120), objects(), nothing),
    ]
    figure = sheets.detection(samples, CLASSES)
    assert (
        len(figure.axes) == 12 and sum(bool(ax.get_images()) for ax in figure.axes) == 9 and not figure.axes[2].patches
    )
    png = plots.png(figure)
    assert Image.open(io.BytesIO(png)).size[0] > 800 and png == plots.png(figure)
    with pytest.raises(ValueError, match="samples"):
        sheets.detection([], CLASSES)


def test_colours_of_neighbours_are_far_apart():
    tones = np.array([sheets.colour(i) for i in range(100)])
    assert tones.min() >= 0 and tones.max() <= 1
    assert min(np.abs(tones[i] - tones[j]).sum() for i in range(99) for j in range(i + 1, min(100, i + 6))) > 0.25
