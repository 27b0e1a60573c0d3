"""`evalkit train`: a run folder from a recipe, or the continuation of one."""

import os
import statistics
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evalkit import checkpoint, fingerprint, guard, results, run_folder
from evalkit.about import ACCURACY
from evalkit.data.loading import steps_per_epoch
from evalkit.errors import EvalkitError
from evalkit.recipe_text import flow
from evalkit.records import DataUsed, Made, Numbers, Subject, make_record
from evalkit.runtime import environment, init_processes, is_main, pick_device, world_size
from evalkit.text import say

from . import fsdp, loop, mixed_samples, session, settings, snapshot
from .config import TrainConfig
from .ema import beginning_left
from .micro_batch import settle_micro_batch
from .resolve import resolve
from .sizes import settle_sizes


def train(
    cfg: TrainConfig | None, out: Path | None = None, resume: Path | None = None, overrides: list[str] | None = None
) -> int:
    """Train by a recipe, or continue a run. Returns the exit code: 0 complete, 2 stopped by a signal and resumable, 130
    stopped by Ctrl-C and resumable.

    Args:
        cfg: The recipe; None: with `resume`.
        out: The run folder; None: one below runs/ with a name of its own.
        resume: The run folder that goes on; None: a new run.
        overrides: `key=value` of keys that change no bit, for a run that goes on.
    """
    if resume is not None:
        run, cfg = Path(resume), resumed(Path(resume), overrides or [])
    else:
        assert cfg is not None, "a new run is made of a configuration"
        run = (
            Path(out)
            if out
            else Path("runs") / f"{cfg.data}-{session.method_name(cfg.mixup)}-seed{cfg.seed}".replace("/", "-")
        )
        cfg = replace(
            cfg, threads=cfg.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        )
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    device = pick_device(cfg.device)
    init_processes(device)
    with run_folder.claimed(run, "train", new=resume is None) if is_main() else nullcontext():
        if resume is None and is_main():
            run_folder.check_links(run)
        images = session.load_images(cfg)
        if resume is None:
            cfg = settle_sizes(cfg, images[0])
            steps = session.total_steps(cfg, images[0])
            cfg = settle_micro_batch(resolve(cfg, device, steps), device, images)
        s = session.build(cfg, device, images)
        cfg = s.cfg
        loop.batch_iterator(s, 0)  # raises where sizes do not go together
        if is_main():
            say(headline(s, run), *([f"cache={cfg.cache}: {s.source}"] if cfg.cache != "none" else []))
        if resume is not None:
            go_on(s, run)
        elif is_main():
            run_folder.start(run, cfg)
            say(*(f"this setting: {line}" for line in cfg.applied), *s.remarks)
        return _run(s, run)


def resumed(run: Path, overrides: list[str]) -> TrainConfig:
    """The configuration of a run that goes on, whose own code the command line names too.

    Args:
        run: The run folder.
        overrides: `key=value` of keys that change no bit, and mixup=module:Class where that is the run's.
    """
    named = [word for word in overrides if word.startswith("mixup=") and settings.CODE.fullmatch(word[len("mixup=") :])]
    cfg = run_folder.resumed(TrainConfig, run, [word for word in overrides if word not in named])
    settings.check_code(cfg.mixup, named, str(run), "mixup=")
    for word in named:
        if word[len("mixup=") :] not in settings.names(cfg.mixup):
            raise EvalkitError(
                f"{run} was begun with mixup={flow(cfg.mixup)}, not with {word}; a run goes on by what it began with"
            )
    return cfg


def headline(s: session.Session, run: Path) -> str:
    """What begins, in one line.

    Args:
        s: The run as it begins.
        run: The run folder.
    """
    cfg = s.cfg
    millions = sum(p.numel() for p in s.network.model.parameters()) / 1e6
    where = f"{torch.cuda.get_device_name(s.device)}" if s.device.type == "cuda" else f"CPU, {cfg.threads} threads"
    kept = "" if cfg.cache == "none" else f", cache={cfg.cache}"
    how = [f"amp={cfg.amp}", f"opt_kernels={cfg.opt_kernels}"]
    how += [name for name in ("channels_last", "compile", "fsdp") if getattr(cfg, name)]
    return (
        f"{cfg.model} ({millions:.1f} M parameters), {session.method_name(cfg.mixup)}, {len(s.train_images):,} +"
        f" {len(s.val_images):,} images of {s.train_images.name} at {cfg.image_size} pixels (decode={cfg.decode},"
        f" augment_device={cfg.augment_device}{kept}), {s.total_steps:,} steps of {cfg.batch_size} in parts of"
        f" {cfg.micro_batch}, {world_size()} x {where} ({', '.join(how)}), into {run}"
    )


def go_on(s: session.Session, run: Path) -> None:
    """Bring a freshly built session to the run's newest whole checkpoint, and the folder to what that checkpoint
    says.

    Args:
        s: The run, freshly built.
        run: The run folder.
    """
    found, compared = checkpoint.newest(run, state=True), []
    if found is not None:
        folder, meta = found
        compared = [*same_images(s, folder, meta, run), *same_helpers(s, folder, meta, run)]
        snapshot.restore(s, folder)
        s.init = snapshot.of_meta(folder, {"init": {}} | meta, "init", dict)  # of then, whatever lies there now
        s.seconds = float(snapshot.of_meta(folder, meta, "seconds", int | float))
    if is_main():
        checkpoint.tidy(run, found and found[0], s.best.get("step"), s.cfg.keep)
        say(f"resuming {run} at step {s.step}" if found else f"{run} has no whole checkpoint yet; starting at step 0")
        say(*compared)


def _run(s: session.Session, run: Path) -> int:
    """Train to the end, then write what a finished run leaves behind; a run that was finished is left as it is."""
    finished = s.step == s.total_steps
    try:
        if not finished:
            loop.fit(s, run)
    except loop.Stopped as e:
        return guard.stopped(e.args[0], s.step, f"evalkit train --resume {run}")
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        if advice := out_of_memory(s, e):
            raise EvalkitError(f"{advice}, or continue this one where more is free") from e
        if advice := not_compiled(s, e):
            raise EvalkitError(advice) from e
        raise
    with fsdp.gathered(s.network, s.empty) as network:
        if is_main() and not (finished and (run / "mixed.npz").exists()):
            mixed_samples.save(s, network, run / "mixed.npz")
    if is_main():
        new = [results.append(run, r) for r in records(s, run)]
        say(
            f"{summary(s)}; checkpoint: {run / 'last'}"
            + ("" if any(new) else "; the run was finished, and nothing was added to it")
        )
    return 0


def out_of_memory(s: session.Session, error: Exception) -> str | None:
    """What to do about memory that ran out, in a line; None if the error is another.

    Args:
        s: The run.
        error: What a step raised.
    """
    of_torch = "can't allocate memory" in str(error)  # what its CPU allocator says
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or of_torch):
        return None
    cfg, ways = s.cfg, []
    if cfg.amp == "none" and s.device.type == "cuda":
        ways.append("amp=bf16")
    smaller = [n for n in range(1, cfg.micro_batch) if cfg.batch_size % n == 0]
    if smaller:
        tried = "" if cfg.fsdp else "auto_micro_batch=true, which tries what fits, or "
        ways.append(f"{tried}micro_batch={smaller[-1]} (so many images are mixed with one another)")
    if s.device.type != "cuda":
        ways.append("fewer workers")
    if world_size() > 1 and not cfg.fsdp:
        ways.append("fsdp=true, which splits weights and optimizer state over the processes")
    where = "the GPU's memory" if s.device.type == "cuda" else "memory"
    return (
        f"{where} ran out at step {s.step} with micro_batch={cfg.micro_batch}; begin a new run with {' or '.join(ways)}"
    )


def not_compiled(s: session.Session, error: Exception) -> str | None:
    """What to do about a network that torch.compile cannot compile, in a line; None if the error is another.

    Args:
        s: The run.
        error: What a step raised.
    """
    exceptions = sys.modules.get("torch._dynamo.exc")  # there once anything was compiled
    if exceptions is None or not isinstance(error, exceptions.TorchDynamoException):
        return None
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"torch.compile failed at step {s.step} ({reason}); begin a new run with compile=false, or mend what it lacks"
        " (often a C compiler) and continue this one"
    )


def same_images(s: session.Session, folder: Path, meta: dict[str, Any], run: Path) -> list[str]:
    """Raise EvalkitError unless training and validation images are those that a checkpoint was written with; a sentence
    where that is not certain.

    Args:
        s: The run, with the images as they are now.
        folder: The checkpoint.
        meta: What its meta.json says.
        run: The run folder.
    """
    known, said = snapshot.of_meta(folder, meta, "data", dict), []
    of = {"training": ("fingerprint", s.train_images), "validation": ("val_fingerprint", s.val_images)}
    for what, (key, images) in of.items():
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


def same_helpers(s: session.Session, folder: Path, meta: dict[str, Any], run: Path) -> list[str]:
    """Raise EvalkitError unless teachers and maps made before are those that a checkpoint was written with; a sentence
    where that is not certain.

    Args:
        s: The run, with teachers and maps as they are now.
        folder: The checkpoint.
        meta: What its meta.json says.
        run: The run folder.
    """
    said = []
    now = {"teachers": snapshot.meta(s)["teachers"], "maps": s.maps}
    for key, what in {"teachers": "the weights of the teacher", "maps": "the maps in"}.items():
        if not now[key]:
            continue
        known = snapshot.of_meta(folder, {key: {}} | meta, key, dict)
        for name, own in now[key].items():
            if name not in known:
                said.append(f"whether {what} {name} are those of before is not known: an earlier evalkit wrote the run")
            elif fingerprint.same(str(known[name]), str(own)) is False:
                raise EvalkitError(
                    f"{what} {name} are not those that {run} began with; put those back, or begin a new run with"
                    f" init={run}"
                )
            elif key == "maps" and (remark := fingerprint.remark(own)):
                said.append(f"{what} {name} are those of before, {remark}")
    return said


def summary(s: session.Session) -> str:
    """The accuracy of a finished run in words: of which weights it is, where there are several."""
    (top1, of), *others = [(s.scores[name]["top1"], session.WEIGHTS[name]) for name in s.scores]
    if "trained" in s.scores:
        of = "momentum encoder"
    text = f"top-1 {100 * top1:.2f} %{f' ({of})' if others else ''} on {s.val_images.name} ({len(s.val_images)} images)"
    text += "".join(f"; {name}: {100 * value:.2f} %" for value, name in others)
    return "; ".join([text, *early(s)])


def early(s: session.Session) -> list[str]:
    """What makes the numbers of a short run less than what its weights could give."""
    cfg, steps = s.cfg, s.step
    found = []
    per_epoch = steps_per_epoch(len(s.train_images), cfg.batch_size)
    if s.ema and (begun := beginning_left(cfg, per_epoch, steps)) > 0.05:
        found.append(f"after {steps} steps the averaged weights still are {100 * begun:.0f} % those the run began with")
    if cfg.warmup_epochs * per_epoch >= steps:
        found.append(f"the run ended within its warm-up of {cfg.warmup_epochs:g} epochs")
    return found


def records(s: session.Session, run: Path) -> list[dict[str, Any]]:
    """One results record per exported set of weights.

    Args:
        s: The run at its end.
        run: The run folder.
    """
    n, out = len(s.val_images), []
    meta, sums = snapshot.meta(s), checkpoint.verify((run / "last").resolve())["sha256"]
    used = s.val_images
    data = DataUsed(
        used.name, used.fingerprint, session.val_name(s.cfg), used.demonstration, {"prepared": str(s.eval_transform)}
    )
    published = s.is_published and s.whole[1]
    for name in s.networks():
        values = dict(s.scores[name])
        notes = [*s.remarks, *(f"teacher {name}: sha256 {digest}" for name, digest in meta["teachers"].items())]
        notes += [f"maps {name}: {digest}" for name, digest in meta["maps"].items()]
        notes += [f"began with {name}: sha256 {digest}" for name, digest in meta["init"].items()]
        notes += early(s)
        if name == "raw":
            values |= {"top1_best": s.best["top1"]}
            if s.cfg.median_evals:
                newest = s.history[-s.cfg.median_evals :]
                values |= {"top1_median": statistics.median(newest)}
                notes.append(f"top1_median: of the last {len(newest)} evaluations")
            if "trained" in s.scores:
                trained = s.scores["trained"]["top1"]
                notes.append(f"weights of the momentum encoder; the network that was trained: top1 {trained:.6f}")
        errors: dict[str, float | None] = {
            k: (values[k] * (1 - values[k]) / n) ** 0.5 for k in ("top1", "top5") if k in values
        }
        sha256 = sums[checkpoint.FILES[name]]
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
        out.append(record)
    return out
