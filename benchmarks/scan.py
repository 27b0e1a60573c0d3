"""Finding the files of a large image folder, beside torchvision's ImageFolder.

    python benchmarks/scan.py --out benchmarks/results/scan.json

320,000 empty files in 1,000 class folders. All take turns in one process; CPU time, system calls included, so that
other work on the machine matters little. "first" is a look at every file, which writes the index; "again" reads it.
The last line gives, for both, the share of torchvision's time that they take, the median over the repeats.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from evalkit.data import file_index
from evalkit.data.folders import folder
from evalkit.runtime import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=320_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"torchvision": [], "first": [], "again": []}
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = Path(temporary, "images"), Path(temporary, "cache")
        os.environ[file_index.CACHE] = str(cache)
        for c in range(1000):
            (root / f"n{c:08d}").mkdir(parents=True)
            for i in range(args.files // 1000):
                (root / f"n{c:08d}" / f"n{c:08d}_{i}.JPEG").touch()
        time.sleep(file_index.SETTLED)
        for repeat in range(-1, args.repeats):  # the first round warms up
            shutil.rmtree(cache, ignore_errors=True)
            for name, scan in (("torchvision", ImageFolder), ("first", folder), ("again", folder)):
                began = time.process_time()
                assert len(scan(str(root))) == args.files // 1000 * 1000
                if repeat >= 0:
                    seconds[name].append(time.process_time() - began)
    ratios = {name: [a / b for a, b in zip(seconds[name], seconds["torchvision"])] for name in ("first", "again")}
    if args.out:
        made = {
            "files": args.files,
            "repeats": args.repeats,
            "seconds": summaries(seconds),
            "ratios": summaries(ratios),
        }
        made["environment"] = environment()
        args.out.write_text(json.dumps(made, indent=1) + "\n")
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    said = (f"{name} {statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for name, v in ratios.items())
    print("over torchvision:", ", ".join(said))


def summaries(values: dict[str, list[float]]) -> dict[str, Any]:
    """Median, least and largest of each, with all of them."""
    found = {name: (statistics.median(v), min(v), max(v)) for name, v in values.items()}
    return {name: {"median": f[0], "range": f[1:], "all": values[name]} for name, f in found.items()}


if __name__ == "__main__":
    main()
