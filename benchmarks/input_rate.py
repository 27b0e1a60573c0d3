"""Training images per second of one CPU core: this package's input beside timm's own, on the same JPEGs.

    python benchmarks/input_rate.py                     needs scikit-image, whose photographs are used
    python benchmarks/input_rate.py --images 16 --repeats 2

JPEGs of about 110 kB, 500 x 375, made from photographs of scikit-learn and scikit-image. Each contestant makes whole
batches of 224-pixel images, file reading and stacking included, by two recipes: plain (random resized crop, flip) and
DeiT's (with RandAugment). "packed" are the same images packed with a shorter side of 288 pixels, "device" leaves
RandAugment to the device and makes only its draws. Contestants take turns within each repeat, in one process on one
thread; what is measured is CPU time, so that other work on the machine matters little. The last line gives, for each,
how often it is as fast as timm on the originals, the median over the repeats.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import skimage.data
import timm.data
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.loader import fast_collate
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from evalkit.data.embedded import photos
from evalkit.data.folders import folder
from evalkit.data.images import Images
from evalkit.data.loading import Order, train_batches
from evalkit.data.pack import Encoding, pack
from evalkit.data.packed import packed
from evalkit.data.transforms import TrainTransform
from evalkit.runtime import derive_rng, environment

RECIPES = {"plain": None, "deit": "rand-m9-mstd0.5-inc1"}
SIZE, BYTES, SHORT_SIDE = (500, 375), 110_000, 288


def write_jpegs(root: Path, count: int) -> float:
    """`count` JPEGs in two class folders; returns their mean size in kB."""
    more = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket)
    pictures = [*photos().values(), *(Image.fromarray(photo()) for photo in more)]
    total = 0
    for i in range(count):
        rng, photo = derive_rng("input rate", i), pictures[i % len(pictures)]
        scale = rng.uniform(0.75, 1.0) * min(photo.width / SIZE[0], photo.height / SIZE[1])
        width, height = (int(scale * side) for side in SIZE)
        left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
        picture = photo.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.LANCZOS)
        path = root / f"class{i % 2}" / f"{i:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(min((jpeg(picture, quality) for quality in range(90, 100)), key=lambda d: abs(len(d) - BYTES)))
        total += path.stat().st_size
    return total / count / 1000


def jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def timms(root: Path, ra: str | None, reader: Any = None) -> Callable[[int], torch.Tensor]:
    """timm's data set, transform and collation, as its training script puts them together."""
    dataset = timm.data.ImageDataset(str(root), reader=reader)
    dataset.transform = timm.data.create_transform(
        224, is_training=True, use_prefetcher=True, interpolation="bicubic", color_jitter=0.0, auto_augment=ra
    )
    for op in next((t.ops for t in dataset.transform.transforms if hasattr(t, "ops")), ()):
        if op.name.startswith("Posterize"):  # Pillow 13 refuses 0 bits, which this recipe draws
            op.aug_fn = black_at_no_bits
    order = np.random.default_rng(0)
    return lambda n: fast_collate([dataset[i] for i in order.permutation(len(dataset))[:n]])[0]


def black_at_no_bits(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    return Image.new(image.mode, image.size) if bits < 1 else auto_augment.posterize(image, bits, **kwargs)


def ours(images: Images, ra: str | None, batch: int, decode: str, where: str = "cpu") -> Callable[[int], torch.Tensor]:
    """This package's batches of a recipe."""
    keys = SimpleNamespace(image_size=224, augment="rrc", crop_scale=[0.08, 1.0], auto_augment=ra, color_jitter=0.0)
    keys.erasing, keys.interpolation, keys.decode, keys.augment_device = 0.0, "bicubic", decode, where
    batches = train_batches(images, TrainTransform(keys), Order(1, batch, batch, epochs=10**6))
    return lambda n: next(batches).x


def measure(contestants: dict[str, Callable[[int], torch.Tensor]], batch: int, repeats: int) -> dict[str, list[float]]:
    """Images per second of CPU time, for each repeat."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(-1, repeats):  # the first round warms up
        for name, make in contestants.items():
            began = time.process_time()
            assert make(batch).shape == (batch, 3, 224, 224)
            if repeat >= 0:
                rates[name].append(batch / (time.process_time() - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96, help="of one batch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "files"
        root.mkdir()
        kb = write_jpegs(root, args.images)
        files, packed_root = folder(root), Path(temporary) / "packed"
        list(pack(root, packed_root, Encoding(SHORT_SIDE)))
        small = packed(packed_root, "train")
        contestants: dict[str, Callable[[int], torch.Tensor]] = {}
        for recipe, ra in RECIPES.items():
            contestants[f"{recipe}: timm"] = timms(root, ra)
            contestants[f"{recipe}: exact"] = ours(files, ra, args.images, "exact")
            contestants[f"{recipe}: fast"] = ours(files, ra, args.images, "fast")
            contestants[f"{recipe}: packed, timm"] = timms(packed_root, ra, ReaderImageInTar(str(packed_root)))
            contestants[f"{recipe}: packed, fast"] = ours(small, ra, args.images, "fast")
            if ra:
                contestants[f"{recipe}: fast, device"] = ours(files, ra, args.images, "fast", "device")
                contestants[f"{recipe}: packed, fast, device"] = ours(small, ra, args.images, "fast", "device")
        rates = measure(contestants, args.images, args.repeats)
    result: dict[str, Any] = {"images": args.images, "repeats": args.repeats, "kB": round(kb, 1), "rates": {}}
    result["environment"] = environment()
    for name, values in rates.items():
        base = rates[f"{name.partition(':')[0]}: timm"]
        ratios = [value / reference for value, reference in zip(values, base)]
        result["rates"][name] = {
            "images_per_second": [round(v, 1) for v in (statistics.median(values), min(values), max(values))],
            "times_timm": [round(v, 3) for v in (statistics.median(ratios), min(ratios), max(ratios))],
        }
        median, low, high = result["rates"][name]["times_timm"]
        print(f"{name:42s} {statistics.median(values):7.1f} images/s   {median:.2f}x timm ({low:.2f} to {high:.2f})")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    summary = (f"{name} {values['times_timm'][0]:.2f}" for name, values in result["rates"].items())
    print("times timm on the originals:", ", ".join(summary))


if __name__ == "__main__":
    main()
