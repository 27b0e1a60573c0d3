"""Does a network trained on fast input reach what it reaches on Pillow's pixels?

    python benchmarks/fast_input_accuracy.py --out benchmarks/results/fast_input_accuracy.json
    python benchmarks/fast_input_accuracy.py --out ... --seeds 12      adds the seeds that the file lacks

Two sets of JPEG files: Fashion-MNIST (or the embedded digits over photographs where it is not installed), and crops of
photographs of scikit-learn and scikit-image, to be told apart. A small ResNet is trained on each with decode=exact,
decode=fast, and decode=fast with RandAugment in batch (augment_device=device), with the same seeds; all else is equal.
The differences between the means are put beside the spread over the seeds. Validation is on exact pixels throughout.
Each accuracy is written as soon as it is there; one that stands in the file already, by the same settings and
versions, is not measured again.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from scipy.stats import ttest_ind

from evalkit import results
from evalkit.cli import invoke
from evalkit.data.embedded import FASHION_FOLDER, digits_photo, fashion_mnist, photos
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng, environment, write_atomic

ARMS = {
    "exact": ["decode=exact", "augment_device=cpu"],
    "fast": ["decode=fast", "augment_device=cpu"],
    "fast, device": ["decode=fast", "augment_device=device"],
}
RECIPE = ["model=resnet10_cifar", "mixup=vanilla", "opt=momentum", "lr=0.1", "weight_decay=5e-4", "batch_size=100"]
RECIPE += ["micro_batch=100", "augment=rrc", "crop_scale=[0.35, 1.0]", "auto_augment=rand-m5-mstd0.5-inc1"]
RECIPE += ["image_size=16", "workers=0", "threads=1", "device=cpu", "warmup_epochs=1", "eval_epochs=100", "ema=null"]

NOTE = (
    "against exact: difference of the means, p of Welch's t test over seeds, the same by Holm over the four"
    " comparisons; the 750 validation images alone leave a standard error of 0.013 to 0.018 on each accuracy"
)


def write_known(root: Path, train: int, val: int) -> str:
    """Fashion-MNIST as JPEG files; the embedded set with classes like its own where that is not installed."""
    for split, count in (("train", train), ("val", val)):
        images = fashion_mnist(split) if FASHION_FOLDER.exists() else digits_photo(split)
        for i in derive_rng("fast input", split).permutation(len(images))[:count].tolist():
            name = images.classes[images.labels[i]].replace("/", "-")
            save(images.read(i), root / split / name / f"{i:05d}.jpg")
    return images.name


def write_crops(root: Path, train: int, val: int) -> str:
    """Crops of 60 to 100 pixels, of the left half of each photograph for training, of the right half for validation."""
    more = (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket)
    pictures = [*photos().values(), *(Image.fromarray(photo()) for photo in more)]
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            rng, photo = derive_rng("crops", split, i), pictures[i % len(pictures)]
            side, half = int(rng.integers(60, 101)), photo.width // 2
            left = int(rng.integers(half - side)) + (half if split == "val" else 0)
            top = int(rng.integers(photo.height - side))
            crop = photo.crop((left, top, left + side, top + side))
            save(crop, root / split / f"photo{i % len(pictures)}" / f"{i:05d}.jpg")
    return "crops"


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)


def accuracy(data: Path, run: Path, words: list[str]) -> float:
    code, message = invoke(["train", "digits", "data=folder", f"data_dir={data}", *RECIPE, *words, "--out", str(run)])
    if code:
        raise EvalkitError(message)
    return float(results.read([run])[0]["metrics"]["top1"])


def against_exact(top1: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Data -> arm -> [difference of the means, p of Welch's t test, the same by Holm over all comparisons]."""
    found = {
        (data, arm): (
            float(np.mean(values) - np.mean(scores["exact"])),
            ttest_ind(values, scores["exact"], equal_var=False),
        )
        for data, scores in top1.items()
        for arm, values in scores.items()
        if arm != "exact"
    }
    out: dict[str, dict[str, list[float]]] = {data: {} for data in top1}
    least = 0.0
    for rank, ((data, arm), (apart, test)) in enumerate(sorted(found.items(), key=lambda item: item[1][1].pvalue)):
        least = max(least, min(1.0, (len(found) - rank) * float(test.pvalue)))
        out[data][arm] = [round(x, 4) for x in (apart, float(test.pvalue), least)]
    return out


def measured(path: Path | None, settings: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """The accuracies in a file of this script; none where it was made by other settings or versions."""
    if path is None or not path.exists():
        return {}
    found, here = json.loads(path.read_text()), environment()
    same = all(found["environment"][package] == here[package] for package in ("torch", "numpy", "pillow", "timm"))
    return (
        found["top1"] if same and all(found["settings"][key] == settings[key] for key in ("epochs", "images")) else {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=1500, help="of training; validation has half as many")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    top1 = measured(args.out, settings)
    with tempfile.TemporaryDirectory() as temporary:
        sets = {}
        for write in (write_known, write_crops):
            data = Path(temporary) / write.__name__
            sets[write(data, args.images, args.images // 2)] = data
        for seed in range(args.seeds):
            for name, data in sets.items():
                scores = top1.setdefault(name, {arm: [] for arm in ARMS})
                for i, (arm, words) in enumerate(ARMS.items()):
                    if len(scores[arm]) > seed:
                        continue
                    run = Path(temporary) / f"{name}-{seed}-{i}"
                    scores[arm].append(accuracy(data, run, [*words, f"seed={seed}", f"epochs={args.epochs}"]))
                    write_out(args.out, settings, top1)
    for name, scores in top1.items():
        spread = statistics.stdev(scores["exact"]) if args.seeds > 1 else float("nan")
        for arm, values in scores.items():
            apart = statistics.mean(values) - statistics.mean(scores["exact"])
            print(
                f"{name}, {arm}: top-1 {100 * statistics.mean(values):.2f} % ({100 * apart:+.2f}); by seed"
                f" {np.round(100 * np.array(values), 2).tolist()}, spread of exact {100 * spread:.2f}",
                flush=True,
            )


def write_out(path: Path | None, settings: dict[str, int], top1: dict[str, dict[str, list[float]]]) -> None:
    """The accuracies so far; the comparison once every arm has all seeds."""
    if path is None:
        return
    made: dict[str, object] = {"settings": settings, "environment": environment(), "top1": top1}
    if len(top1) == 2 and all(len(values) >= settings["seeds"] > 1 for s in top1.values() for values in s.values()):
        made |= {"against exact": against_exact(top1), "note": NOTE}
    write_atomic(path, lambda f: f.write((json.dumps(made, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main()
