"""What mmseg lacks: IoU per class, without rounding."""

from typing import Any

import numpy as np
from mmcv import imread
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class EvalkitIoU(IoUMetric):
    """Per class over all images, as mmseg counts: IoU (NaN for a class that occurs nowhere), accuracy (NaN for one without a true pixel); all fractions."""

    default_prefix = "seg"

    def compute_metrics(self, results: list) -> dict[str, Any]:
        intersection, union, _, truth = (np.sum([np.asarray(part, float) for part in parts], axis=0) for parts in zip(*results))
        with np.errstate(invalid="ignore"):
            iou, accuracy = intersection / union, intersection / truth
        return {"iou": iou, "accuracy": accuracy, "all": intersection.sum() / truth.sum()}


def sample(result: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8, true and predicted labels (H, W) of a tested mmseg sample."""
    truth, prediction = (part.data.squeeze(0).cpu().numpy() for part in (result.gt_sem_seg, result.pred_sem_seg))
    return imread(result.img_path, channel_order="rgb"), truth, prediction
