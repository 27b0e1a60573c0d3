"""`evalkit robustness imagenet-a` over as many images as ImageNet-A has, killed with SIGKILL on its way and started
again: peak memory, nothing lost.

    # a small ViT, 7,500 generated JPEGs at 224 pixels
    python benchmarks/full_size_pass.py
    python benchmarks/full_size_pass.py --model deit_small_patch16_224 --device cuda --workers 12

Three passes, each the command in a process of its own: one that is killed when it has saved a third of the images; the
same command again, which goes on from there; and one undisturbed in another folder. The second must end with each image
exactly once and with the undisturbed pass's records and numbers, byte for byte; otherwise this script fails. The peak
memory (VmHWM of Linux) is given at four stages of the undisturbed pass, so that growth would be seen.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from imagenet_a_throughput import SMALL, write_jpegs
from safetensors.torch import save_file

from evalkit import models
from evalkit.runtime import environment, pick_device

IMAGES = 7500


def command(root: Path, out: str, args: argparse.Namespace) -> list[str]:
    """The protocol on the generated images."""
    settings = [f"model={args.model or 'vit_tiny_patch16_224'}", f"device={args.device}", f"workers={args.workers}"]
    settings += [] if args.model else [f"model_args={json.dumps(SMALL)}"]
    return [sys.executable, "-m", "evalkit", "robustness", "imagenet-a", str(root / "weights.safetensors"), *settings,
            "--data", str(root / "images"), "--out", str(root / out)]  # fmt: skip


def saved(out: Path) -> list[str]:
    """The images in the pieces that a running pass has written."""
    ids: list[str] = []
    for piece in out.glob("records/*.parts/*.npz"):
        with contextlib.suppress(FileNotFoundError):  # removed when the pass ends
            ids.extend(np.load(piece)["ids"].tolist())
    return ids


def peak_mib(pid: int) -> int:
    """Of one process so far; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def workers_of(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except OSError:
        return []


def watch(running: subprocess.Popen, out: Path) -> dict[str, list[int]]:
    """Peak memory of the main process and of its largest worker when a quarter, half and three quarters of the images
    are saved, and at the end."""
    peaks: dict[str, list[int]] = {"main": [], "largest_worker": []}
    main_process = worker = 0
    while running.poll() is None:
        main_process = max(main_process, peak_mib(running.pid))
        worker = max([worker, *(peak_mib(child) for child in workers_of(running.pid))])
        if len(saved(out)) * 4 >= IMAGES * (len(peaks["main"]) + 1):
            peaks["main"].append(main_process), peaks["largest_worker"].append(worker)
        time.sleep(0.5)
    peaks["main"].append(main_process), peaks["largest_worker"].append(worker)
    return peaks


def finished(out: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The record of a pass and its per-sample arrays."""
    record = json.loads((out / "results.jsonl").read_text().splitlines()[-1])
    with np.load(out / record["records"]) as arrays:
        return record, dict(arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a timm architecture; absent: a small ViT")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        write_jpegs(root / "images", IMAGES)
        network = models.create(args.model or "vit_tiny_patch16_224", num_classes=1000, **({} if args.model else SMALL))
        save_file(network.model.state_dict(), root / "weights.safetensors")

        killed = subprocess.Popen(command(root, "resumed", args))
        while len(before := saved(root / "resumed")) < IMAGES / 3:
            if killed.poll() is not None:
                sys.exit("the pass ended before a third of its images was saved")
            time.sleep(0.5)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        start = time.perf_counter()
        subprocess.run(command(root, "resumed", args), check=True)
        rest = time.perf_counter() - start
        start = time.perf_counter()
        undisturbed = subprocess.Popen(command(root, "whole", args))
        peaks = watch(undisturbed, root / "whole")
        whole = time.perf_counter() - start
        if undisturbed.returncode:
            sys.exit("the undisturbed pass failed")

        (record, arrays), (expected_record, expected) = finished(root / "resumed"), finished(root / "whole")
        assert len(set(arrays["ids"].tolist())) == len(arrays["ids"]) == record["n"] == IMAGES, (
            "a sample is missing or there twice"
        )
        assert sorted(arrays) == sorted(expected) and all(np.array_equal(arrays[k], expected[k]) for k in expected), (
            "the records differ"
        )
        assert record["metrics"] == expected_record["metrics"], "the numbers differ"
    result = {
        "images": IMAGES,
        "saved_when_killed": len(before),
        "seconds": {"resumed_pass": round(rest, 1), "undisturbed_pass": round(whole, 1)},
        "peak_mib_after_each_quarter": peaks,
        "same_records": True,
        "arguments": {k: v for k, v in vars(args).items() if k != "json"},
        "environment": environment(pick_device(args.device)),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
