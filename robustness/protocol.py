"""What the three protocols share: the plan of a measurement before it and its outcome after it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.data.images import Images
from evalkit.models import Loaded

Arrays = dict[str, np.ndarray]


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


@dataclass(frozen=True)
class Outcome:
    """The numbers of one measurement, a function of the per-sample records alone."""

    n: int
    metrics: dict[str, float]
    standard_errors: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)  # metric that is NaN -> why
    series: list[dict[str, Any]] | None = None
    data: dict[str, Any] = field(default_factory=dict)  # counts that belong beside the data's name in the record


@dataclass(frozen=True)
class Protocol:
    """A protocol: `prepare` checks and opens everything, `collect` makes the forward passes, `evaluate` computes the numbers from the records."""

    name: str
    version: int  # raised whenever a number can move
    prepare: Callable[[Loaded, Any, torch.device], Plan]
    collect: Callable[..., tuple[Arrays, list[tuple[str, str]]]]  # (loaded, plan, cfg, device) -> records and unreadable images
    evaluate: Callable[[Arrays], Outcome]
