"""What the protocols share: the plan of a measurement before it and its outcome after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit import bootstrap
from evalkit.data.images import Images
from evalkit.models import Facts, Loaded
from evalkit.parts import Parts

Arrays = dict[str, np.ndarray]
# the arrays of a record whose first axis is the samples
PER_SAMPLE = ("ids", "labels", "ood", "logits", "predictions", "dropped", "readable", "real")


@dataclass(frozen=True)
class Plan:
    """A checked measurement of one model: what will be read, and everything its numbers depend on.

    Args:
        sets: Role -> images.
        rows: Role -> positions evaluated.
        transform: From a PIL image to pixels (3, S, S) float32 in [0, 1].
        settings: JSON values that, with protocol, version, model and data, fix every number.
        resolved: The keys of the configuration that were left open, as they were settled.
        complete: All of the data set is there.
        published: The published settings on the published data.
        notes: What a reader of the numbers should know, one sentence each.
        extra: What the protocol itself prepared.
        parts: Where the pass over the images of a role is saved while it runs.
        files: Role -> (name, fingerprint) of what is read besides images.
    """

    sets: dict[str, Images]
    rows: dict[str, np.ndarray]
    transform: Callable[..., Tensor]
    settings: dict[str, Any]
    resolved: dict[str, Any]
    complete: bool
    published: bool
    notes: list[str]
    extra: dict[str, Any] = field(default_factory=dict)
    parts: Callable[[str], Parts | None] = lambda role: None
    files: dict[str, tuple[str, str]] = field(default_factory=dict)

    def reads(self) -> dict[str, str]:
        """Role -> fingerprint of everything that is read."""
        images = {role: images.fingerprint for role, images in self.sets.items()}
        return images | {role: fingerprint for role, (_, fingerprint) in self.files.items()}


@dataclass(frozen=True)
class Outcome:
    """The numbers of one measurement, a function of the per-sample records alone.

    Args:
        n: Samples behind the metrics.
        metrics: Metric -> value, a fraction or in its own unit; NaN where it is not defined.
        standard_errors: Metric -> standard error over samples.
        undefined: Metric that is NaN -> why.
        series: Rows of what figures draw, such as accuracy by level; None: the protocol has none.
        data: Counts that belong beside the data's name in the record.
        intervals: Metric -> 95 % interval (low, high).
        statistics: Behind the metrics, of the samples in the order of their ids: what two models are compared by.
        strata: (N,) bool: the two sides that are resampled each by itself.
    """

    n: int
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)
    series: list[dict[str, Any]] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    statistics: Sequence[bootstrap.Statistic] = ()
    strata: np.ndarray | None = None


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
    """The outcome that statistics make, with their standard errors and intervals.

    Args:
        arrays: The records, sorted by id.
        statistics: The metrics as functions of how often each sample counts.
        more: Metrics without a spread.
        reasons: Metric -> why it may be NaN.
        series: Rows of what figures draw.
        data: Counts that belong beside the data's name in the record.
    """
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
    """What measures a protocol.

    Args:
        prepare: Checks and opens everything, from model, configuration and device, before anything runs.
        collect: Makes the forward passes: (records by name, (id, reason) of images that could not be read).
        evaluate: Computes the numbers from the records alone.
        reads: What `prepare` would read, from the facts of the model (see `models.stated`) and configuration: role ->
            fingerprint, as `Plan.reads` gives them. By this, studies tell whether what they measured is still there.
    """

    prepare: Callable[[Loaded, Any, torch.device], Plan]
    collect: Callable[..., tuple[Arrays, list[tuple[str, str]]]]
    evaluate: Callable[[Arrays], Outcome]
    reads: Callable[[Facts, Any], dict[str, str]]
