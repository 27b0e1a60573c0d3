"""Which published data set some images are: told by their classes and number, never by what a folder is called."""

import numpy as np
from timm.data import ImageNetInfo

from .images import Images

TRAIN_IMAGES = 1_281_167
TRAIN_PER_CLASS = (732, 1300)
VAL_PER_CLASS = 50


def published_set(images: Images) -> str | None:
    """The published set that `images` are, whole: "imagenet-train", "imagenet-val" (ILSVRC 2012); None for anything
    else. The classes must be ImageNet's by WordNet id, with as many images of each."""
    if images.demonstration or set(images.classes) != set(ImageNetInfo().label_names()) or (images.labels < 0).any():
        return None
    count = np.bincount(images.labels, minlength=len(images.classes))
    if (count == VAL_PER_CLASS).all():
        return "imagenet-val"
    low, high = TRAIN_PER_CLASS
    return "imagenet-train" if count.sum() == TRAIN_IMAGES and low <= count.min() <= count.max() <= high else None
