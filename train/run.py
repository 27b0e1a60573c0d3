"""`evalkit train`: a run folder from a recipe, or the continuation of one."""

import os
import signal
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evalkit import checkpoint, fingerprint, results, runs
from evalkit.errors import EvalkitError
from evalkit.runtime import environment, init_processes, is_main, pick_device, world_size
from evalkit.text import say

from . import loop, mixed_samples, session
from .config import TrainConfig

ACCURACY_VERSION = 1


def train(
    cfg: TrainConfig | None, out: Path | None = None, resume: Path | None = None, overrides: list[str] | None = None
) -> int:
    """Train by `cfg` into the folder `out`, or continue the run folder `resume`. Returns the exit code: 0 complete, 2
    stopped by a signal and resumable, 130 stopped by Ctrl-C and resumable."""
    if resume is not None:
        run, cfg = Path(resume), runs.resumed(TrainConfig, Path(resume), overrides or [])
    else:
        run = (
            Path(out)
            if out
            else Path("runs") / f"{cfg.data}-{session.method_name(cfg.mixup)}-seed{cfg.seed}".replace("/", "-")
        )
        cfg = replace(cfg, threads=cfg.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", 1))))
    torch.set_num_threads(cfg.threads)
    device = pick_device(cfg.device)
    init_processes(device)
    s = session.build(cfg, device)
    compared: list[str] = []
    if resume is not None:
        found = checkpoint.newest(run)
        if found is not None:
            compared = same_images(s, found[1]["data"], run)
            session.restore(s, found[0])
            s.seconds = found[1]["seconds"]
        if is_main():
            print(
                (
                    f"resuming {run} at step {s.step}"
                    if found
                    else f"{run} has no whole checkpoint yet; starting at step 0"
                ),
                flush=True,
            )
            say(*compared)
    else:
        # raises where sizes do not go together, before there is a folder that a better command would find in use
        loop.batch_iterator(s, 0)
        if is_main():
            runs.start(run, cfg)
            say(*s.remarks)

    try:
        loop.fit(s, run)
    except loop.Stopped as e:
        number = e.args[0]
        if is_main():
            print(
                f"stopped by {signal.Signals(number).name} at step {s.step}, saved; continue with: evalkit train"
                f" --resume {run}",
                flush=True,
            )
        return 130 if number == signal.SIGINT else 2
    if is_main():
        mixed_samples.save(s, run / "mixed.npz")
        record(s, run)
        print(
            f"top-1 {100 * s.scores['raw']['top1']:.2f} % on {s.val_images.name} ({len(s.val_images)} images);"
            f" checkpoint: {run / 'last'}",
            flush=True,
        )
    return 0


def same_images(s: session.Session, known: dict[str, Any], run: Path) -> list[str]:
    """Raise EvalkitError unless training and validation images are those a checkpoint was written with, as its meta
    `known` says; a sentence where that is not certain."""
    said = []
    for what, key, images in (
        ("training", "fingerprint", s.train_images),
        ("validation", "val_fingerprint", s.val_images),
    ):
        before = known.get(key)
        same = fingerprint.same(before, images.fingerprint) if isinstance(before, str) else None
        if same is False:
            raise EvalkitError(
                f"the {what} images are not those that {run} began with; put those back, or begin a new run with"
                f" init={run}"
            )
        if same is None:
            said.append(f"whether the {what} images are those of before is not known: an earlier evalkit wrote the run")
        elif remark := fingerprint.remark(images.fingerprint):
            said.append(f"the {what} images are those of before, {remark}")
    return said


def record(s: session.Session, run: Path) -> None:
    """One results record per evaluated set of weights."""
    n = len(s.val_images)
    meta, sums = session.meta(s), checkpoint.verify((run / "last").resolve())["sha256"]
    for name, scores in s.scores.items():
        values = dict(scores)
        notes = [*s.remarks, *(f"teacher {name}: sha256 {digest}" for name, digest in meta["teachers"].items())]
        if name == "raw":
            values |= {"top1_best": s.best["top1"]}
            if s.cfg.median_evals:
                newest = s.history[-s.cfg.median_evals :]
                values |= {"top1_median": statistics.median(newest)}
                notes.append(f"top1_median: of the last {len(newest)} evaluations")
        results.append(
            run,
            results.make_record(
                task="train",
                protocol="accuracy",
                version=ACCURACY_VERSION,
                model=s.cfg.model,
                method=meta["method"],
                label=meta["label"],
                checkpoint_sha256=sums["model.safetensors" if name == "raw" else "model_ema.safetensors"],
                weights=name,
                data={"name": s.val_images.name, "fingerprint": s.val_images.fingerprint, "split": s.cfg.val_split},
                n=n,
                metrics=values,
                undefined={},
                standard_errors={k: (values[k] * (1 - values[k]) / n) ** 0.5 for k in ("top1", "top5") if k in values},
                seed=s.cfg.seed,
                config=meta["config"],
                environment=environment(s.device) | {"processes": world_size()},
                seconds=s.seconds,
                complete=True,
                published_protocol=False,
                records=None,
                series=None,
                notes=notes,
            ),
        )
