"""What segmentation is."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from evalkit.errors import EvalkitError
from evalkit.keys import key
from evalkit.protocols import Detail, Metric, Protocol

from ..config import TransferConfig, given

HEADS = {"linear": "one 1x1 convolution", "segmenter": "Segmenter's mask transformer"}


@dataclass(frozen=True)
class SegConfig(TransferConfig):
    """Every key that a segmentation recipe may hold."""

    MAKES: ClassVar[tuple[str, ...]] = (
        *(*TransferConfig.MAKES, "head", "head_dropout", "min_lr", "power", "short_side", "scale", "crop", "stride"),
        *("max_share", "photometric", "ratios"),
    )
    NEEDS: ClassVar[tuple[str, ...]] = (*TransferConfig.NEEDS, "head", "steps", "min_lr", "crop", "stride")

    head: str | None = key("linear", "the decoder; null: that of config", choices=HEADS)
    head_dropout: float = key(0.0, "dropout in the mask transformer", least=0, most=1)
    classes: int | None = key(
        None,
        "classes of pascal-context; null: 60",
        choices={60: "background is a class", 59: "background is no class"},
    )
    steps: int | None = key(
        MISSING,
        "optimizer steps; null: as config says; beside config its schedule is stretched to them, but for the warm-up",
        above=0,
    )
    min_lr: float | None = key(MISSING, "learning rate at the end; null: as config says", least=0)
    power: float = key(0.9, "power of the polynomial decay from lr to min_lr", above=0)
    short_side: int | None = key(
        None, "images are resized to this shorter side; null: used as they are", unit="pixels", above=0
    )
    scale: list[float] = key([1.0, 1.0], "range of the random factor on the size in training", above=0)
    crop: int | None = key(
        MISSING, "side of training crops and test windows; null: as config says", unit="pixels", above=0
    )
    stride: int | None = key(MISSING, "distance of the test windows; null: as config says", unit="pixels", above=0)
    max_share: float = key(0.75, "largest share of one class in a training crop, if ten draws allow it", above=0)
    photometric: bool = key(True, "random brightness, contrast, saturation and hue in training")
    ms: bool = key(False, "also test at several scales, and mirrored unless flip is 0")
    ratios: list[float] = key([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "the scales of ms, as factors on short_side", above=0)

    def idle(self) -> dict[str, str]:
        found = super().idle()
        if self.config is None and self.head != "segmenter":
            found["head_dropout"] = "it belongs to head=segmenter"
        if self.data != "pascal-context":
            found["classes"] = "it belongs to data=pascal-context; classes.txt names those of a folder"
        if self.config is None and not self.ms:
            found["ratios"] = "they belong to a test at several scales, ms=true"
        return found

    def check(self) -> None:
        super().check()
        if self.config is not None:
            return
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise EvalkitError(f"key 'scale' must be two numbers above 0, the smaller first, but got {self.scale}")
        if self.scale != [1.0, 1.0] and self.short_side is None:
            raise EvalkitError("key 'scale' needs short_side, the size that it multiplies")
        if self.head_dropout == 1:
            raise EvalkitError("head_dropout=1 leaves nothing of the features; give less")
        if not self.ratios or len(set(self.ratios)) < len(self.ratios):
            raise EvalkitError(f"key 'ratios' must be numbers above 0, each once, but got {self.ratios}")
        if given(self.min_lr) > given(self.lr):
            raise EvalkitError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}, where it should fall to; lower it")
        if self.warmup_steps >= given(self.steps):
            raise EvalkitError(f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}; use fewer")
        if given(self.stride) > given(self.crop):
            raise EvalkitError(
                f"stride={self.stride} leaves gaps between windows of crop={self.crop}; use a stride of at most that"
            )


SEG = Protocol(
    name="seg",
    kind="transfer",
    version=2,
    title="Semantic segmentation",
    short="seg",
    sentence="A linear decoder or Segmenter's mask transformer on the backbone, trained together.",
    metrics=(
        Metric(
            "miou",
            "mIoU",
            "high",
            "intersection over union, mean over the classes",
            column=True,
            formula="(1/C) sum_c TP_c / (TP_c + FP_c + FN_c)",
        ),
        Metric(
            "miou_ms",
            "+MS",
            "high",
            "mIoU of predictions averaged over several scales, and mirrored where training mirrors",
            column=True,
            formula="miou of the class of largest mean probability over the scales of `ratios` and mirroring",
        ),
        Metric(
            "mean_accuracy",
            "mean accuracy",
            "high",
            "share of the pixels of a class, mean over the classes",
            formula="(1/C) sum_c TP_c / (TP_c + FN_c)",
        ),
        Metric(
            "pixel_accuracy",
            "pixel accuracy",
            "high",
            "share of the pixels whose class is right",
            formula="sum_c TP_c / sum_c (TP_c + FN_c)",
        ),
        Metric(
            "parameters",
            "parameters",
            "neither",
            "parameters of the whole network",
            "M",
            bound=None,
            formula="number of entries of all parameters",
        ),
    ),
    detail=Detail("head", "decoder", {"linear": "Linear", "segmenter": "Segmenter", "deeplabv3plus": "DeepLabv3+"}),
    config=SegConfig,
    code="evalkit.downstream.seg:TASK",
    convention="TP_c, FP_c and FN_c count the pixels of all test images together; pixels without a label do not"
    " count, nor classes that occur neither in truth nor in prediction. Test windows of `crop` at every `stride`,"
    " their logits averaged.",
    source='Strudel et al., "Segmenter", ICCV 2021, arXiv 2105.05633, through mmsegmentation.',
    differs="TransMix and MixPro name no schedule, so the one on Pascal Context is Segmenter's: assumed, and marked so."
    " Where mmsegmentation's port and the authors' code disagree the port is followed; the recipe's header says where.",
)
