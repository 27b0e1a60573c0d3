"""What ImageNet-O is."""

from dataclasses import dataclass

from evalkit.keys import key
from evalkit.protocols import Figure, Metric, Protocol

from ..config import ValConfig


@dataclass(frozen=True)
class ImageNetOConfig(ValConfig):
    """Out-of-distribution detection."""

    id_data: str | None = key(
        None,
        "the in-distribution images: the folder of ImageNet val, or an embedded set; null: the embedded stand-in",
        role="place",
    )


AUPR = "area under precision and recall of finding out-of-distribution images, the positive class"
AUROC = "area under the ROC curve of finding out-of-distribution images"
FPR95 = "share of the in-distribution images that are taken for others at the recall nearest to 95 %"

IMAGENET_O = Protocol(
    name="imagenet-o",
    kind="robustness",
    version=1,
    title="ImageNet-O protocol",
    short="O",
    sentence="Out-of-distribution detection: does the confidence tell images of unknown classes from known ones?",
    metrics=(
        Metric("aupr", "AUPR", "high", AUPR, column=True),
        Metric("auroc", "AUROC", "high", AUROC, column=True),
        Metric("fpr95_hendrycks", "FPR95", "low", f"{FPR95}, the convention of Hendrycks et al.", column=True),
        Metric("fpr95", "FPR95, first threshold", "low", "the same at the first threshold of at least 95 % recall"),
        Metric("aupr_in", "AUPR, in-distribution", "high", "AUPR with the in-distribution images as positive class"),
        Metric("aupr_*", "AUPR by *", "high", f"{AUPR}; another score, _all: over all classes of the model"),
        Metric("auroc_*", "AUROC by *", "high", f"{AUROC}; another score, _all: over all classes of the model"),
        Metric("fpr95_hendrycks_*", "FPR95 by *", "low", f"{FPR95}; another score, _all: over all classes"),
        Metric("mean_confidence_ood", "mean confidence, unknown", "neither", "mean confidence in unknown images"),
        Metric("mean_confidence_id", "mean confidence, known", "neither", "mean confidence in in-distribution images"),
        Metric("chance", "chance", "neither", "share of the out-of-distribution images, the AUPR of guessing"),
    ),
    needs={"data": "imagenet-o", "id_data": "val"},
    figures=(
        Figure(
            "precision-recall",
            "precision-recall",
            "Precision and recall",
            "Finding out-of-distribution images among in-distribution ones by low confidence. AUPR is the area under"
            " the steps; the dashed line is chance.",
        ),
    ),
    config=ImageNetOConfig,
    code="evalkit.robustness.imagenet_o:PROTOCOL",
)
