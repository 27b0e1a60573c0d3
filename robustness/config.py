"""The keys of `evalkit robustness`: one frozen dataclass per protocol."""

import math
from dataclasses import dataclass, field
from typing import Any

from evalkit.errors import EvalkitError, unknown

MODES = ("random", "salient", "nonsalient")
FILLS = ("black", "mean")


@dataclass(frozen=True)
class ProtocolConfig:
    """What every protocol takes."""

    data: str | None = None  # the protocol's data folder, or an embedded set; absent: the embedded stand-in where the checkpoint was trained on one
    out: str = "results"  # where results.jsonl and the per-sample records go
    preprocess: str | None = None  # published | model | native; absent: native for embedded sets, else published
    model: str | None = None  # architecture of a bare weights file
    model_args: dict[str, Any] = field(default_factory=dict)  # passed to its constructor
    weights: str | None = None  # raw | ema; absent: the averaged weights where the checkpoint holds them
    forward_batch: int = 64  # rows of a forward pass, always filled up; the only size that can show in the last bits
    batch_size: int = 64  # images a loader worker reads at a time
    workers: int = 2
    device: str | None = None  # a GPU if there is one, else cpu
    limit: int | None = None  # evaluate this many images, evenly spaced, of each set
    on_error: str = "fail"  # unreadable images: fail = leave out, list, mark incomplete, exit code 2; skip = leave out and count
    allow_partial: bool = False  # accept a data folder with missing classes or images

    def check(self) -> None:
        """Raise EvalkitError for a value that cannot be."""
        for key, options in (("preprocess", ("published", "model", "native", None)), ("weights", ("raw", "ema", None)), ("on_error", ("fail", "skip"))):
            if getattr(self, key) not in options:
                raise unknown(f"value of {key}", str(getattr(self, key)), [o for o in options if o])
        for key in ("forward_batch", "batch_size", "limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise EvalkitError(f"{key} must be at least 1, but got {value}")
        if self.workers < 0:
            raise EvalkitError(f"workers must be at least 0, but got {self.workers}")


@dataclass(frozen=True)
class OcclusionConfig(ProtocolConfig):
    """Patch dropping: random, salient and non-salient."""

    modes: list[str] = field(default_factory=lambda: list(MODES))
    levels: list[float] = field(default_factory=lambda: [i / 10 for i in range(10)])  # share of patches (random) or of saliency mass dropped; 0 is always run
    repeats: int = 5  # random masks per image and level
    seed: int = 0  # of the random masks
    grid: int | None = None  # patches per side; absent: 14, or one per patch of the model on the embedded sets
    saliency: str | None = None  # dino | self | a model or checkpoint | file.npz; absent: self on embedded sets, else dino
    head: str = "auto"  # attention head of the saliency model: auto (1 for dino, else mean) | mean | a number
    saliency_norm: str = "own"  # mean and std of the saliency model's input: own | model (the evaluated one's)
    saliency_pool: bool = False  # sum the saliency of a finer grid over the patches of `grid`
    salient_by: str = "mass"  # what a level of salient and nonsalient is a share of: mass (of the saliency) | count (of the patches)
    offset: int = 0  # pixels by which the dropped patches are moved right and down
    fill: str = "black"  # colour of what is dropped: black | mean (the evaluated model's) | r,g,b in 0..1
    shuffle: list[int] = field(default_factory=list)  # also shuffle the patches of grids with so many a side

    def check(self) -> None:
        super().check()
        for mode in self.modes:
            if mode not in MODES:
                raise unknown("occlusion mode", mode, MODES)
        if not (self.modes or self.shuffle) or len(set(self.modes)) < len(self.modes):
            raise EvalkitError(f"modes must name each of some of {', '.join(MODES)} once, but got {self.modes}")
        if any(math.isnan(q) or not 0 <= q <= 1 for q in self.levels) or sorted(set(self.levels)) != self.levels or not any(self.levels):
            raise EvalkitError(f"levels must ascend within 0..1 and reach above 0, but got {self.levels}")
        if self.repeats < 1:
            raise EvalkitError(f"repeats must be at least 1, but got {self.repeats}")
        if not 0 <= self.seed < 2**64:
            raise EvalkitError(f"seed must lie in 0..2^64-1, but got {self.seed}")
        if self.grid is not None and self.grid < 1:
            raise EvalkitError(f"grid must be at least 1, but got {self.grid}")
        for key, options in (("saliency_norm", ("own", "model")), ("salient_by", ("mass", "count"))):
            if getattr(self, key) not in options:
                raise unknown(f"value of {key}", getattr(self, key), options)
        if self.offset < 0:
            raise EvalkitError(f"offset must be at least 0, but got {self.offset}")
        if sorted(set(self.shuffle)) != self.shuffle or any(g < 1 for g in self.shuffle):
            raise EvalkitError(f"shuffle must ascend from at least 1, but got {self.shuffle}")
        if self.fill not in FILLS:
            self.colour()
        if self.head not in ("auto", "mean") and not self.head.isdecimal():
            raise EvalkitError(f"head must be auto, mean or a head's number, but got '{self.head}'")

    def colour(self) -> list[float]:
        """The r,g,b of `fill`."""
        try:
            values = [float(v) for v in self.fill.split(",")]
        except ValueError:
            values = []
        if len(values) != 3 or not all(0 <= v <= 1 for v in values):
            raise EvalkitError(f"fill must be black, mean or three numbers r,g,b in 0..1, but got '{self.fill}'")
        return values


@dataclass(frozen=True)
class ImageNetAConfig(ProtocolConfig):
    """Natural adversarial examples: accuracy, calibration, selective prediction."""


@dataclass(frozen=True)
class ImageNetOConfig(ProtocolConfig):
    """Out-of-distribution detection."""

    id_data: str | None = None  # the in-distribution folder (ImageNet val), or an embedded set


CONFIGS: dict[str, type[ProtocolConfig]] = {"imagenet-a": ImageNetAConfig, "imagenet-o": ImageNetOConfig, "occlusion": OcclusionConfig}
