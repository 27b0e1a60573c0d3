"""Small images, networks and folders for the tests of the protocols."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evalkit import checkpoint, models
from evalkit.data.images import ArrayImages, BadImage
from evalkit.robustness.sets import SETS

CPU = torch.device("cpu")
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}


class Counting(ArrayImages):
    """Counts how often each image is read; those in `bad` cannot be."""

    bad: tuple[int, ...] = ()

    def read(self, i: int) -> Image.Image:
        self.reads = getattr(self, "reads", np.zeros(len(self), int))
        self.reads[i] += 1
        if i in self.bad:
            raise BadImage(self.ids[i], "image file is truncated")
        return super().read(i)


def noise(n: int = 12, classes: int = 3, side: int = 16, seed: int = 0) -> Counting:
    # nothing is black by itself
    pixels = np.random.default_rng(seed).integers(1, 256, (n, side, side, 3), dtype=np.uint8)
    return Counting(
        "noise",
        [f"c{i % classes}/{i:03d}.png" for i in range(n)],
        np.arange(n) % classes,
        [f"c{k}" for k in range(classes)],
        pixels,
    )


def vit(num_classes: int = 3, seed: int = 0) -> models.Network:
    torch.manual_seed(seed)
    return models.create("vit_tiny_patch16_224", num_classes=num_classes, **VIT).eval()


def loaded(network, classes, name="fake", data=None) -> models.Loaded:
    return models.Loaded(
        network,
        network.name,
        classes,
        "0" * 64,
        name,
        "vanilla",
        name,
        "raw",
        {} if data is None else {"data": {"name": data}},
    )


def save_checkpoint(
    folder: Path, classes: list[str], label: str = "tiny", data: str = "own", seed: int = 0, scale: float = 1.0
) -> Path:
    """An evalkit checkpoint of an untrained ViT for 16-px images."""
    network = vit(len(classes), seed)
    with torch.no_grad():
        network.model.head.weight.mul_(scale).clamp_(-3e38, 3e38)  # weights that are not finite are refused
    meta = {
        "model": "vit_tiny_patch16_224",
        "model_args": VIT,
        "num_classes": len(classes),
        "classes": classes,
        "image_size": 16,
        "mean": network.mean,
        "std": network.std,
        "method": "vanilla",
        "label": label,
        "data": {"name": data, "fingerprint": "-"},
        "config": {},
    }
    return checkpoint.save(folder, 1, network.model.state_dict(), None, {}, meta)


def write_tree(root: Path, tree: dict[str, int], side: int = 20, seed: int = 0) -> Path:
    """root/<class>/<i>.JPEG, as many as `tree` says, each with pixels of its own."""
    rng = np.random.default_rng(seed)
    for name, count in tree.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            coarse.resize((side + 3, side), Image.Resampling.BILINEAR).save(root / name / f"{name}_{i:04d}.JPEG")
    return root


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def write_corruptions(
    root: Path, tree: dict[str, int], corruptions=("fog", "snow"), severities=(1, 3), side: int = 20
) -> Path:
    """root/<corruption>/<severity>/<class>/<i>.JPEG, pixels of their own in every cell."""
    for c, corruption in enumerate(corruptions):
        for severity in severities:
            write_tree(root / corruption / str(severity), tree, side, seed=10 * c + severity)
    return root


def shrink(monkeypatch, totals, per_class=1):
    """The published sets as miniatures: so many images in all, or in each class of ImageNet val."""
    for name, known in SETS.items():
        images = totals.get(name, known.images)
        small = dataclasses.replace(known, images=images, per_class=known.per_class and per_class)
        monkeypatch.setitem(SETS, name, small)
