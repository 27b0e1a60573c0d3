"""The keys of `evalkit robustness`: one frozen dataclass per protocol."""

from dataclasses import dataclass
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.keys import Keys, key

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
class ProtocolConfig(Keys):
    """What every protocol takes."""

    data: str | None = key(
        None,
        "the protocol's data folder, or an embedded set; null: the embedded stand-in of what the checkpoint was trained"
        " on",
        role="place",
    )
    out: str = key("results", "folder for results.jsonl and the per-sample records", role="place")
    preprocess: str | None = key(
        None,
        "what happens to an image before the network; null: native for embedded sets, else published; imagenet-val: run"
        " for a checkpoint of a run",
        choices={
            "run": "as the checkpoint's run prepared its validation images",
            "published": "shorter side to size * 256 / 224, bilinear, centre crop",
            "model": "as timm says for this model",
            "native": "nothing, the images have the network's size",
        },
    )
    model: str | None = key(None, "architecture of a bare weights file", role="place")
    model_args: dict[str, Any] = key({}, "arguments passed to its constructor", role="place")
    weights: str | None = key(
        None,
        "which weights of a checkpoint; null: the averaged ones where it holds them",
        choices={"raw": "as the optimizer left them", "ema": "their moving average"},
        role="place",
    )
    forward_batch: int = key(
        64,
        "rows of a forward pass, always filled up; the only size that can show in the last bits",
        unit="images",
        least=1,
        role="bits",
    )
    batch_size: int = key(64, "what a loader process reads at a time", unit="images", least=1, role="execution")
    workers: int = key(2, "processes that load images", least=0, role="execution")
    device: str | None = key(None, "cpu, cuda or cuda:N; null: a GPU if there is one", role="execution")
    limit: int | None = key(
        None, "evaluate this many images of each set, evenly spaced; null: all", unit="images", least=1
    )
    on_error: str = key(
        "fail",
        "what happens to an unreadable image",
        choices={"fail": "left out, listed, the result incomplete (exit code 2)", "skip": "left out and counted"},
    )
    allow_partial: bool = key(False, "accept a data folder with missing classes or images")


@dataclass(frozen=True)
class ValConfig(ProtocolConfig):
    """What the protocols on ImageNet val take besides."""

    val_labels: str | None = key(
        None,
        "classes of images that lie there without class folders: a file of names and WordNet ids, or the development"
        " kit's ground truth",
        role="place",
    )


@dataclass(frozen=True)
class ClassificationConfig(ProtocolConfig):
    """Accuracy, calibration and selective prediction; an unreadable image can count as a wrong answer of no
    confidence."""

    on_error: str = key(
        "fail",
        "what happens to an unreadable image",
        choices={
            "fail": "left out, listed, the result incomplete (exit code 2)",
            "skip": "left out and counted",
            "wrong": "a wrong answer of no confidence",
        },
    )


@dataclass(frozen=True)
class OcclusionConfig(ValConfig):
    """Patch dropping: random, salient and non-salient."""

    modes: list[str] = key(
        list(MODES),
        "which patches are dropped",
        choices={
            "random": "any",
            "salient": "those that a saliency map ranks highest",
            "nonsalient": "those that it ranks lowest",
        },
    )
    levels: list[float] = key(
        [i / 10 for i in range(10)],
        "shares of the patches (random) or of the saliency's mass that are dropped, ascending; 0 is always run",
        least=0,
        most=1,
    )
    repeats: int = key(5, "random masks per image and level", least=1)
    seed: int = key(0, "of the random masks", least=0, most=2**64 - 1, role="seed")
    grid: int | None = key(
        None, "patches per side; null: 14, or one per patch of the model on the embedded sets", least=1
    )
    saliency: str | None = key(
        None,
        "where saliency maps come from: dino, self, a model or checkpoint, or a file.npz; null: self on embedded sets,"
        " else dino",
    )
    head: str = key("auto", "attention head of the saliency model: auto (1 for dino, else mean), mean or a number")
    saliency_norm: str = key(
        "own",
        "mean and standard deviation of the saliency model's input",
        choices={"own": "its own", "model": "the evaluated model's"},
    )
    saliency_pool: bool = key(False, "sum the saliency of a finer grid over the patches of `grid`")
    salient_by: str = key(
        "mass",
        "what a level of salient and nonsalient is a share of",
        choices={"mass": "the saliency's mass", "count": "the patches"},
    )
    offset: int = key(0, "by how much the dropped patches are moved right and down", unit="pixels", least=0)
    fill: str = key("black", "colour of what is dropped: black, mean (the evaluated model's) or r,g,b in 0..1")
    shuffle: list[int] = key([], "the patches of grids with so many a side are shuffled too, ascending", least=1)

    def check(self) -> None:
        super().check()
        if not (self.modes or self.shuffle) or len(set(self.modes)) < len(self.modes):
            raise EvalkitError(f"modes must name each of some of {', '.join(MODES)} once, but got {self.modes}")
        if sorted(set(self.levels)) != self.levels or not any(self.levels):
            raise EvalkitError(f"levels must ascend within 0..1 and reach above 0, but got {self.levels}")
        if sorted(set(self.shuffle)) != self.shuffle:
            raise EvalkitError(f"shuffle must ascend, but got {self.shuffle}")
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

    classes: str | None = key(
        None,
        "only the 200 classes of this set, as its clean counterpart; null: all 1000",
        choices=("imagenet-a", "imagenet-o", "imagenet-r"),
    )


@dataclass(frozen=True)
class ImageNetCConfig(ProtocolConfig):
    """Common corruptions, from the published files."""

    corruptions: list[str] = key(list(CORRUPTIONS), "which corruptions are evaluated", choices=CORRUPTIONS)
    severities: list[int] = key(list(SEVERITIES), "at which strengths, ascending", choices=SEVERITIES)

    def check(self) -> None:
        super().check()
        if not self.corruptions or len(set(self.corruptions)) < len(self.corruptions):
            raise EvalkitError(f"corruptions must name at least one and none twice, but got {self.corruptions}")
        if not self.severities or sorted(set(self.severities)) != self.severities:
            raise EvalkitError(f"severities must ascend within 1..5, but got {self.severities}")


@dataclass(frozen=True)
class ImageNetOConfig(ValConfig):
    """Out-of-distribution detection."""

    id_data: str | None = key(
        None,
        "the in-distribution images: the folder of ImageNet val, or an embedded set; null: the embedded stand-in",
        role="place",
    )


@dataclass(frozen=True)
class FGSMConfig(ValConfig):
    """Fast gradient sign attack."""

    eps: list[float] = key(
        [1.0, 2.0, 4.0, 8.0], "largest changes of a pixel value, ascending", unit="1/255", least=0, most=255
    )

    def check(self) -> None:
        super().check()
        if not self.eps or sorted(set(self.eps)) != self.eps:
            raise EvalkitError(f"eps must ascend within 0..255 (it counts 1/255), but got {self.eps}")


@dataclass(frozen=True)
class PGDConfig(FGSMConfig):
    """Projected gradient attack."""

    steps: int = key(10, "steps of the attack", least=1)
    alpha: float | None = key(
        None, "change of a pixel value per step; null: a quarter of eps", unit="1/255", above=0, most=255
    )
    seed: int = key(0, "of the random starts", least=0, most=2**64 - 1, role="seed")


@dataclass(frozen=True)
class AllConfig(ValConfig):
    """What all protocols share, for running each whose data are there."""

    data_root: str | None = key(
        None,
        "the folder that holds the sets; null: the embedded stand-ins of a checkpoint trained on digits-photo",
        role="place",
    )


CONFIGS: dict[str, type[ProtocolConfig]] = {
    "fgsm": FGSMConfig,
    "imagenet-a": ImageNetAConfig,
    "imagenet-c": ImageNetCConfig,
    "imagenet-o": ImageNetOConfig,
    "imagenet-r": ImageNetRConfig,
    "imagenet-sketch": ImageNetSketchConfig,
    "imagenet-v2": ImageNetV2Config,
    "imagenet-val": ImageNetValConfig,
    "occlusion": OcclusionConfig,
    "pgd": PGDConfig,
}
