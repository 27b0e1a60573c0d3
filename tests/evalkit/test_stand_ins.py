"""The stand-ins for ImageNet-A and -O: made by the rule they state."""

import numpy as np
import pytest

from evalkit import data
from evalkit.data import stand_ins
from evalkit.data.embedded import digit_rows, digits_photo, source_digits
from evalkit.errors import EvalkitError


@pytest.fixture(scope="module")
def sets():
    return data.load("digits-a"), data.load("digits-o")


def test_classifier_is_decent():
    """Wrong predictions mean something only for a classifier that is mostly right."""
    val = digits_photo("val")
    accuracy = (stand_ins._probabilities(val.pixels).argmax(axis=1) == val.labels).mean()
    assert accuracy > 0.85


def test_digits_a_are_mistakes_of_the_classifier(sets):
    a = sets[0]
    assert len(a) == 600 and a.classes == list("0123456789") and a.native_size == 32
    assert np.bincount(a.labels, minlength=10).min() >= 5
    assert (stand_ins._probabilities(a.pixels).argmax(axis=1) != a.labels).all()


def test_digits_a_labels_are_those_of_test_digits(monkeypatch):
    seen = []

    def blank(strokes, rng):
        seen.extend(strokes)
        return np.zeros((len(strokes), 32, 32, 3), np.uint8), None

    monkeypatch.setattr(stand_ins, "compose", blank)
    # "0" whatever it sees
    monkeypatch.setattr(stand_ins, "_probabilities", lambda pixels: np.eye(10)[np.zeros(len(pixels), int)])
    images = stand_ins.digits_a()
    strokes, labels = source_digits()
    label_of = {strokes[i].tobytes(): labels[i] for i in digit_rows("val")}
    true = np.array([label_of[s.tobytes()] for s in seen])  # a KeyError would be a digit of the train split
    assert np.array_equal(images.labels, true[true != 0][:600])


def test_digits_o_are_letters_the_classifier_is_confident_about(sets):
    o = sets[1]
    assert len(o) == 600 and (o.labels == -1).all() and o.classes == list("0123456789")
    assert (stand_ins._probabilities(o.pixels).max(axis=1) > 0.7).all()
    assert not set(stand_ins.LETTERS) & set("OoIilSsZzBbgqDQGJTLty")


def test_letters_are_strokes_like_the_digits():
    strokes = stand_ins._letters(30, np.random.default_rng(0))
    digits = source_digits()[0]
    assert (
        strokes.shape == (30, 8, 8)
        and strokes.min() == 0
        and strokes.max() == 16
        and (strokes == strokes.round()).all()
    )
    assert 0.6 < strokes.mean() / digits.mean() < 1.6
    # each fills the frame in one direction
    assert ((strokes.sum(axis=1) > 0).all(axis=1) | (strokes.sum(axis=2) > 0).all(axis=1)).all()


def test_gradient_histograms_by_hand():
    """A vertical edge: all strength points right, in the cells the edge touches."""
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    pixels[:, :, 4:] = 100
    h = stand_ins.gradient_histograms(pixels, cell=4, directions=8).reshape(2, 2, 8)
    right = 4  # angle 0 of [-pi, pi) in eighths
    expected = np.zeros((2, 2, 8))
    # each cell holds 4 pixels of strength 100: norm sqrt(4 * 400^2) = 800, root of 400 / 800
    expected[:, :, right] = np.sqrt(0.5)
    np.testing.assert_allclose(h, expected, atol=1e-12)


def test_deterministic(sets):
    stand_ins._classifier.cache_clear()
    assert data.load("digits-a").fingerprint == sets[0].fingerprint


def test_size_and_split(sets):
    large = data.load("digits-o", size=64)
    assert large.ids == sets[1].ids and large.native_size == 64
    with pytest.raises(EvalkitError, match="unknown split 'train'"):
        data.load("digits-a", "train")
