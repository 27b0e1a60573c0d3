"""Embedded sets against the sources they are made of, and Fashion-MNIST from tiny idx files."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from evalkit import data
from evalkit.data import embedded
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng


@pytest.fixture(scope="module")
def photo_val():
    return embedded.digits_photo("val")


def test_digits_are_scikit_learns_split_by_class():
    train, val = data.load("digits", "train"), data.load("digits")
    source = load_digits()
    assert len(train) + len(val) == 1797
    rows = {split: [int(id.split("/")[1]) for id in images.ids] for split, images in (("train", train), ("val", val))}
    assert not set(rows["train"]) & set(rows["val"]) and len(set(rows["train"]) | set(rows["val"])) == 1797
    for images, split in ((train, "train"), (val, "val")):
        assert np.array_equal(images.labels, source.target[rows[split]])
    share = np.bincount(val.labels) / np.bincount(source.target)
    assert abs(share - 0.25).max() < 0.005
    image = val.read(3)
    assert image.size == (32, 32) and image.mode == "RGB"
    shrunk = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), float) * 16 / 255
    assert np.corrcoef(shrunk.ravel(), source.images[rows["val"][3]].ravel())[0, 1] > 0.97


def test_splits_of_digits_photo_share_no_digit(monkeypatch):
    used = {}

    def blank(strokes, rng, size):
        used[len(strokes)] = {digit.tobytes() for digit in strokes}
        return np.zeros((len(strokes), size, size, 3), np.uint8), np.zeros((len(strokes), size, size), bool)

    monkeypatch.setattr(embedded, "compose", blank)
    for split in ("train", "val"):
        embedded.digits_photo(split)
    assert len(used[4800]) == 1347 and len(used[1000]) == 450 and not used[4800] & used[1000]


def test_digits_photo(photo_val):
    assert len(photo_val) == 1000 and photo_val.classes == list("0123456789") and photo_val.native_size == 32
    assert photo_val.pixels.shape == (1000, 32, 32, 3) and photo_val.pixels.dtype == np.uint8
    assert np.bincount(photo_val.labels).min() > 85
    coverage = photo_val.foreground.mean(axis=(1, 2))
    assert coverage.min() > 0.03 and coverage.max() < 0.75 and 0.1 < coverage.mean() < 0.4
    centres = np.array([np.argwhere(f).mean(axis=0) for f in photo_val.foreground])
    assert centres.std(axis=0).min() > 1.5  # at random places


def test_generation_depends_on_nothing_global(photo_val):
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    again = embedded.digits_photo("val")
    assert again.fingerprint == photo_val.fingerprint and np.array_equal(again.foreground, photo_val.foreground)
    assert np.array_equal(np.random.get_state()[1], state)


def test_foreground_is_exact():
    """The same draws without ink give the bare background: scenes differ from it inside the foreground only."""
    strokes = load_digits().images[:40]
    pixels, foreground = embedded.compose(strokes, derive_rng("test"))
    bare, none = embedded.compose(np.zeros_like(strokes), derive_rng("test"))
    assert not none.any()
    changed = (pixels != bare).any(axis=3)
    assert not (changed & ~foreground).any()
    assert (changed & foreground).sum() / foreground.sum() > 0.97  # the faintest edges round to nothing


def test_backgrounds_are_dimmed_photographs():
    bare, _ = embedded.compose(np.zeros((200, 8, 8)), derive_rng("test"))
    brightest = max(photo.max() for photo in load_sample_images().images)
    assert bare.max() <= round(0.6 * brightest) and bare.mean() > 20
    assert bare.std(axis=(1, 2, 3)).mean() > 8  # clutter, not flat colour


def test_size_shows_the_same_scenes_in_more_detail():
    strokes = load_digits().images[:12]
    small, f = embedded.compose(strokes, derive_rng("test"), 32)
    large, g = embedded.compose(strokes, derive_rng("test"), 64)
    assert large.shape == (12, 64, 64, 3) and g.shape == (12, 64, 64)
    halved = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BOX)) for x in large])
    assert np.abs(halved.astype(float) - small).mean() < 10
    assert abs(f.mean() - g.mean()) < 0.03


def idx(array):
    return gzip.compress(struct.pack(f">{1 + array.ndim}i", 0x0800 + array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def fashion(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 7), ("t10k", 3)):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
            idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        )
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n, dtype=np.uint8)))
    return tmp_path


def test_fashion_mnist(fashion):
    images = data.load("fashion-mnist", "train", root=fashion)
    assert (
        len(images) == 7
        and images.labels.tolist() == list(range(7))
        and images.classes[6] == "Shirt"
        and images.native_size == 32
    )
    raw = np.frombuffer(gzip.decompress((fashion / "train-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8).reshape(
        7, 28, 28
    )
    image = np.asarray(images.read(4))
    assert (
        image.shape == (32, 32, 3)
        and np.array_equal(image[2:30, 2:30, 1], raw[4])
        and image.sum() == 3 * raw[4].sum(dtype=int)
    )
    assert len(data.load("fashion-mnist", "val", root=fashion)) == 3


def test_fashion_mnist_absent_or_broken_is_one_line(fashion, tmp_path):
    with pytest.raises(EvalkitError, match=r"apt install dataset-fashion-mnist.*data_dir=DIR") as e:
        data.load("fashion-mnist", root=tmp_path / "none")
    assert "\n" not in str(e.value)
    path = fashion / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for broken in (
        whole[:-20],
        b"no gzip",
        b"",
        gzip.compress(b"\0\0\x08"),
        idx(np.zeros((3, 28), np.uint8)),
        idx(np.zeros((3, 5, 5), np.uint8)),
    ):
        path.write_bytes(broken)
        with pytest.raises(EvalkitError, match="fashion-mnist"):
            data.load("fashion-mnist", root=fashion)


def test_load_limit_spreads_over_the_set_and_keeps_ids(photo_val):
    images = data.load("digits-photo", limit=10)
    assert images.ids == photo_val.ids[::100] and len(data.load("digits", limit=10_000)) == 450
    with pytest.raises(ValueError, match="limit"):
        data.load("digits", limit=0)


def test_load_names_the_closest_name_and_split():
    with pytest.raises(EvalkitError, match="unknown data 'digit-photo'. Did you mean 'digits-photo'"):
        data.load("digit-photo")
    with pytest.raises(EvalkitError, match="unknown split 'trian'. Did you mean 'train'"):
        data.load("digits", "trian")
    with pytest.raises(EvalkitError, match="resized by the transform"):
        data.load("folder", size=32)


def test_load_points_from_a_path_to_data_dir(tmp_path):
    with pytest.raises(EvalkitError, match="data=folder data_dir="):
        data.load(str(tmp_path))
