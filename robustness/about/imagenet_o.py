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
AREA = "sum_t (R_t - R_t') P_t over the distinct scores t in descending order, t' the one before t"
OTHER = "-max_k z_k (max_logit), -log sum_k exp z_k (energy) or -sum_k p_k log p_k (entropy)"

IMAGENET_O = Protocol(
    name="imagenet-o",
    kind="robustness",
    version=1,
    title="ImageNet-O protocol",
    short="O",
    sentence="Out-of-distribution detection: does the confidence tell images of unknown classes from known ones?",
    metrics=(
        Metric("aupr", "AUPR", "high", AUPR, column=True, formula=AREA),
        Metric("auroc", "AUROC", "high", AUROC, column=True, formula="P(s_ood > s_id) + P(s_ood = s_id) / 2"),
        Metric(
            "fpr95_hendrycks",
            "FPR95",
            "low",
            f"{FPR95}, as Hendrycks et al. choose the threshold",
            column=True,
            formula="FPR_t at the t whose R_t is nearest to 0.95, of equal recalls the lowest t",
        ),
        Metric(
            "fpr95",
            "FPR95, first threshold",
            "low",
            "the same at the first threshold of at least 95 % recall",
            formula="FPR_t at the highest t with R_t >= 0.95",
        ),
        Metric(
            "aupr_in",
            "AUPR, in-distribution",
            "high",
            "AUPR with the in-distribution images as positive class",
            formula=f"{AREA}, in-distribution images positive, score -s",
        ),
        Metric(
            "aupr_*",
            "AUPR by *",
            "high",
            f"{AUPR}; another score, _all: over all classes of the model",
            formula=f"{AREA}, s = {OTHER}",
        ),
        Metric(
            "auroc_*",
            "AUROC by *",
            "high",
            f"{AUROC}; another score, _all: over all classes of the model",
            formula=f"P(s_ood > s_id) + P(s_ood = s_id) / 2, s = {OTHER}",
        ),
        Metric(
            "fpr95_hendrycks_*",
            "FPR95 by *",
            "low",
            f"{FPR95}; another score, _all: over all classes",
            formula=f"as fpr95_hendrycks, s = {OTHER}",
        ),
        Metric(
            "mean_confidence_ood",
            "mean confidence, unknown",
            "neither",
            "mean confidence in unknown images",
            formula="mean of max_k p_ik over the out-of-distribution images",
        ),
        Metric(
            "mean_confidence_id",
            "mean confidence, known",
            "neither",
            "mean confidence in in-distribution images",
            formula="mean of max_k p_ik over the in-distribution images",
        ),
        Metric(
            "chance",
            "chance",
            "neither",
            "share of the out-of-distribution images, the AUPR of guessing",
            formula="N_ood / (N_ood + N_id)",
        ),
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
    convention="Out-of-distribution images are the positive class. The score is s = -log max_k p_k over the classes"
    " that the out-of-distribution folders name (ImageNet-O's 200); the in-distribution images are those of these"
    " classes in ImageNet val: 10,000 beside 2,000, so chance is an AUPR of 1/6. R_t, P_t and FPR_t are recall,"
    " precision and false positive rate of calling images with s >= t out-of-distribution. The folder of an"
    " out-of-distribution image is the class it is mistaken for, never its label.",
    source='Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.',
    differs="Scores are in the log domain, where float32 confidences saturate and tie. FPR95 is also given by the first"
    " threshold of at least 95 % recall (`fpr95`).",
)
