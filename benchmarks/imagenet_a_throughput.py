"""`evalkit robustness imagenet-a` end to end against the bare forward passes it makes.

    # on a CPU: a small ViT, 224-pixel crops of generated JPEGs
    python benchmarks/imagenet_a_throughput.py
    python benchmarks/imagenet_a_throughput.py --device cuda --model deit_small_patch16_224 --workers 12 \\
        --forward-batch 256 --images 7500

Two rates in one process, interleaved, medians over --repeats rounds: the pass over the folder as the protocol makes it
(workers start, files are decoded, resized and cropped, logits gathered, the pass saved every ten seconds); the bare
forward passes over as many rows, on tensors that are ready on the device. Goal: >= 0.9 with enough workers. Metrics,
with 1,000 bootstrap resamples, are timed by themselves. The peak memory is that of the main process and of its largest
worker.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from occlusion_sweep import ratio, timed
from PIL import Image

from evalkit import models
from evalkit.data.folders import folder
from evalkit.data.transforms import eval_transform
from evalkit.inference import Pass, exact, predict
from evalkit.parts import Parts
from evalkit.robustness import imagenet_a
from evalkit.robustness.layouts import wnids
from evalkit.runtime import derive_rng, environment, pick_device

SMALL = {"img_size": 224, "embed_dim": 128, "depth": 4, "num_heads": 2}
DIFFERENT = 64  # JPEGs that are made; the others are links to them


def write_jpegs(root: Path, count: int) -> None:
    """`count` 500 x 375 JPEGs in the 200 class folders of ImageNet-A, under names like its own."""
    classes = wnids("imagenet-a")
    for i in range(count):
        path = root / classes[i % len(classes)] / f"0.{i:06d}_some class _ another class_0.5.jpg"
        path.parent.mkdir(exist_ok=True)
        made = root / f".{i % DIFFERENT}.jpg"
        if i < DIFFERENT:
            coarse = Image.fromarray(derive_rng("jpeg", i).integers(0, 256, (12, 16, 3), dtype="uint8"))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(made, quality=90)
        path.hardlink_to(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a timm architecture; absent: a small ViT")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--forward-batch", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads of the forward passes")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    network = (
        models.create(args.model or "vit_tiny_patch16_224", num_classes=1000, **({} if args.model else SMALL))
        .eval()
        .to(device)
    )
    size, calls = args.forward_batch, -(-args.images // args.forward_batch)
    transform, ready = eval_transform("published", 224), torch.rand(size, 3, 224, 224, device=device)
    with tempfile.TemporaryDirectory() as root:
        write_jpegs(Path(root), args.images)
        images = folder(root)
        held = []

        def whole() -> None:
            parts = Parts(Path(root) / ".parts", "benchmark")
            held[:] = [
                predict(network, images, transform, Pass(device, size, args.batch_size, args.workers), parts=parts)
            ]
            parts.remove()

        def bare() -> None:
            with exact():
                logits = [network(ready).logits for _ in range(calls)]
                torch.cat(logits).cpu()

        bare()  # warms up
        seconds: dict[str, list[float]] = {"protocol": [], "bare": []}
        for _ in range(args.repeats):
            for name, action in (("protocol", whole), ("bare", bare)):
                seconds[name].append(timed(action, device))
    ids, labels, logits = held[0].ids, held[0].labels, held[0].logits
    start = time.perf_counter()
    classes = np.arange(200) * 5
    imagenet_a.evaluate({"ids": np.array(ids), "labels": labels, "logits": logits, "restrict": classes})
    result = {
        "images": args.images,
        "images_per_second": {
            name: round(args.images / statistics.median(values), 2) for name, values in seconds.items()
        },
        "protocol_over_bare": ratio(seconds["bare"], seconds["protocol"]),
        "metrics_seconds": round(time.perf_counter() - start, 2),
        "peak_mib": {
            "main": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "largest_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        },
        "arguments": {k: v for k, v in vars(args).items() if k != "json"},
        "environment": environment(device),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
