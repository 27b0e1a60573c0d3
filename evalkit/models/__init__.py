"""Networks: any timm classifier, with class attention, saliency, feature maps and feature injection; PVT v1, CA-Swin,
MogaNet; presets for 32-px images."""

from . import ca_swin, moganet, pvt, small  # noqa: F401  (registers their architectures with timm)
from .build import check_arguments
from .facts import Facts, sha256_of, stated
from .fit import describe, resized_by_timm
from .load import Loaded, imagenet_classes, load
from .network import Network, Output, create, list_models
from .wrap import wrap

__all__ = [
    "Facts",
    "Loaded",
    "Network",
    "Output",
    "check_arguments",
    "create",
    "describe",
    "imagenet_classes",
    "list_models",
    "load",
    "resized_by_timm",
    "sha256_of",
    "stated",
    "wrap",
]
