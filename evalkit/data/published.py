"""Which published data set some images are: told by their classes and number, or by the set's own lists, never by what
a folder is called."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from timm.data import ImageNetInfo

from .images import Images
from .known import KNOWN

TRAIN_IMAGES = 1_281_167
TRAIN_PER_CLASS = (732, 1300)
VAL_PER_CLASS = 50


def published_set(images: Images) -> str | None:
    """The published set that `images` are, whole: "imagenet-train", "imagenet-val" (ILSVRC 2012), or a part of one of
    `known.KNOWN` such as "cifar100-test"; None for anything else. ImageNet is told by WordNet ids and the images of
    each class, wherever it lies; the others by their readers, which compare them with what was published."""
    if images.whole is not None:
        return images.whole
    if images.demonstration or set(images.classes) != set(ImageNetInfo().label_names()) or (images.labels < 0).any():
        return None
    count = np.bincount(images.labels, minlength=len(images.classes))
    if (count == VAL_PER_CLASS).all():
        return "imagenet-val"
    low, high = TRAIN_PER_CLASS
    return "imagenet-train" if count.sum() == TRAIN_IMAGES and low <= count.min() <= count.max() <= high else None


def sets_of_recipe(recipe: Mapping[str, Any] | None) -> tuple[str, str]:
    """The published sets, see `published_set`, that a recipe with these values trains and validates on: ImageNet's
    where it reads folders; without a recipe, too. For embedded sets these are names that
    `published_set` never gives."""
    if recipe is None or recipe["data"] == "folder":
        return "imagenet-train", "imagenet-val"
    name, known = recipe["data"], KNOWN.get(recipe["data"])
    val = recipe["val_split"]
    return f"{name}-{recipe['train_split']}", f"{name}-{known.val if known and val == 'val' else val}"
