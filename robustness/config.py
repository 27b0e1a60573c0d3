"""The keys of `evalkit robustness`: one frozen dataclass per protocol."""

import math
from dataclasses import dataclass, field
from typing import Any

from evalkit.errors import EvalkitError, unknown

MODES = ("random", "salient", "nonsalient")
CORRUPTIONS = (
    *(
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
        "frost",
        "fog",
    ),
    *("brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 2, 3, 4, 5)
FILLS = ("black", "mean")


@dataclass(frozen=True)
class ProtocolConfig:
    """What every protocol takes."""

    POLICIES = ("fail", "skip")
    # the protocol's data folder, or an embedded set; absent: the embedded stand-in where the checkpoint was trained on
    # one
    data: str | None = None
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
    # unreadable images: fail = leave out, list, mark incomplete, exit code 2; skip = leave out and count
    on_error: str = "fail"
    allow_partial: bool = False  # accept a data folder with missing classes or images

    def check(self) -> None:
        """Raise EvalkitError for a value that cannot be."""
        for key, options in (
            ("preprocess", ("published", "model", "native", None)),
            ("weights", ("raw", "ema", None)),
            ("on_error", self.POLICIES),
        ):
            if getattr(self, key) not in options:
                raise unknown(f"value of {key}", str(getattr(self, key)), [o for o in options if o])
        for key in ("forward_batch", "batch_size", "limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise EvalkitError(f"{key} must be at least 1, but got {value}")
        if self.workers < 0:
            raise EvalkitError(f"workers must be at least 0, but got {self.workers}")


@dataclass(frozen=True)
class ValConfig(ProtocolConfig):
    """What the protocols on ImageNet val take besides."""

    # classes of images that lie there without class folders: names and WordNet ids, or the kit's ground truth
    val_labels: str | None = None


@dataclass(frozen=True)
class ClassificationConfig(ProtocolConfig):
    """Accuracy, calibration and selective prediction; an unreadable image can count as a wrong answer of no
    confidence."""

    POLICIES = ("fail", "skip", "wrong")


@dataclass(frozen=True)
class OcclusionConfig(ValConfig):
    """Patch dropping: random, salient and non-salient."""

    modes: list[str] = field(default_factory=lambda: list(MODES))
    # share of patches (random) or of saliency mass dropped; 0 is always run
    levels: list[float] = field(default_factory=lambda: [i / 10 for i in range(10)])
    repeats: int = 5  # random masks per image and level
    seed: int = 0  # of the random masks
    grid: int | None = None  # patches per side; absent: 14, or one per patch of the model on the embedded sets
    # dino | self | a model or checkpoint | file.npz; absent: self on embedded sets, else dino
    saliency: str | None = None
    head: str = "auto"  # attention head of the saliency model: auto (1 for dino, else mean) | mean | a number
    saliency_norm: str = "own"  # mean and std of the saliency model's input: own | model (the evaluated one's)
    saliency_pool: bool = False  # sum the saliency of a finer grid over the patches of `grid`
    # what a level of salient and nonsalient is a share of: mass (of the saliency) | count (of the patches)
    salient_by: str = "mass"
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
        if (
            any(math.isnan(q) or not 0 <= q <= 1 for q in self.levels)
            or sorted(set(self.levels)) != self.levels
            or not any(self.levels)
        ):
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
class ImageNetAConfig(ClassificationConfig):
    """Natural adversarial examples."""


@dataclass(frozen=True)
class ImageNetRConfig(ClassificationConfig):
    """Renditions: art, cartoons, sculptures, toys."""


@dataclass(frozen=True)
class ImageNetSketchConfig(ClassificationConfig):
    """Black and white sketches."""


@dataclass(frozen=True)
class ImageNetV2Config(ClassificationConfig):
    """New photographs, collected as ImageNet val was."""


@dataclass(frozen=True)
class ImageNetValConfig(ClassificationConfig, ValConfig):
    """The clean images, by the labels of ImageNet and by the reassessed ones."""

    # imagenet-a | imagenet-o | imagenet-r: only their 200 classes, the clean counterpart of these sets
    classes: str | None = None

    def check(self) -> None:
        super().check()
        options = ("imagenet-a", "imagenet-o", "imagenet-r")
        if self.classes not in (None, *options):
            raise unknown("value of classes", str(self.classes), options)


@dataclass(frozen=True)
class ImageNetCConfig(ProtocolConfig):
    """Common corruptions, from the published files."""

    corruptions: list[str] = field(default_factory=lambda: list(CORRUPTIONS))
    severities: list[int] = field(default_factory=lambda: list(SEVERITIES))

    def check(self) -> None:
        super().check()
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise unknown("corruption", name, CORRUPTIONS)
        if not self.corruptions or len(set(self.corruptions)) < len(self.corruptions):
            raise EvalkitError(f"corruptions must name at least one and none twice, but got {self.corruptions}")
        if (
            not self.severities
            or sorted(set(self.severities)) != self.severities
            or not set(self.severities) <= set(SEVERITIES)
        ):
            raise EvalkitError(f"severities must ascend within 1..5, but got {self.severities}")


@dataclass(frozen=True)
class ImageNetOConfig(ValConfig):
    """Out-of-distribution detection."""

    id_data: str | None = None  # the in-distribution folder (ImageNet val), or an embedded set


@dataclass(frozen=True)
class FGSMConfig(ValConfig):
    """Fast gradient sign attack."""

    eps: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0, 8.0])  # largest change of a pixel value, in 1/255

    def check(self) -> None:
        super().check()
        if not self.eps or sorted(set(self.eps)) != self.eps or not all(0 <= e <= 255 for e in self.eps):
            raise EvalkitError(f"eps must ascend within 0..255 (it counts 1/255), but got {self.eps}")


@dataclass(frozen=True)
class PGDConfig(FGSMConfig):
    """Projected gradient attack."""

    steps: int = 10
    alpha: float | None = None  # change of a pixel value per step, in 1/255; absent: eps / 4
    seed: int = 0  # of the random starts

    def check(self) -> None:
        super().check()
        if self.steps < 1:
            raise EvalkitError(f"steps must be at least 1, but got {self.steps}")
        if self.alpha is not None and not 0 < self.alpha <= 255:
            raise EvalkitError(f"alpha must lie above 0 and at most at 255 (it counts 1/255), but got {self.alpha}")
        if not 0 <= self.seed < 2**64:
            raise EvalkitError(f"seed must lie in 0..2^64-1, but got {self.seed}")


@dataclass(frozen=True)
class AllConfig(ValConfig):
    """What all protocols share, for running each whose data are there."""

    # the folder that holds the sets; absent: the embedded stand-ins of a checkpoint trained on digits-photo
    data_root: str | None = None
