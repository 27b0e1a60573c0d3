"""What a transfer is made of: the data it runs on, the mm config it trains by, the numbers it ends with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evalkit import bootstrap
from evalkit.protocols import Protocol

from . import per_image
from .backbone import Source


@dataclass(frozen=True)
class Data:
    """A data set on disk.

    Args:
        name: How records name the set.
        classes: Names of the classes, in the order of labels.
        counts: Images of each split.
        fingerprint: Of the validation images and their truth.
        published: Whether this is the set of the papers.
        train: The part of an mm dataset config that says where training data lie.
        val: The same of the validation data.
        notes: What a reader of the numbers should know, one sentence each.
        demonstration: The embedded scenes.
        train_fingerprint: Of the training images and their truth.
        masks: Whether objects have more than a box.
    """

    name: str
    classes: list[str]
    counts: dict[str, int]
    fingerprint: str
    published: bool
    train: dict[str, Any]
    val: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    demonstration: bool = False
    train_fingerprint: str = ""
    masks: bool = True

    def reads(self) -> dict[str, str]:
        """Split -> fingerprint of its images and their truth."""
        return {"train": self.train_fingerprint, "val": self.fingerprint}


@dataclass(frozen=True)
class Scores:
    """What a task measured.

    Args:
        metrics: Metric -> value, a fraction; NaN where it is not defined.
        series: One row per class.
        undefined: Metric that is NaN -> why.
        notes: What a reader of the numbers should know, one sentence each.
        standard_errors: Metric -> standard error over images.
        intervals: Metric -> 95 % interval over images.
        per_image: What each image contributes, their "ids" among it; empty: it is not known.
    """

    metrics: dict[str, float]
    series: list[dict[str, Any]]
    undefined: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    standard_errors: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_image: dict[str, np.ndarray] = field(default_factory=dict)


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class Task:
    """A transfer by name. The functions know nothing of how training runs, and import no mm package.

    Args:
        about: Its description.
        scope: "mmseg" or "mmdet".
        recipe: key=value overrides to the recipe that they call for.
        data: Config, run folder: finds and checks the data, or writes the embedded ones there.
        config: The mm config without its `train_cfg`.
        steps: Optimizer steps of a run, from recipe and data.
        measure: config, data, evaluate(tta=...).
        statistics: `per_image` of what was measured, to the metrics as functions of how often each image counts.
        published: Whether this is what a paper prints.
        sheet: samples, classes: images beside the truth and what was predicted.
        summary: One line for the person watching.
    """

    about: Protocol
    scope: str
    recipe: Callable[[list[str]], str]
    data: Callable[[Any, Path], Data]
    config: Callable[[Any, Source, Data, Path], dict[str, Any]]
    steps: Callable[[Any, Data], int]
    measure: Callable[[Any, Data, Callable[..., dict[str, Any]]], Scores]
    statistics: Callable[[dict[str, np.ndarray]], list[bootstrap.Statistic]]
    published: Callable[[Any, Source, Data], bool]
    sheet: Callable[[list[Any], list[str]], Figure]
    summary: Callable[[Scores], str]

    @property
    def name(self) -> str:
        return self.about.name

    def training(self, spec: str, overrides: list[str]) -> list[str] | None:
        """The words of `evalkit train` that do this instead: none.

        Args:
            spec: The checkpoint.
            overrides: `key=value` as typed.
        """
        return None

    def reads(self, cfg: Any, run: Path) -> dict[str, str]:
        """Split -> fingerprint of the images and truth that lie there now.

        Args:
            cfg: The recipe.
            run: The run folder, which holds the embedded ones.
        """
        return self.data(cfg, run).reads()

    def per_image(self, path: Path) -> tuple[np.ndarray, list[bootstrap.Statistic]]:
        """(ids, metrics as functions of how often each image counts) of the file that a record names. Raises OSError,
        ValueError, KeyError or IndexError where it is gone or damaged.

        Args:
            path: The file.
        """
        arrays = per_image.read(path)
        return arrays["ids"], self.statistics(arrays)

    def transfer(self, spec: str | None, cfg: Any, out: Path | None, resume: Path | None, overrides: list[str]) -> int:
        """Train and measure, see `run.transfer`.

        Args:
            spec: The checkpoint; None: with `resume`.
            cfg: The recipe; None: with `resume`.
            out: The run folder; None: one below runs/.
            resume: The run folder that goes on; None: a new run.
            overrides: `key=value` as typed.
        """
        from .run import transfer

        return transfer(self, spec, cfg, out, resume, overrides)
