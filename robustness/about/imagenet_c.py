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
            formula="(1/C) sum_c CE_c,  CE_c = sum_s E_cs / sum_s E_cs of AlexNet",
        ),
        Metric(
            "mean_error",
            "mean error",
            "low",
            "mean error over the corruptions, without dividing",
            column=True,
            formula="(1/C) sum_c (1/S) sum_s E_cs",
        ),
        Metric(
            "error_*",
            "error, *",
            "low",
            "error under this corruption, mean over the severities",
            formula="(1/S) sum_s E_cs,  E_cs = 1 - top-1 under corruption c at severity s",
        ),
    ),
    needs={"data": "imagenet-c"},
    passes=75,
    config=ImageNetCConfig,
    code="evalkit.robustness.imagenet_c:PROTOCOL",
    convention="The published files are ready at 224 pixels and are not resized. mCE, which divides by AlexNet's"
    " errors, differs from the plain mean of the errors.",
    source='Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and'
    ' Perturbations", ICLR 2019.',
    differs="Class folders are matched by name. mCE is computed, where the code prints the plain mean.",
)
