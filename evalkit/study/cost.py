"""What a study will take before it is begun: every command, its data, hours and disk, estimated from the arithmetic."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EvalkitError
from . import plan

PEAK, SHARE = 800e12, 0.4  # FLOP/s that an H100 reaches in bfloat16, and the share of it that a training gets
FLOPS_PER_MAC = 2
PASSES = 3  # a training step costs a forward pass and a backward one of twice its arithmetic
STATE_BYTES = 12  # per parameter in a training state: weights, and two moments of the optimizer
WEIGHT_BYTES = 4


@dataclass(frozen=True)
class Training:
    """What a recipe with its overrides comes to, said by the application.

    Args:
        model: architecture.
        arguments: of its constructor.
        image_size: side of the training images in pixels.
        classes: of the data.
        images: seen per epoch.
        epochs: of the schedule.
        averaged: whether averaged weights are kept too.
        data: name of the data set, and its folder where the recipe wants one.
        present: whether these data are there.
        remark: what was assumed.
    """

    model: str
    arguments: dict[str, Any]
    image_size: int
    classes: int
    images: int
    epochs: int
    averaged: bool
    data: str
    present: bool
    remark: str = ""


@dataclass
class Estimate:
    """Sums over the jobs that are left to run.

    Args:
        hours: Of one H100.
        disk: Bytes that stay.
        peak: Bytes of the largest training state, which is removed when its cell is finished.
        missing: Data that are not there.
        remarks: What the sums leave open, one sentence each.
    """

    hours: float = 0.0
    disk: float = 0.0
    peak: float = 0.0
    missing: set[str] = field(default_factory=set)
    remarks: set[str] = field(default_factory=set)


def table(made: plan.Plan, folder: Path, training: Callable[[str, Sequence[str]], Training]) -> str:
    """Every command of the plan with its state, then what is left to pay.

    Args:
        made: the plan.
        folder: of the study; what is finished there is not counted.
        training: what (recipe, overrides) come to.
    """
    lines, sums = [], Estimate()
    for job in made.jobs:
        if plan.finished(folder, job):
            lines.append(f"done     {_command(folder, job)}")
            continue
        if job.argv[0] == "train":
            note = _count(sums, training(job.argv[1], job.argv[2:]))
        else:
            note = next((word for word in job.argv if word.startswith(("data=", "data_dir="))), "")
        lines.append(f"to run   {_command(folder, job)}{f'  # {note}' if note else ''}")
    lines.append(
        f"{sum(line.startswith('to run') for line in lines)} of {len(made.jobs)} commands to run; trainings about"
        f" {sums.hours:.3g} H100 hours at {100 * SHARE:.0f} % of {PEAK / 1e12:.0f} TFLOP/s, without what methods and"
        " reading images add"
    )
    lines.append(f"disk: {sums.disk / 1e9:.2g} GB stay, up to {sums.peak / 1e9:.2g} GB more while a training runs")
    lines += [f"not there: {name}" for name in sorted(sums.missing)]
    lines += [f"assumed: {remark}" for remark in sorted(sums.remarks)]
    return "\n".join(lines)


def _command(folder: Path, job: plan.Job) -> str:
    return shlex.join(["evalkit", *plan.words(folder, job), "--out", str(folder / job.out)])


def _count(sums: Estimate, what: Training) -> str:
    """Add one training to the sums; what it comes to in words."""
    from ..models.cost import cost

    try:
        parameters, macs = cost(what.model, what.image_size, what.classes, **what.arguments)
    except EvalkitError as e:
        sums.remarks.add(f"no cost for {what.model}: {e}")
        return what.data
    hours = PASSES * FLOPS_PER_MAC * macs * what.images * what.epochs / (PEAK * SHARE) / 3600
    sums.hours += hours
    sums.disk += WEIGHT_BYTES * parameters * (1 + what.averaged)
    sums.peak = max(sums.peak, STATE_BYTES * parameters)
    if not what.present:
        sums.missing.add(what.data)
    if what.remark:
        sums.remarks.add(what.remark)
    return f"{what.data}, {parameters / 1e6:.1f} M parameters, {macs / 1e9:.2f} G multiply-adds, {hours:.3g} h"
