"""Do pre-trained features tell another set's classes better than those of the same network at its initial weights?

    python benchmarks/transfer_cls.py --out benchmarks/results/transfer_cls.json

Source: digits-photo, digits over photographs. Target: digits, the plain ones; its training digits are those of the
source's training images, its test digits are in neither. One network, three seeds of pre-training, each beside the
weights that its own training began with: linear probe, nearest neighbours, few images of a class.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from scipy.stats import ttest_rel

from evalkit import results
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.runtime import environment

SOURCE, TARGET, SEEDS = "digits-photo", "digits", (0, 1, 2)
QUICK = ["workers=0", "device=cpu", "threads=1"]
READOUTS = {"linear": [], "knn": [], "fewshot": ["shots=[1, 5, 10]", "draws=5"]}
SHOWN = ("top1", "top1_k20", "top1_shots1", "top1_shots5", "top1_shots10")


def command(*words: str) -> None:
    """A command of evalkit that must go through."""
    code, message = invoke(list(words))
    if code:
        raise EvalkitError(f"{' '.join(words)}: {message}")


def measure(folder: Path, epochs: int, seeds: tuple[int, ...] = SEEDS) -> list[dict]:
    """A row per mode and metric: its values of the pre-trained and of the initial weights by seed, and a paired t test.

    Args:
        folder: Where runs and results go.
        epochs: Of pre-training.
        seeds: Of pre-training.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for seed in seeds:
        run = folder / f"seed{seed}"
        command("train", SOURCE, f"seed={seed}", f"epochs={epochs}", *QUICK, "eval_epochs=1000", "--out", str(run))
        for init in ("checkpoint", "random"):
            out = folder / f"{init}{seed}"
            for mode, words in READOUTS.items():
                probe = [f"mode={mode}", f"init={init}", f"seed={seed}", *QUICK, *words, "--out", str(out)]
                command("transfer", "cls", str(run), f"data={TARGET}", *probe)
            for record in results.read([out]):
                for metric in SHOWN:
                    if metric in record["metrics"] and (metric != "top1" or record["config"]["mode"] == "linear"):
                        row = found.setdefault((record["config"]["mode"], metric), {"checkpoint": [], "random": []})
                        row[init].append(record["metrics"][metric])
    rows = []
    for (mode, metric), values in found.items():
        trained, initial = values["checkpoint"], values["random"]
        test = ttest_rel(trained, initial) if len(seeds) > 1 else None
        rows.append(
            {
                "mode": mode,
                "metric": metric,
                "pretrained": trained,
                "initial": initial,
                "difference": statistics.fmean(trained) - statistics.fmean(initial),
                "p": None if test is None else float(test.pvalue),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.epochs)
    for row in rows:
        means = [f"{100 * statistics.fmean(row[k]):.1f}" for k in ("pretrained", "initial")]
        print(
            f"{row['mode']:8s} {row['metric']:13s} pre-trained {means[0]} %, initial {means[1]} %, p = {row['p']:.2g}"
        )
    made = {"benchmark": "transfer_cls", "source": SOURCE, "target": TARGET, "seeds": SEEDS, "epochs": args.epochs}
    if args.out:
        args.out.write_text(json.dumps({**made, "rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
