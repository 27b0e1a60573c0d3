"""python -m tests.golden [DIRECTORY]: evalkit beside golden vectors, a line per case; exit 1 if any differs."""

import argparse
import sys
from pathlib import Path

import torch

from .compare import difference
from .vectors import ROOT, read


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT, help="folder of .npz files; else this one's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for case in read(arguments.directory):
        found.append(result := difference(case))
        print(f"{case.name} {result.value:.1e} {'equal' if result.equal else 'DIFFERS ' + result.where}", flush=True)
    print(f"{sum(f.equal for f in found)} of {len(found)} equal")
    return 0 if found and all(f.equal for f in found) else 1


if __name__ == "__main__":
    sys.exit(main())
