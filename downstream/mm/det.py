"""What mmdet lacks: COCO's average precision per class, without rounding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv import imread
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine.evaluator import BaseMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..sheets import Objects
from ..spread import Matches

THRESHOLDS: dict[str, Any] = {"": slice(None), "50": 0, "75": 5}  # of the ten IoUs from 0.50 to 0.95


@METRICS.register_module()
class EvalkitCoco(BaseMetric):
    """Per class: AP, AP50 and AP75 of boxes and, if both truth and prediction have some, of masks, each (classes, 3),
    fractions; NaN for a class without an object in `ann_file`.

    Args:
        ann_file: The annotations, in COCO's format.
        kwargs: As mmdetection's CocoMetric takes them.
    """

    default_prefix = "det"

    def __init__(self, ann_file: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.truth = COCO(ann_file)
        # an object of id 0 would count as not found: pycocotools takes the id for whether there is a match
        for number, entry in enumerate(self.truth.dataset["annotations"], start=1):
            entry["id"] = number
        self.truth.createIndex()
        self.masks = all(entry.get("segmentation") for entry in self.truth.dataset["annotations"])
        self.categories = [c["id"] for c in self.truth.dataset["categories"]]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        for sample in data_samples:
            found = sample["pred_instances"]
            boxes, scores, labels = (found[key].cpu().numpy() for key in ("bboxes", "scores", "labels"))
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)  # left, top, width, height
            masked = self.masks and "masks" in found
            masks = encode_mask_results(found["masks"].cpu().numpy()) if masked else [None] * len(boxes)
            self.results.append(
                [
                    {
                        "image_id": sample["img_id"],
                        "category_id": self.categories[label],
                        "score": float(score),
                        "bbox": box.tolist(),
                        "segmentation": mask,
                    }
                    for box, score, label, mask in zip(boxes, scores, labels, masks)
                ]
            )

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        objects = [found for image in results for found in image]
        ids = [self.truth.imgs[i]["file_name"] for i in sorted(self.truth.getImgIds())]  # in the order of `_matches`
        boxes = self._judged(objects, "bbox", "box") | {"ids": np.array(ids)}
        if not self.masks or any(o["segmentation"] is None for o in objects):
            return boxes
        # a mask's own area decides whether it counts as small or large, hence the separate list
        return boxes | self._judged([{k: v for k, v in o.items() if k != "bbox"} for o in objects], "segm", "mask")

    def _judged(self, objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
        """AP per class, and the matches behind it."""
        judged = COCOeval(self.truth, self.truth.loadRes(objects) if objects else self._nothing(), kind)
        judged.evaluate()
        judged.accumulate()
        precision = judged.eval["precision"][..., 0, -1]  # IoU, recall, class; objects of any size, 100 per image
        order = [judged.params.catIds.index(category) for category in self.categories]  # pycocotools sorts them
        precision = np.where(precision < 0, np.nan, precision)[..., order]
        columns = [precision[at].reshape(-1, precision.shape[-1]).mean(axis=0) for at in THRESHOLDS.values()]
        return {name: np.stack(columns, axis=1), f"{name}_matches": [_matches(judged, k) for k in order]}

    def _nothing(self) -> COCO:
        """No object at all, which `loadRes` does not take."""
        empty = COCO()
        empty.dataset = self.truth.dataset | {"annotations": []}
        empty.createIndex()
        return empty


def _matches(judged: COCOeval, category: int) -> Matches:
    """What the evaluation says of the detections of a category, by its place, for objects of any size."""
    params = judged.params
    images, areas = len(params.imgIds), len(params.areaRng)
    start = category * areas * images
    found = [(i, e) for i, e in enumerate(judged.evalImgs[start : start + images]) if e is not None]
    objects = np.zeros(images)
    for i, e in found:
        objects[i] = np.count_nonzero(np.asarray(e["gtIgnore"]) == 0)
    if not found:
        none = np.zeros((len(params.iouThrs), 0), bool)
        return Matches(np.zeros(0, int), none, none, objects)
    scores = np.concatenate([e["dtScores"] for _, e in found])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools sorts
    image = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in found])[order]
    right = np.concatenate([e["dtMatches"] for _, e in found], axis=1)[:, order] != 0
    ignored = np.concatenate([e["dtIgnore"] for _, e in found], axis=1)[:, order] != 0
    return Matches(image, right, ~ignored, objects)


def sample(result: Any) -> tuple[np.ndarray, Objects, Objects]:
    """Image (H, W, 3) uint8, true and predicted objects of a tested mmdet sample."""
    true, found = result.gt_instances, result.pred_instances
    drawn = true.masks.masks.astype(bool) if "masks" in true else None
    truth = Objects(_corners(true.bboxes), drawn, true.labels.cpu().numpy())
    masks = found["masks"].cpu().numpy() if "masks" in found else None
    labels, scores = (found[key].cpu().numpy() for key in ("labels", "scores"))
    return (
        imread(result.img_path, channel_order="rgb"),
        truth,
        Objects(_corners(found["bboxes"]), masks, labels, scores),
    )


def _corners(boxes: Any) -> np.ndarray:
    corners: np.ndarray = getattr(boxes, "tensor", boxes).cpu().numpy()
    return corners
