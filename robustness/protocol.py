"""What the protocols share: the plan of a measurement before it and its outcome after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit import bootstrap
from evalkit.data.images import Images
from evalkit.models import Loaded
from evalkit.parts import Parts

Arrays = dict[str, np.ndarray]
# the arrays of a record whose first axis is the samples
PER_SAMPLE = ("ids", "labels", "ood", "logits", "predictions", "dropped", "readable", "real")


@dataclass(frozen=True)
class Plan:
    """A checked measurement of one model: what will be read, and everything its numbers depend on."""

    sets: dict[str, Images]  # role -> images
    rows: dict[str, np.ndarray]  # role -> positions evaluated
    transform: Callable[..., Tensor]
    settings: dict[str, Any]  # JSON values that, with protocol, version, model and data, fix every number
    resolved: dict[str, Any]  # the keys of the configuration that were left open, as they were settled
    complete: bool  # all of the data set is there
    published: bool  # the published settings on the published data
    notes: list[str]
    extra: dict[str, Any] = field(default_factory=dict)  # what the protocol itself prepared
    # where the pass over the images of a role is saved while it runs
    parts: Callable[[str], Parts | None] = lambda role: None


@dataclass(frozen=True)
class Outcome:
    """The numbers of one measurement, a function of the per-sample records alone."""

    n: int
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)  # metric that is NaN -> why
    series: list[dict[str, Any]] | None = None
    data: dict[str, Any] = field(default_factory=dict)  # counts that belong beside the data's name in the record
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)  # 95 %
    # behind the metrics, of the samples in the order of their ids: what two models are compared by
    statistics: Sequence[bootstrap.Statistic] = ()
    strata: np.ndarray | None = None  # (N,) bool: the two sides that are resampled each by itself


def by_id(arrays: Arrays) -> Arrays:
    """The same records in the order of their ids, so that no sum depends on the order of the files."""
    order = np.argsort(arrays["ids"], kind="stable")
    return {name: values[order] if name in PER_SAMPLE else values for name, values in arrays.items()}


def outcome(
    arrays: Arrays,
    statistics: Sequence[bootstrap.Statistic],
    *,
    more: Mapping[str, float] | None = None,
    reasons: Mapping[str, str] | None = None,
    series: list[dict[str, Any]] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Outcome:
    """The outcome that `statistics` make, with their standard errors and intervals. `arrays` by id; `more`: metrics
    without a spread; `reasons`: why a metric may be NaN."""
    values = {name: value for s in statistics for name, value in s.values.items()} | dict(more or {})
    spread = bootstrap.spread(statistics, arrays["ids"], arrays.get("ood"))
    undefined = {
        name: reason for name, reason in (reasons or {}).items() if name in values and not np.isfinite(values[name])
    }
    return Outcome(
        len(arrays["ids"]),
        values,
        spread.standard_errors,
        undefined,
        series,
        dict(data or {}),
        spread.intervals,
        statistics,
        arrays.get("ood"),
    )


@dataclass(frozen=True)
class Measurement:
    """What measures a protocol: `prepare` checks and opens everything, `collect` makes the forward passes, `evaluate`
    computes the numbers from the records."""

    prepare: Callable[[Loaded, Any, torch.device], Plan]
    # (loaded, plan, cfg, device) -> records and unreadable images
    collect: Callable[..., tuple[Arrays, list[tuple[str, str]]]]
    evaluate: Callable[[Arrays], Outcome]
