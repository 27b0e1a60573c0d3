"""What detection is."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from evalkit.errors import EvalkitError
from evalkit.keys import key
from evalkit.protocols import Metric, Protocol

from ..config import TransferConfig, given

AP = "average precision of the {}, mean over the classes, {}"
READ = "(1/101) sum_r max_{r' >= r} P_ct(r'), r = 0, 0.01 .. 1"  # as COCO reads the curve
PRECISION = {
    "": f"mean over classes c and t = 0.50, 0.55 .. 0.95 of {READ}",
    "50": f"mean over classes c of {READ}; t = 0.50",
    "75": f"mean over classes c of {READ}; t = 0.75",
}
AT = {"": "over IoU thresholds 0.50 to 0.95", "50": "at an IoU of 0.50", "75": "at an IoU of 0.75"}


@dataclass(frozen=True)
class DetConfig(TransferConfig):
    """Every key that a detection recipe may hold."""

    MAKES: ClassVar[tuple[str, ...]] = (
        *(*TransferConfig.MAKES, "decay_epochs", "lr_batch", "image_size", "anchor_scale", "channels", "fc_channels"),
        *("mask_convs", "rois", "proposals"),
    )
    NEEDS: ClassVar[tuple[str, ...]] = (*TransferConfig.NEEDS, "epochs", "decay_epochs")

    epochs: int | None = key(
        MISSING,
        "passes over the training images; null: as config says; beside config its schedule is stretched to them, but"
        " for the warm-up",
        above=0,
    )
    decay_epochs: list[int] | None = key(
        MISSING, "after these the learning rate is a tenth; null: as config says", unit="epochs", above=0
    )
    lr_batch: int | None = key(
        None, "the batch size that lr is meant for: it is scaled in proportion; null: lr as it is", above=0
    )
    image_size: list[int] | None = key(
        None,
        "the longer and the shorter side that images are fitted into; null: used as they are",
        unit="pixels",
        above=0,
    )
    anchor_scale: int = key(8, "side of the anchors, in places of their feature map", above=0)
    channels: int = key(256, "channels of the pyramid and of the heads' convolutions", above=0)
    fc_channels: int = key(1024, "channels of the box head", above=0)
    mask_convs: int = key(4, "convolutions of the mask head", above=0)
    rois: int = key(512, "regions per image that the heads train on", above=0)
    proposals: int = key(1000, "regions per image that the heads see", above=0)

    def check(self) -> None:
        super().check()
        if self.config is not None:
            return
        if self.image_size is not None and (
            len(self.image_size) != 2 or self.image_size[0] < self.image_size[1] or self.image_size[1] < 32
        ):
            raise EvalkitError(
                "key 'image_size' must be the longer and the shorter side, such as [1333, 800], but got"
                f" {self.image_size}"
            )
        decays, epochs = given(self.decay_epochs), given(self.epochs)
        if sorted(set(decays)) != list(decays) or any(not 0 < e < epochs for e in decays):
            raise EvalkitError(
                f"key 'decay_epochs' must be growing numbers between 0 and epochs={self.epochs}, but got"
                f" {self.decay_epochs}"
            )


DET = Protocol(
    name="det",
    kind="transfer",
    version=2,
    title="Object detection and instance segmentation",
    short="det",
    sentence="Mask R-CNN with a feature pyramid on the backbone, trained together.",
    metrics=(
        Metric(
            "parameters",
            "parameters",
            "neither",
            "parameters of the whole network",
            "M",
            True,
            None,
            "number of entries of all parameters",
        ),
        *(
            Metric(
                f"{kind}_ap{at}", f"{kind} AP{at}", "high", AP.format(things, how), column=True, formula=PRECISION[at]
            )
            for kind, things in (("box", "boxes"), ("mask", "masks"))
            for at, how in AT.items()
        ),
    ),
    config=DetConfig,
    code="evalkit.downstream.det:TASK",
    convention="P_ct(r) is the precision of class c at recall r where a detection counts as right at an IoU of t or"
    " more; objects of any size, 100 detections per image, by pycocotools. A mask's own area decides its size.",
    source='He et al., "Mask R-CNN", ICCV 2017, through mmdetection; the recipe for COCO is the 1x schedule that the'
    " authors of PVT released (arXiv 2102.12122), the one whose PVT-S row MixPro and TransMix print.",
    differs="The order of the images never ends instead of being padded to whole epochs. As in the source each process"
    " puts images of one orientation together, so the number of processes decides which images share a step.",
)
