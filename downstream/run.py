"""`evalkit transfer`: a run folder from a checkpoint, or the continuation of one."""

import dataclasses
import json
import os
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from evalkit import guard, plots, results, run_folder
from evalkit.errors import EvalkitError
from evalkit.models.fit import describe
from evalkit.models.load import spoken
from evalkit.records import DataUsed, Made, Numbers, Subject, idle_keys, make_record
from evalkit.runtime import (
    environment,
    gather_objects,
    init_processes,
    is_main,
    parse_json,
    pick_device,
    world_size,
    write_atomic,
)
from evalkit.text import say

from . import begun, per_image
from .backbone import TIMM, Source, resolve
from .config import TransferConfig, merge
from .mm import require
from .plan import Plan, apply_keys
from .task import Data, Scores, Task

BASE = "mm_base.txt"  # the mm config that `config` named, as it was read
WEIGHTS = "weights.json"  # what became of every tensor of the checkpoint
SHEET, SHOWN = "samples.png", 6  # validation images beside the truth and what was predicted


@dataclasses.dataclass(frozen=True)
class Job:
    """One transfer: what, by which keys, of which weights, where.

    Args:
        task: What is trained and measured.
        cfg: By which keys.
        source: From which weights.
        run: The run folder.
        device: Where it is computed.
    """

    task: Task
    cfg: Any
    source: Source
    run: Path
    device: torch.device


def transfer(
    task: Task,
    spec: str | None,
    cfg: TransferConfig | None,
    out: Path | None = None,
    resume: Path | None = None,
    overrides: list[str] | None = None,
) -> int:
    """Train a transfer task from a checkpoint and measure it. Returns the exit code: 0 complete, 2 stopped by a signal
    and resumable, 130 stopped by Ctrl-C and resumable.

    Args:
        task: What is trained and measured.
        spec: The checkpoint, as `backbone.resolve` takes it; None: with `resume`.
        cfg: The recipe; None: with `resume`.
        out: The run folder; None: one below runs/, named after task, data, backbone and seed.
        resume: The run folder that goes on; None: a new run.
        overrides: `key=value` of keys that change no bit, for a run that goes on.
    """
    require(task.scope)
    trusted = False
    if resume is not None:
        named = [word for word in overrides or [] if word.startswith("config=")]
        run = Path(resume)
        cfg = run_folder.resumed(task.about.config, run, [word for word in overrides or [] if word not in named])
        trusted = bool(named)
        if trusted and named[-1] != f"config={cfg.config}":
            raise EvalkitError(f"{run} was begun with config={cfg.config}; a run goes on by what it began with")
        source = begun.source(run)
    else:
        assert spec is not None and cfg is not None, "a new run is made of a checkpoint and a configuration"
        source = resolve(
            spec,
            model=cfg.model,
            model_args=cfg.model_args,
            weights=cfg.weights,
            random=cfg.init == "random",
            label=cfg.label,
        )
        run = Path(out) if out else Path("runs") / _folder_name(task, cfg, source)
        cfg = dataclasses.replace(
            cfg, threads=cfg.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", 1)))
        )
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    device = pick_device(cfg.device)
    init_processes(device)
    with run_folder.claimed(run, f"transfer {task.name}", new=resume is None) if is_main() else nullcontext():
        return _run(Job(task, cfg, source, run, device), resume is not None, trusted)


def _run(job: Job, resume: bool, trusted: bool) -> int:
    """Train and measure in a folder that is this command's own."""
    task, cfg, source, run, device = job.task, job.cfg, job.source, job.run, job.device
    data: Data = gather_objects(task.data(cfg, run) if is_main() else None)[0]
    compared = gather_objects(begun.compare(run, data) if resume and is_main() else [])[0]
    plan = _plan(job, data, resume, trusted)
    mm_config, steps = plan.config, plan.steps

    from .mm import engine
    from .mm.checkpoints import newest, prune

    found = gather_objects(newest(run) if resume and is_main() else None)[0]
    if found and is_main():
        prune(run, found[0], cfg.keep)
    if resume and not found:
        begun.same_weights(run, source)
    if found and found[1] == steps and (known := gather_objects(is_main() and _measured(job, data, plan))[0]):
        if is_main():
            say(f"{known}; the run was finished, and nothing was added to it")
        return 0
    if found and is_main():
        _told(run)  # is needed at the end: what is damaged is said before it trains
    mm_config["train_cfg"] = engine.loop_config(cfg, run, steps, plan.epoch_steps)
    if is_main():
        if not resume:
            begun.write(run, source, data)
            run_folder.start(run, cfg)
            if plan.base:
                write_atomic(run / BASE, lambda f: f.write(plan.base.encode()))
        engine.save_config(mm_config, run / "mm_config.py")
        say(
            f"{task.name}: {source.label} ({source.model}) on {data.name}, {data.counts['train']} images,"
            f" {len(data.classes)} classes"
        )
        say(*data.notes, *plan.notes, *compared)
    began = time.monotonic()
    runner = engine.build(mm_config, run, scope=task.scope, seed=cfg.seed, device=device, checkpoint=found and found[0])
    if is_main():
        if resume:
            say(f"resuming {run} at step {found[1]}" if found else f"{run} has no checkpoint yet; starting at step 0")
        if found is None:
            _tell_weights(source, engine.plain_model(runner).backbone.report, run)
    loop = runner.train_loop
    loop.validate = lambda: _on_the_way(task, cfg, data, runner, mm_config)
    loop.track, loop.config = cfg.track, dataclasses.asdict(cfg)
    with engine.logged(runner):
        try:
            with engine.in_one_line("the network cannot be trained"):
                runner.train()
        except engine.Stopped as e:
            return guard.stopped(e.args[0], runner.iter, f"evalkit transfer {task.name} --resume {run}")
        outcome = task.measure(cfg, data, lambda tta=False: engine.evaluate(runner, mm_config, tta=tta))
        loop.tell(outcome.metrics, task.summary(outcome))
    if is_main():
        sheet = plots.png(task.sheet(engine.samples(runner, mm_config, SHOWN), data.classes))
        write_atomic(run / SHEET, lambda f: f.write(sheet))
        parameters = sum(p.numel() for p in engine.plain_model(runner).parameters())
        outcome = dataclasses.replace(outcome, notes=[*_told(run), *outcome.notes])
        per_image.write(run, outcome.per_image)
        record = _record(job, data, plan, outcome, parameters, time.monotonic() - began)
        results.append(run, record)
        say(
            f"{task.summary(outcome)} on {data.name} ({data.counts['val']} images); {run / results.FILE}, {run / SHEET}"
        )
        say(*(f"  {note}" for note in outcome.notes))
    return 0


def _plan(job: Job, data: Data, resume: bool, trusted: bool) -> Plan:
    """What the run trains by: the built-in config of the keys, or the one that `config` names; then the keys that
    either takes, and last what the user changes by hand."""
    task, cfg = job.task, job.cfg
    if cfg.config is None:
        plan = Plan(task.config(cfg, job.source, data, job.run), task.steps(cfg, data))
    else:
        from .mm.adopt import adopt

        saved = job.run / BASE if resume and not trusted else None
        plan = adopt(task, cfg, job.source, data, job.run, saved)
        if trusted and (job.run / BASE).read_text(encoding="utf-8") != plan.base:
            raise EvalkitError(
                f"{cfg.config} is not what {job.run} began with; put that back, or start again elsewhere"
            )
    batch = plan.config["train_dataloader"]["batch_size"] * world_size()
    if cfg.batch_size and cfg.batch_size % world_size():
        raise EvalkitError(f"batch_size={cfg.batch_size} cannot be shared by {world_size()} processes; use a multiple")
    if batch % (world_size() * cfg.accumulate):
        raise EvalkitError(
            f"accumulate={cfg.accumulate} does not divide the {batch // world_size()} images of a process"
        )
    plan.notes += apply_keys(plan.config, cfg, job.device.type)
    plan.config["evalkit_freeze_neck"] = cfg.freeze == "all-but-head"
    merge(plan.config, cfg.mm)
    return plan


def _on_the_way(
    task: Task, cfg: Any, data: Data, runner: Any, mm_config: dict[str, Any]
) -> tuple[dict[str, float], str]:
    """The metrics during training, that of the task's first column first, and the same in words; several scales are
    left for the end."""
    from .mm import engine

    once = dataclasses.replace(cfg, ms=False) if hasattr(cfg, "ms") else cfg
    found = task.measure(once, data, lambda tta=False: engine.evaluate(runner, mm_config, tta=tta))
    return found.metrics, task.summary(found)


def _measured(job: Job, data: Data, plan: Plan) -> str | None:
    """What a finished run measured, in words; None if it has not yet."""
    task, run = job.task, job.run
    if not all((run / name).exists() for name in (results.FILE, SHEET, per_image.FILE)):
        return None
    # an earlier evalkit knew fewer keys that move no number
    now = {"config": _settings(job.cfg, plan), "idle_keys": idle_keys(job.cfg)}
    for r in results.scan([run / results.FILE])[0]:
        if (
            (r["task"], r["protocol"], r["version"], r["complete"]) == ("transfer", task.name, task.about.version, True)
            and (r["checkpoint_sha256"], r["data"]["fingerprint"]) == (job.source.sha256, data.fingerprint)
            and results.settings(r) == results.settings(r | now)
        ):
            metrics = {k: float("nan") if v is None else v for k, v in r["metrics"].items()}
            return f"{task.summary(Scores(metrics, r['series'] or [], r['undefined']))} on {data.name}"
    return None


def _folder_name(task: Task, cfg: Any, source: Source) -> str:
    head = f"-{cfg.head}" if getattr(cfg, "head", None) else ""
    head = head if cfg.config is None else f"-{Path(cfg.config).stem}"
    return re.sub(r"[^\w.-]+", "-", f"{task.name}-{Path(cfg.data).name}{head}-{source.label}-seed{cfg.seed}")


def _tell_weights(source: Source, report: dict[str, list[str]], run: Path) -> None:
    """What became of every tensor: the counts for the person watching, the names in weights.json."""
    if source.checkpoint is None:
        say("backbone: random weights")
    else:
        counts = ", ".join(
            f"{len(report[key])} {key.replace('_', ' ')}"
            for key in ("loaded", "resized", "renamed", "head_dropped", "unexpected")
        )
        origin = f"timm's weights of {source.model}" if source.checkpoint == TIMM else f"weights of {source.checkpoint}"
        say(f"backbone: {origin}: {counts}")
        say(*(f"  {line}" for line in report.get("chosen", [])))
        for key in ("resized", "unexpected"):
            if report[key]:
                say(f"  {key}: {', '.join(report[key][:5])}{', ...' if len(report[key]) > 5 else ''}")
    if note := _other_training(source):
        say(f"  {note}")
    write_atomic(run / WEIGHTS, lambda f: f.write(json.dumps(report, indent=1).encode()))


def _told(run: Path) -> list[str]:
    """What a reader must know of the weights that the run began with."""
    try:
        return describe(parse_json((run / WEIGHTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise EvalkitError(
            f"{run / WEIGHTS} is missing or damaged; put it back, or start again in another folder"
        ) from e


def _other_training(source: Source) -> str:
    """What regularised the pre-training and does not here; "" for nothing."""
    args = ", ".join(f"{key}={value}" for key, value in source.of_training.items())
    return f"{args} of pre-training is not used: the recipe's keys count" if args else ""


def _settings(cfg: TransferConfig, plan: Plan) -> dict[str, Any]:
    """The config of a record as it is read again."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(cfg) | plan.resolved))
    return settings


def _record(job: Job, data: Data, plan: Plan, outcome: Scores, parameters: int, seconds: float) -> dict[str, Any]:
    task, cfg, source = job.task, job.cfg, job.source
    more = {
        "train_fingerprint": data.train_fingerprint,
        "classes": len(data.classes),
        "train_images": data.counts["train"],
    }
    packages = ("mmengine", "mmcv-lite", task.scope.replace("mmseg", "mmsegmentation"))
    return make_record(
        "transfer",
        task.about,
        Subject(
            spoken(source.model, job.cfg.model_args),
            source.method,
            source.label,
            source.sha256,
            source.weights or "raw",
            source.recipe,
        ),
        DataUsed(data.name, data.fingerprint, "val", data.demonstration, more),
        Numbers(
            data.counts["val"],
            outcome.metrics | {"parameters": parameters},
            outcome.undefined,
            outcome.standard_errors,
            outcome.intervals,
            series=outcome.series,
        ),
        Made(
            cfg,
            environment(job.device, packages),
            seconds,
            complete=True,
            seed=cfg.seed,
            resolved=plan.resolved,
            records=per_image.FILE,
            notes=[*data.notes, *plan.notes, *filter(None, [_other_training(source)]), *outcome.notes],
        ),
        published=task.published(cfg, source, data) and source.published,
        assumed=cfg.assumed,
    )
