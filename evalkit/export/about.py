"""What `evalkit export` makes, and its keys, quick to import."""

from dataclasses import dataclass
from typing import Any

from .. import shared_keys
from ..keys import Keys

FORMS = {
    "timm": "a folder that timm loads",
    "hf": "the same with a model card, as timm pushes it to the Hugging Face Hub",
    "mmseg": "a segmentation transfer for mmsegmentation's own tools; of a classifier its backbone",
    "mmdet": "a detection transfer for mmdetection's own tools; of a classifier its backbone",
}


@dataclass(frozen=True)
class ExportConfig(Keys):
    """What `evalkit export CKPT OUT --to FORM key=value` may set."""

    model: str | None = shared_keys.architecture()
    model_args: dict[str, Any] = shared_keys.architecture_args()
    weights: str | None = shared_keys.which_weights()
