"""Does pre-training help? Segmentation and detection on the embedded scenes by the same schedule, from a pre-trained
backbone and from random weights.

    # 3 seeds, two runs at a time
    python benchmarks/transfer_pretraining.py --json benchmarks/results/transfer_pretraining.json
    # a short look at one task's settings
    python benchmarks/transfer_pretraining.py --seeds 0 --set det:epochs=2 --set det:decay_epochs=[]

For each seed a backbone is trained to classify single digits (evalkit train digits-photo); no digit of the validation
scenes is among those it saw. Then the backbone with and without these weights goes through `evalkit transfer`,
everything else equal, the seed included. Segmentation transfers the ViT, detection the PVT. Runs that are complete in
--out are not made again. Goal: the mean with pre-training is above that without by more than both spreads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evalkit import results
from evalkit.runtime import write_atomic

TASKS = {"seg": ("vit_nano_patch4_32", ("miou",)), "det": ("pvt_nano", ("box_ap", "mask_ap"))}
INITS = {"pretrained": "checkpoint", "random": "random"}


def record(folder: Path, *command: str) -> dict:
    """The last record of the run in `folder`, which `command` makes or continues."""
    if not (folder / results.FILE).exists():
        words = [*command, "--out", str(folder)]
        if (folder / "config.yaml").exists():
            words = [command[0], *(command[1:2] if command[0] == "transfer" else []), "--resume", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
            code = subprocess.run(
                [sys.executable, "-m", "evalkit", *words], stdout=log, stderr=subprocess.STDOUT, env=environment
            ).returncode
        if code:
            raise SystemExit(f"evalkit {' '.join(words)} ended with {code}; see {log.name}")
    return results.read([folder])[-1]


def in_parallel(jobs: int, calls: dict[tuple, Callable[[], dict]]) -> dict[tuple, dict]:
    with ThreadPoolExecutor(jobs) as pool:
        futures = {key: pool.submit(call) for key, call in calls.items()}
        return {key: future.result() for key, future in futures.items()}


def spread(values: list[float]) -> dict[str, float | list[float] | None]:
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="WHERE:KEY=VALUE",
        help="train:, seg: or det:, for runs with and without pre-training",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer-pretraining"), help="folder for the runs")
    parser.add_argument("--json", type=Path, help="write the record here")
    args = parser.parse_args()
    changes = {
        where: [text.partition(":")[2] for text in args.set if text.partition(":")[0] == where]
        for where in ("train", *TASKS)
    }
    if sum(map(len, changes.values())) < len(args.set):
        parser.error("--set takes train:KEY=VALUE, seg:KEY=VALUE or det:KEY=VALUE")

    backbones = {
        (TASKS[task][0], seed): args.out / f"{TASKS[task][0]}-{seed}" for task in args.tasks for seed in args.seeds
    }
    trained = in_parallel(
        args.jobs,
        {
            key: lambda key=key, folder=folder: record(
                folder, "train", "digits-photo", f"model={key[0]}", f"seed={key[1]}", *changes["train"]
            )
            for key, folder in backbones.items()
        },
    )
    calls = {}
    for seed in args.seeds:
        for task in args.tasks:
            for name, init in INITS.items():
                source = backbones[TASKS[task][0], seed]
                command = ("transfer", task, str(source), f"init={init}", f"seed={seed}", *changes[task])
                calls[task, name, seed] = lambda folder=args.out / f"{task}-{name}-{seed}", command=command: record(
                    folder, *command
                )
    measured = in_parallel(args.jobs, calls)

    report = {
        "tasks": {},
        "accuracy": {f"{model}, seed {seed}": r["metrics"]["top1"] for (model, seed), r in trained.items()},
    }
    for task in args.tasks:
        model, metrics = TASKS[task]
        rows = {name: [measured[task, name, seed] for seed in args.seeds] for name in INITS}
        report["tasks"][task] = {
            "model": model,
            "config": {k: v for k, v in rows["random"][0]["config"].items() if k not in ("init", "seed")},
            "data": rows["random"][0]["data"],
            "seconds": round(statistics.fmean(r["seconds"] for found in rows.values() for r in found), 1),
            **{
                metric: {name: spread([r["metrics"][metric] for r in found]) for name, found in rows.items()}
                for metric in metrics
            },
        }
        for metric in metrics:
            for name, value in report["tasks"][task][metric].items():
                print(
                    f"{task} {metric:8} {name:10} {100 * value['mean']:5.1f}"
                    + ("" if value["sd"] is None else f" ± {100 * value['sd']:.1f}")
                )
    report |= {"seeds": args.seeds, "environment": next(iter(measured.values()))["environment"]}
    if args.json:
        write_atomic(args.json, lambda f: f.write((json.dumps(report, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main()
