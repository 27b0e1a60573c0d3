"""What `evalkit export` makes, and its keys, quick to import."""

from dataclasses import dataclass
from typing import Any

from ..keys import Keys, key

FORMS = {
    "timm": "a folder that timm loads",
    "hf": "the same with a model card, as timm pushes it to the Hugging Face Hub",
    "mmseg": "a segmentation transfer for mmsegmentation's own tools; of a classifier its backbone",
    "mmdet": "a detection transfer for mmdetection's own tools; of a classifier its backbone",
}


@dataclass(frozen=True)
class ExportConfig(Keys):
    """What `evalkit export CKPT OUT --to FORM key=value` may set."""

    model: str | None = key(None, "architecture of a bare weights file", role="place")
    model_args: dict[str, Any] = key({}, "arguments passed to its constructor", role="place")
    weights: str | None = key(
        None,
        "which weights of a checkpoint; null: the averaged ones where it holds them",
        choices={"raw": "as the optimizer left them", "ema": "their moving average"},
        role="place",
    )
