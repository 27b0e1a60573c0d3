"""What mmseg lacks: IoU per class, without rounding, and a look at what it loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv import imread
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, METRICS, TRANSFORMS

from evalkit.errors import EvalkitError

from .. import per_image
from ..class_lists import IGNORE


@DATASETS.register_module()
class EvalkitSegDataset(BaseSegDataset):
    """Images that lie in the folder itself: without a list mmseg takes those of all folders below as well, hidden ones
    included.

    Args:
        nested: Whether images lie in the folders of the folder instead.
        kwargs: As mmsegmentation's BaseSegDataset takes them.
    """

    def __init__(self, nested: bool = False, **kwargs: Any):
        self.nested = nested
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        root, depth = Path(self.data_prefix["img_path"]), 1 + self.nested
        found = [(Path(entry["img_path"]).relative_to(root).parts, entry) for entry in super().load_data_list()]
        return [entry for parts, entry in found if len(parts) == depth and not parts[-1].startswith(".")]


@TRANSFORMS.register_module()
class EvalkitLabels(LoadAnnotations):
    """Loads a label map and refuses one that does not hold a known label for each pixel of the image: mmseg would not
    count what is wrong, or stop there.

    Args:
        classes: How many classes there are; labels are 0 to classes - 1, and 255 for none.
        kwargs: As mmsegmentation's LoadAnnotations takes them.
    """

    def __init__(self, classes: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.classes = classes

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results = super().transform(results)
        labels, path = results["gt_seg_map"], results["seg_map_path"]
        if labels.shape != tuple(results["ori_shape"]):
            shape, wanted = ("x".join(map(str, s)) for s in (labels.shape, results["ori_shape"]))
            raise EvalkitError(f"{path} has the shape {shape}, its image {wanted}; make it anew")
        highest = labels.max(initial=0, where=labels != IGNORE)
        if highest >= self.classes:
            # label 0 of the file was background, which is none of the classes
            first = int(results["reduce_zero_label"])
            raise EvalkitError(
                f"{path} holds the label {highest + first}, but the last class is {self.classes - 1 + first}; make it"
                " anew"
            )
        return results


@METRICS.register_module()
class EvalkitIoU(IoUMetric):
    """Per class over all images, as mmseg counts: IoU (NaN for a class that occurs nowhere), accuracy (NaN for one
    without a true pixel); all fractions."""

    default_prefix = "seg"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        before = len(self.results)
        super().process(data_batch, data_samples)
        for i, sample in enumerate(data_samples, before):
            self.results[i] = (*self.results[i], sample["img_path"])

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        *counts, paths = zip(*results)
        intersection, union, _, truth = (np.sum([np.asarray(part, float) for part in c], axis=0) for c in counts)
        with np.errstate(invalid="ignore"):
            return {
                "iou": intersection / union,
                "accuracy": intersection / truth,
                "all": intersection.sum() / truth.sum(),
                # (images, 3, classes), what the spread over images is made of
                "images": np.stack([np.stack([np.asarray(r[k]) for k in (0, 1, 3)]) for r in results]),
                "ids": per_image.names(paths),
            }


def sample(result: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8, true and predicted labels (H, W) of a tested mmseg sample."""
    truth, prediction = (part.data.squeeze(0).cpu().numpy() for part in (result.gt_sem_seg, result.pred_sem_seg))
    return imread(result.img_path, channel_order="rgb"), truth, prediction
