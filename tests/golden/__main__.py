"""python -m tests.golden [DIRECTORY] [--ledger FILE]: evalkit beside golden vectors, a line per case; exit 1 if any
differs. With --ledger also the table of the comparison, as Markdown."""

import argparse
import sys
from pathlib import Path

import torch

from . import ledger
from .compare import difference
from .vectors import ROOT, read


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT, help="folder of .npz files; else this one's")
    parser.add_argument("--ledger", type=Path, help="file to write the table to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for case in read(arguments.directory):
        found[case.name] = result = difference(case)
        print(f"{case.name} {result.value:.1e} {'equal' if result.equal else 'DIFFERS ' + result.where}", flush=True)
    if arguments.ledger:
        rows = ledger.rows(read(arguments.directory))
        largest = {row: max(found[case.name].value for case in cases) for row, cases in rows.items()}
        arguments.ledger.write_text(ledger.page(rows, largest), encoding="utf-8")
    print(f"{sum(f.equal for f in found.values())} of {len(found)} equal")
    return 0 if found and all(f.equal for f in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
