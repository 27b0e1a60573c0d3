"""`evalkit train`: a run folder from a recipe, or the continuation of one."""

import os
import signal
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from evalkit import checkpoint, results, runs
from evalkit.about import ACCURACY
from evalkit.data.published import published_set
from evalkit.errors import EvalkitError
from evalkit.records import DataUsed, Made, Numbers, Subject, make_record
from evalkit.runtime import environment, init_processes, is_main, pick_device, world_size

from . import loop, mixed_samples, session
from .config import TrainConfig
from .resolve import resolve


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
    if resume is None:
        cfg = resolve(cfg, device)
    init_processes(device)
    s = session.build(cfg, device)
    if resume is not None:
        found = checkpoint.newest(run)
        if found is not None:
            if found[1]["data"]["fingerprint"] != s.train_images.fingerprint:
                raise EvalkitError(
                    f"the training images are not those that {run} began with; put those back, or begin a new run with"
                    f" init={run}"
                )
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
    else:
        # raises where sizes do not go together, before there is a folder that a better command would find in use
        loop.batch_iterator(s, 0)
        if is_main():
            runs.start(run, cfg)

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


def record(s: session.Session, run: Path) -> None:
    """One results record per evaluated set of weights."""
    n = len(s.val_images)
    meta, sums = session.meta(s), checkpoint.verify((run / "last").resolve())["sha256"]
    data = DataUsed(s.val_images.name, s.val_images.fingerprint, s.cfg.val_split, s.val_images.demonstration)
    published = s.published and published_set(s.val_images) == "imagenet-val"
    for name, scores in s.scores.items():
        values = dict(scores)
        notes = [f"teacher {name}: sha256 {digest}" for name, digest in meta["teachers"].items()]
        if name == "raw":
            values |= {"top1_best": s.best["top1"]}
            if s.cfg.median_evals:
                newest = s.history[-s.cfg.median_evals :]
                values |= {"top1_median": statistics.median(newest)}
                notes.append(f"top1_median: of the last {len(newest)} evaluations")
        errors = {k: (values[k] * (1 - values[k]) / n) ** 0.5 for k in ("top1", "top5") if k in values}
        sha256 = sums["model.safetensors" if name == "raw" else "model_ema.safetensors"]
        record = make_record(
            "train",
            ACCURACY,
            Subject(s.cfg.model, meta["method"], meta["label"], sha256, name, s.recipe),
            data,
            Numbers(n, values, standard_errors=errors),
            Made(
                s.cfg,
                environment(s.device) | {"processes": world_size()},
                s.seconds,
                complete=True,
                seed=s.cfg.seed,
                notes=notes,
            ),
            published=published,
        )
        results.append(run, record)
