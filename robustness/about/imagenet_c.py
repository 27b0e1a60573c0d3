"""What ImageNet-C is."""

from evalkit.protocols import Metric, Protocol

from ..config import ImageNetCConfig

IMAGENET_C = Protocol(
    name="imagenet-c",
    kind="robustness",
    version=1,
    title="ImageNet-C protocol",
    short="C",
    sentence="Error under 15 common corruptions of the validation images at five severities.",
    metrics=(
        Metric(
            "mce",
            "mCE",
            "low",
            "mean over the corruptions of the error divided by AlexNet's (100 is as bad as AlexNet)",
            column=True,
            bound=None,
        ),
        Metric("mean_error", "mean error", "low", "mean error over the corruptions, without dividing", column=True),
        Metric("error_*", "error, *", "low", "error under this corruption, mean over the severities"),
    ),
    needs={"data": "imagenet-c"},
    passes=75,
    config=ImageNetCConfig,
    code="evalkit.robustness.imagenet_c:PROTOCOL",
)
