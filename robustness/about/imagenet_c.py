"""What ImageNet-C is."""

from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.keys import key
from evalkit.protocols import Metric, Protocol

from ..config import ProtocolConfig

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
