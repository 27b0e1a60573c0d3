from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalkit import checkpoint, models

MODEL_ARGS = {"depth": 1}


def write_shapes(root: Path, train: int = 12, val: int = 4) -> Path:
    """A set in folders of images and masks: a red or a blue rectangle on dark noise, 40 x 32 pixels, in two classes and
    background."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            pixels, labels = rng.integers(0, 60, (32, 40, 3)), np.zeros((32, 40), np.uint8)
            for label, channel in ((1, 0), (2, 2)):
                top, left, height, width = *rng.integers(0, 16, 2), *rng.integers(8, 16, 2)
                part = np.s_[top : top + height, left + 8 * label : left + 8 * label + width]
                pixels[part], labels[part] = 0, label
                pixels[(*part, channel)] = 230
            for kind, array in (("images", pixels.astype(np.uint8)), ("masks", labels)):
                path = root / kind / split / f"{i:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("background\nred\nblue\n")
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A run folder with a checkpoint of a one-layer ViT of ten classes."""
    run = tmp_path_factory.mktemp("pre") / "run"
    model = models.create("vit_nano_patch4_32", num_classes=10, **MODEL_ARGS).model
    meta = {
        "model": "vit_nano_patch4_32",
        "model_args": MODEL_ARGS,
        "num_classes": 10,
        "label": "mine",
        "method": "mixpro",
    }
    checkpoint.save(run, 1, model.state_dict(), None, {}, meta)
    return run
