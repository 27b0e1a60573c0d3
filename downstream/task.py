"""What a transfer is made of: the data it runs on, the mm config it trains by, the numbers it ends with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evalkit.protocols import Protocol

from .backbone import Source


@dataclass(frozen=True)
class Data:
    """A data set on disk. `train` and `val` are the parts of an mm dataset config that say what lies where."""

    name: str
    classes: list[str]
    counts: dict[str, int]  # images of each split
    fingerprint: str  # of the validation images and their truth
    published: bool  # whether this is the set of the papers
    train: dict[str, Any]
    val: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    demonstration: bool = False  # the embedded scenes
    train_fingerprint: str = ""  # of the training images and their truth
    masks: bool = True  # whether objects have more than a box


@dataclass(frozen=True)
class Scores:
    """Metrics are fractions; `undefined` says why one is NaN; `series` has one row per class."""

    metrics: dict[str, float]
    series: list[dict[str, Any]]
    undefined: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class Task:
    """A transfer by name. The functions know nothing of how training runs, and import no mm package."""

    about: Protocol
    scope: str  # "mmseg" or "mmdet"
    recipe: Callable[[list[str]], str]  # key=value overrides to the recipe that they call for
    # config, run folder: finds and checks the data, or writes the embedded ones there
    data: Callable[[Any, Path], Data]
    config: Callable[[Any, Source, Data, Path], dict[str, Any]]  # the mm config without its `train_cfg`
    steps: Callable[[Any, Data], int]
    measure: Callable[[Any, Data, Callable[..., dict[str, Any]]], Scores]  # config, data, evaluate(tta=...)
    published: Callable[[Any, Source, Data], bool]  # whether this is what a paper prints
    sheet: Callable[[list[Any], list[str]], Figure]  # samples, classes: images beside the truth and what was predicted
    summary: Callable[[Scores], str]  # one line for the person watching

    @property
    def name(self) -> str:
        return self.about.name
