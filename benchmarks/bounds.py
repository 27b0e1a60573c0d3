"""Memory, open files and log sizes of long commands: recorded while they run, and flat.

    python benchmarks/bounds.py --only steps,workers,occlusion --out benchmarks/results/bounds.json

`steps`: a training run of 5,000 steps. `workers`: 200 passes over a data set, each with new worker processes.
`occlusion`: the whole sweep over 3,000 images. Twice a second: resident memory and open files of the command.
"Flat" compares the medians of the second and of the last fifth of what follows the command's first word: Python's
modules, models and caches are in place by then, however long they took to load.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PASSES = """
import sys
import numpy as np
from evalkit import data
from evalkit.data.loading import eval_batches
from evalkit.data.transforms import EvalTransform

images, as_they_are = data.load("digits", "val"), EvalTransform(32, 32, "bilinear", native=True)
for epoch in range(int(sys.argv[1])):
    seen = sum(len(index) for _, index, _ in eval_batches(images, as_they_are, workers=1))
    assert seen == len(images)
    print(epoch, flush=True)
"""


def words(name: str, work: Path, scale: float) -> list[str]:
    evalkit = [sys.executable, "-m", "evalkit"]
    if name == "steps":
        keys = ["batch_size=8", "micro_batch=8", f"epochs={math.ceil(5000 * scale / 168)}", "model=vit_nano_patch4_32"]
        keys += ["model_args={depth: 1, embed_dim: 32, num_heads: 2}", "eval_epochs=1000", "checkpoint_steps=250"]
        keys += ["log_steps=10", "workers=0", "threads=1", "device=cpu", "mixup=cutmix", "warmup_epochs=0"]
        return [*evalkit, "train", "digits", *keys, "--out", str(work / "run")]
    if name == "workers":
        return [sys.executable, "-c", PASSES, str(round(200 * scale))]
    data = work / "images"
    make_images(data, round(3000 * scale))
    weights = make_weights(work / "weights")
    keys = ["device=cpu", "grid=8", "saliency=self"]
    return [*evalkit, "robustness", "occlusion", str(weights), "--data", str(data), "--out", str(work / "out"), *keys]


def make_weights(folder: Path) -> Path:
    from evalkit import checkpoint, models

    name, args = "vit_nano_patch4_32", {"depth": 1, "embed_dim": 32, "num_heads": 2}
    network = models.create(name, num_classes=10, **args)
    meta = {"model": name, "model_args": args, "num_classes": 10, "image_size": 32}
    meta["classes"] = [f"class{i}" for i in range(10)]
    return checkpoint.save(folder, 1, dict(network.model.state_dict()), None, {}, meta)


def make_images(folder: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % 10}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


def watch(command: list[str], work: Path) -> dict:
    """What the command holds, twice a second, until it ends."""
    said, began = work / "said.txt", time.monotonic()
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    memory, files = [], []
    main = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            if said.stat().st_size:
                memory.append(main.memory_info().rss)
                files.append(main.num_fds())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            break
        time.sleep(0.5)
    assert process.wait() == 0, said.read_text(errors="replace")[-500:]
    fifth = max(1, len(memory) // 5)
    early, late = (statistics.median(memory[a:b]) for a, b in ((fifth, 2 * fifth), (-fifth, None)))
    log = work / "run" / "log.jsonl"
    return {
        "seconds": round(time.monotonic() - began, 1),
        "samples": len(memory),
        "megabytes_second_fifth": round(early / 2**20, 1),
        "megabytes_last_fifth": round(late / 2**20, 1),
        "megabytes_at_most": round(max(memory) / 2**20, 1),
        "open_files_second_fifth": statistics.median(files[fifth : 2 * fifth]),
        "open_files_last_fifth": statistics.median(files[-fifth:]),
        "log_bytes": log.stat().st_size if log.exists() else None,
        "flat": late < 1.05 * early + 8 * 2**20 and files[-1] <= statistics.median(files[fifth : 2 * fifth]) + 8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="steps,workers")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full length")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    found: dict = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory(prefix="bounds-") as folder:
            found[name] = {"scale": args.scale, **watch(words(name, Path(folder), args.scale), Path(folder))}
        print(name, json.dumps(found[name]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if all(row["flat"] for row in found.values()) else 1)


if __name__ == "__main__":
    main()
