"""What the protocols on other photographs and renditions of ImageNet's classes are; they measure as ImageNet-A does."""

from dataclasses import dataclass

from evalkit.keys import key
from evalkit.protocols import Metric, Protocol

from ..config import ClassificationConfig, CleanConfig
from .imagenet_a import AURRA, CONVENTION, OTHERS, RMS, TOP1


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
class ImageNetValConfig(ClassificationConfig, CleanConfig):
    """The clean images, by the labels of ImageNet and by the reassessed ones."""

    classes: str | None = key(
        None,
        "only the 200 classes of this set, as its clean counterpart; null: all 1000",
        choices=("imagenet-a", "imagenet-o", "imagenet-r"),
    )


IMAGENET_R = Protocol(
    name="imagenet-r",
    kind="robustness",
    version=1,
    title="ImageNet-R protocol",
    short="R",
    sentence="Renditions of 200 classes: art, cartoons, sculptures, toys.",
    metrics=(TOP1, RMS, AURRA, *OTHERS),
    needs={"data": "imagenet-r"},
    config=ImageNetRConfig,
    code="evalkit.robustness.shifts:IMAGENET_R",
    convention=f"30,000 images; the logits are restricted to their 200 classes before the softmax. {CONVENTION}",
    source='Hendrycks et al., "The Many Faces of Robustness", ICCV 2021.',
    differs="Class folders are matched by name. The published number is the top-1 error; calibration and AURRA are"
    " those of ImageNet-A, reported beside it.",
)
IMAGENET_SKETCH = Protocol(
    name="imagenet-sketch",
    kind="robustness",
    version=1,
    title="ImageNet-Sketch protocol",
    short="Sketch",
    sentence="Black and white sketches of the 1000 classes.",
    metrics=(TOP1, RMS, AURRA, *OTHERS),
    needs={"data": "imagenet-sketch"},
    config=ImageNetSketchConfig,
    code="evalkit.robustness.shifts:IMAGENET_SKETCH",
    convention=f"50,889 images of all 1000 classes. {CONVENTION}",
    source='Wang et al., "Learning Robust Global Representations by Penalizing Local Predictive Power", NeurIPS 2019.',
    differs="Class folders are matched by name. Calibration and AURRA are those of ImageNet-A, reported beside the"
    " published top-1.",
)
IMAGENET_V2 = Protocol(
    name="imagenet-v2",
    kind="robustness",
    version=1,
    title="ImageNetV2 protocol",
    short="V2",
    sentence="New photographs, collected as the validation images of ImageNet were.",
    metrics=(TOP1, RMS, AURRA, *OTHERS),
    needs={"data": "imagenet-v2"},
    config=ImageNetV2Config,
    code="evalkit.robustness.shifts:IMAGENET_V2",
    convention="10,000 images of all 1000 classes, of the set matched-frequency, which papers print; a record of the"
    f" two others (threshold0.7, top-images) says so. {CONVENTION}",
    source='Recht et al., "Do ImageNet Classifiers Generalize to ImageNet?", ICML 2019.',
    differs="Class folders, which are numbered, are matched by number; sorted as text they would mix the classes up."
    " Calibration and AURRA are those of ImageNet-A, reported beside the published top-1.",
)
REAL = Metric(
    "real_top1",
    "ReaL top-1",
    "high",
    "share of the images with a reassessed label whose prediction is one of them",
    column=True,
    formula="sum_i [argmax_k z_ik is in R_i] / sum_i [R_i is not empty],  R_i the reassessed labels",
)
IMAGENET_VAL = Protocol(
    name="imagenet-val",
    kind="robustness",
    version=2,
    title="ImageNet val protocol",
    short="val",
    sentence="The clean validation images, by the labels of ImageNet and by the reassessed ones.",
    metrics=(TOP1, REAL, RMS, AURRA, *OTHERS),
    needs={"data": "val"},
    config=ImageNetValConfig,
    code="evalkit.robustness.shifts:IMAGENET_VAL",
    convention="50,000 images of all 1000 classes, or those of the 200 that `classes` names. ReaL counts the images"
    f" with a reassessed label alone. {CONVENTION}",
    source='Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015; Beyer et al., "Are we'
    ' done with ImageNet?", arXiv 2006.07159 (ReaL).',
    differs="Nothing known; calibration and AURRA are those of ImageNet-A, reported beside the published top-1.",
)
