"""What occlusion is."""

from evalkit.protocols import Figure, Metric, Protocol

from ..config import OcclusionConfig

AREA = "mean top-1 over the shares dropped, patches {}: area under the curve divided by its width"

OCCLUSION = Protocol(
    name="occlusion",
    kind="robustness",
    version=2,
    title="Occlusion, area under the curve",
    short="occlusion",
    sentence=(
        "Accuracy while 0 to 90 % of the image information is dropped, patch by patch (the area is evalkit's own"
        " summary, papers show the curves)."
    ),
    metrics=(
        Metric("auc_random", "random", "high", AREA.format("drawn at random"), column=True),
        Metric("auc_salient", "salient", "high", AREA.format("salient ones first"), column=True),
        Metric("auc_nonsalient", "non-salient", "high", AREA.format("non-salient ones first"), column=True),
        Metric("clean_top1", "clean top-1", "high", "accuracy with nothing dropped"),
        Metric("top1_*", "top-1, *", "high", "accuracy with this share dropped in this mode"),
    ),
    needs={"data": "val"},
    figures=(
        Figure(
            "curves",
            "occlusion",
            "Occlusion",
            "Top-1 accuracy while ever more of each image is blacked out. Random: patches drawn at random, the band is"
            " the standard deviation over repeated draws. Salient and non-salient: patches in the order of the saliency"
            " model's attention, until that share of the attention is gone.",
            panels={
                "random": ("Random patches", "share of patches dropped"),
                "salient": ("Salient patches first", "share of attention dropped"),
                "nonsalient": ("Non-salient patches first", "share of attention dropped"),
            },
        ),
    ),
    passes=65,
    config=OcclusionConfig,
    code="evalkit.robustness.occlusion:PROTOCOL",
)
