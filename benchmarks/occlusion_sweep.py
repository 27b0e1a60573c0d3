"""Occlusion sweep against the forward passes it needs, and against a plain loop that decodes the images again for every
setting.

    # on a CPU: a small ViT on 64-pixel crops of generated JPEGs
    python benchmarks/occlusion_sweep.py
    python benchmarks/occlusion_sweep.py --device cuda --model deit_small_patch16_224 --side 224 --images 512 \\
        --workers 12 --forward-batch 256

Three rates in one process, interleaved, medians over --repeats rounds: the whole sweep (decoding, saliency, masks, 64
settings); the bare forward passes it made, on tensors that are ready on the device; the plain loop. Goal: sweep / bare
>= 0.9.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalkit import data, models
from evalkit.data.loading import eval_batches
from evalkit.data.transforms import eval_transform
from evalkit.inference import exact, normaliser
from evalkit.robustness.masks import image_masks, settings
from evalkit.robustness.saliency import attention
from evalkit.robustness.sweep import sweep
from evalkit.runtime import derive_rng, environment, pick_device

LEVELS = [i / 10 for i in range(10)]
SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "patch_size": 8}


class Counted:
    """A network that counts its forward passes."""

    def __init__(self, network: models.Network):
        self.network, self.mean, self.std, self.calls = network, network.mean, network.std, 0

    def __call__(self, x: Tensor) -> models.Output:
        self.calls += 1
        return self.network(x)


def write_jpegs(root: Path, count: int) -> None:
    """`count` 500 x 375 JPEGs in two class folders."""
    for i in range(count):
        rng = derive_rng("jpeg", i)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = root / f"n{i % 2:08d}" / f"{i:05d}.JPEG"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def timed(action, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ratio(other: list[float], sweep: list[float]) -> dict[str, float]:
    """Rate of the sweep over the other side's, round by round."""
    rounds = [o / s for o, s in zip(other, sweep)]
    return {"median": round(statistics.median(rounds), 4), "min": round(min(rounds), 4), "max": round(max(rounds), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a timm architecture with class attention; absent: a small ViT")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--grid", type=int, help="absent: one cell per patch")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--forward-batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads of the forward passes")
    parser.add_argument("--skip-plain", action="store_true", help="leave out the plain loop, the slowest part")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    model_args = {"img_size": args.side} | ({} if args.model else SMALL)
    network = models.create(args.model or "vit_tiny_patch16_224", num_classes=1000, **model_args).eval().to(device)
    grid, columns, size = (
        args.grid or args.side // network.patch_size,
        settings(["random", "salient", "nonsalient"], LEVELS, 5),
        args.forward_batch,
    )
    transform = eval_transform("published", args.side)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), args.images)
        images = data.folder(folder)
        counted = Counted(network)
        source = attention(network, device, None, {})

        def whole() -> None:
            common = {
                "grid": grid,
                "saliency": source,
                "device": device,
                "forward_batch": size,
                "batch_size": 16,
                "workers": args.workers,
            }
            sweep(counted, images, transform, columns, **common)

        whole()  # warms up, and counts
        calls = counted.calls + -(-args.images // size)  # with the saliency passes
        ready = torch.rand(size, 3, args.side, args.side, device=device)

        def bare() -> None:
            with exact():
                for _ in range(calls):
                    network(ready).logits.argmax(dim=1)

        def plain() -> None:
            normalise, done = normaliser(network, device), 0
            with exact():
                for column in columns:
                    for x, index, _ in eval_batches(images, transform, batch_size=size, workers=args.workers):
                        x = x.to(device).float() / 255
                        ids = [images.ids[i] for i in index]
                        saliency = source(x, ids) if column.mode in ("salient", "nonsalient") else None
                        keep = (
                            torch.from_numpy(~image_masks(ids, saliency, [column], grid, args.side, 0)[:, 0])
                            .to(device)
                            .float()
                        )
                        keep = (
                            keep.view(-1, 1, grid, grid)
                            .repeat_interleave(args.side // grid, 2)
                            .repeat_interleave(args.side // grid, 3)
                        )
                        network(normalise(x * keep)).logits.argmax(dim=1).cpu()
                        done += len(ids)

        sides = {"sweep": whole, "bare": bare} | ({} if args.skip_plain else {"plain": plain})
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.repeats):
            for name, action in sides.items():
                seconds[name].append(timed(action, device))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = args.images * len(columns)
    result = {
        "settings": len(columns),
        "images": args.images,
        "forward_passes": calls,
        "masked_images_per_second": {name: round(rows / s, 2) for name, s in median.items()},
        "sweep_over_bare": ratio(seconds["bare"], seconds["sweep"]),
        "arguments": {k: v for k, v in vars(args).items() if k != "json"},
        "environment": environment(device),
    }
    if "plain" in median:
        result["sweep_over_plain"] = ratio(seconds["plain"], seconds["sweep"])
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
