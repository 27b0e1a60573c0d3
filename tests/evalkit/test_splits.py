import numpy as np
import pytest

from evalkit import config
from evalkit.data.images import ArrayImages, Subset
from evalkit.data.splits import hold_out, spread
from evalkit.errors import EvalkitError
from evalkit.train import session
from evalkit.train.config import TrainConfig


def images(order=None):
    labels = np.array([0] * 20 + [1] * 10)
    order = np.arange(30) if order is None else order
    pixels = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 4, 4, 3)).copy()
    ids = [f"{i:02d}" for i in order]
    return ArrayImages("made", ids, labels[order], ["a", "b"], pixels[order])


def test_held_out_images_are_a_share_of_each_class_and_always_the_same():
    kept, held = hold_out(images(), 0.2)
    assert np.bincount(held.labels).tolist() == [4, 2] and np.bincount(kept.labels).tolist() == [16, 8]
    assert {*kept.ids, *held.ids} == set(images().ids) and not {*kept.ids} & {*held.ids}
    mixed = images(np.random.default_rng(0).permutation(30))
    assert {*hold_out(mixed, 0.2)[1].ids} == {*held.ids}  # whatever the order of the set


@pytest.mark.parametrize(("share", "words"), [(0.01, "holds out none"), (0.99, "leaves no training image")])
def test_a_share_that_leaves_nothing(share, words):
    with pytest.raises(EvalkitError, match=words):
        hold_out(images(), share)


def test_spread():
    assert spread(images(), None) is not None and list(spread(images(), 3).ids) == ["00", "10", "20"]
    with pytest.raises(EvalkitError, match="limit=31 is more than the 30"):
        spread(images(), 31)


def test_a_recipe_with_both():
    cfg = config.load(TrainConfig, "digits", ["holdout=0.1", "limit=200"])
    train_images, val_images = session.load_images(cfg)
    assert isinstance(train_images, Subset) and len(train_images) == 200 and 100 < len(val_images) < 160
    assert not {*train_images.ids} & {*val_images.ids} and {id.split("/")[0] for id in val_images.ids} == {"train"}
    assert session.val_name(cfg) == "train, 10 % held out"
    with pytest.raises(EvalkitError, match="holdout"):
        config.load(TrainConfig, "digits", ["holdout=0.1", "val_split=val"])
