"""Inputs that several kinds begin with: small image folders and checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evalkit import checkpoint, models

ARGS = {"depth": 1, "embed_dim": 32, "num_heads": 2}
NAME = "vit_nano_patch4_32"


def put(path: Path, seed: int = 0, size: int = 32) -> Path:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folders(root: Path, classes: Sequence[str] = "ab", count: int = 4, seed: int = 0) -> Path:
    """`count` images in each class folder."""
    for k, name in enumerate(classes):
        for i in range(count):
            put(root / name / f"{i}.png", seed + 100 * k + i)
    return root


def splits(root: Path, classes: str = "ab", count: int = 4) -> Path:
    """train/ and val/ of different images."""
    folders(root / "train", classes, count)
    folders(root / "val", classes, count, seed=5000)
    return root


def training(data_dir: Path, *overrides: str) -> list[str]:
    """A command line that trains two steps on a folder."""
    keys = [f"data_dir={data_dir}", "data=folder", "model_args={depth: 1, embed_dim: 32, num_heads: 2}", "epochs=1"]
    keys += ["batch_size=4", "micro_batch=4", "threads=1", "workers=0", "device=cpu", "mixup=vanilla"]
    return ["train", "digits", *keys, *overrides, "--out", str(data_dir.parent / "run")]


def run_folder(root: Path, classes: str = "ab") -> Path:
    """A run folder with a checkpoint of these classes."""
    model = models.create(NAME, num_classes=len(classes), **ARGS).model
    meta = {"model": NAME, "model_args": ARGS, "num_classes": len(classes), "classes": list(classes), "label": "tiny"}
    checkpoint.save(root, 1, model.state_dict(), None, {}, meta)
    return root
