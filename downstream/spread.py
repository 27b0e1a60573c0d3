"""What transfers measure, as functions of how often each image was drawn (`evalkit.bootstrap`): standard errors, and
differences of two models on the same images, follow from what every image contributes, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit import bootstrap

RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision
Values = dict[str, np.ndarray]


def over_images(
    ids: Sequence[str] | np.ndarray, statistics: Sequence[bootstrap.Statistic]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """(standard errors, 95 % intervals) of the metrics that are defined, in every draw too.

    Args:
        ids: Of the images; all models are drawn the same ones.
        statistics: What was measured.
    """
    values = {name: value for s in statistics for name, value in s.values.items()}
    found = bootstrap.resample(lambda counts: {m: v for s in statistics for m, v in s.resampled(counts).items()}, ids)
    known = [name for name in found if np.isfinite(values[name]) and np.isfinite(found[name]).all()]
    errors = {name: bootstrap.standard_error(found[name]) for name in known}
    return errors, {name: bootstrap.interval(values[name], found[name]) for name in known}


def values_of(statistic: bootstrap.Statistic, images: int) -> dict[str, float]:
    """The metrics of a statistic with every image once.

    Args:
        statistic: What was measured.
        images: How many there are.
    """
    return {name: float(drawn[0]) for name, drawn in statistic.resampled(np.ones((1, images))).items()}


class PerClass:
    """Accuracy of each class, mean over the classes that were drawn.

    Args:
        labels: Of the images, (N,), of any kind.
        right: Whether each is right, or how often, (N,) in [0, 1].
    """

    def __init__(self, labels: np.ndarray, right: np.ndarray):
        order = np.argsort(labels, kind="stable")
        self.order, self.right = order, np.asarray(right, dtype=np.float64)[order]
        self.starts = np.unique(labels[order], return_index=True)[1]
        self.values = values_of(self, len(labels))

    def resampled(self, counts: np.ndarray) -> Values:
        counts = counts[:, self.order]
        size, hits = (np.add.reduceat(part, self.starts, axis=1) for part in (counts, counts * self.right))
        with np.errstate(invalid="ignore"):
            return {"mean_per_class": _mean(hits / size)}


class Segmentation:
    """Mean IoU, and of one scale the accuracies.

    Args:
        images: (N, 3, classes) pixels of intersection, union and truth of every image.
        suffix: What the name of mean IoU ends in where it is of several scales, else "".
    """

    def __init__(self, images: np.ndarray, suffix: str = ""):
        self.images, self.suffix = np.asarray(images, dtype=np.float64), suffix
        self.values = values_of(self, len(images))

    def resampled(self, counts: np.ndarray) -> Values:
        sums = np.einsum("rn,nk->rk", counts, self.images.reshape(len(self.images), -1))
        intersection, union, truth = sums.reshape(len(counts), 3, -1).transpose(1, 0, 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {f"miou{self.suffix}": _mean(intersection / union)}
            if not self.suffix:
                found["mean_accuracy"] = _mean(intersection / truth)
                found["pixel_accuracy"] = intersection.sum(axis=1) / truth.sum(axis=1)
        return found


def _mean(values: np.ndarray) -> np.ndarray:
    """(R, classes) to (R,): the mean over those that are not NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        total: np.ndarray = np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)
    return total


@dataclass(frozen=True)
class Matches:
    """The detections of one class, surest first, as COCO's evaluation matched them.

    Args:
        image: (D,), the place of the image of each among all.
        right: (T, D) bool, whether it found an object, at each IoU.
        counted: (T, D) bool, whether it counts: it is neither matched with a crowd nor out of the area.
        objects: (N,), objects of the class that count, by image.
    """

    image: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def average_precision(matches: Matches, counts: np.ndarray) -> np.ndarray:
    """(R, T): the area under precision over recall, read at 101 recalls, of each draw and IoU; NaN where a draw holds
    no object.

    An image drawn twice holds everything twice: two equal detections follow one another, and of these COCO's envelope
    takes the precision after both.

    Args:
        matches: Of one class.
        counts: (R, N), how often each image was drawn.
    """
    weights, total = counts[:, matches.image], counts @ matches.objects
    found = np.zeros((len(counts), len(matches.right)))
    for t, (right, counted) in enumerate(zip(matches.right, matches.counted)):
        true = np.cumsum(weights * (right & counted), axis=1)
        false = np.cumsum(weights * (~right & counted), axis=1)
        precision = true / np.maximum(true + false, np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for r in range(len(counts)):
            if total[r] > 0 and envelope.shape[1]:
                at = np.searchsorted(true[r] / total[r], RECALLS, side="left")
                found[r, t] = np.append(envelope[r], 0.0)[at].mean()
    found[total == 0] = np.nan
    return found


class Detection:
    """AP, AP50 and AP75 of boxes, and of masks where there are some.

    Args:
        kinds: box, mask -> the matches of each class.
    """

    def __init__(self, kinds: Mapping[str, Sequence[Matches]]):
        self.kinds = kinds
        self.values = values_of(self, len(next(iter(kinds.values()))[0].objects))

    def resampled(self, counts: np.ndarray) -> Values:
        values: Values = {}
        for kind, classes in self.kinds.items():
            ap = np.stack([average_precision(m, counts) for m in classes], axis=1)  # (R, classes, T)
            for name, part in (("", ap.mean(axis=2)), ("50", ap[..., 0]), ("75", ap[..., 5])):
                values[f"{kind}_ap{name}"] = _mean(part)
        return values


def packed(kinds: Mapping[str, Sequence[Matches]]) -> dict[str, np.ndarray]:
    """Matches as arrays of few bytes; `unpacked` is the way back.

    Args:
        kinds: box, mask -> the matches of each class.
    """
    arrays: dict[str, np.ndarray] = {}
    for kind, classes in kinds.items():
        arrays[f"{kind}_class"] = np.repeat(np.arange(len(classes)), [len(m.image) for m in classes]).astype(np.int32)
        arrays[f"{kind}_image"] = np.concatenate([m.image for m in classes]).astype(np.int32)
        for name in ("right", "counted"):
            bits = np.concatenate([getattr(m, name) for m in classes], axis=1)
            arrays[f"{kind}_{name}"] = np.packbits(bits, axis=0)
        arrays[f"{kind}_objects"] = np.stack([m.objects for m in classes]).astype(np.int32)
    return arrays


def unpacked(arrays: Mapping[str, np.ndarray], thresholds: int = 10) -> dict[str, list[Matches]]:
    """The matches that `packed` packed.

    Args:
        arrays: What it made.
        thresholds: IoUs that were judged at.
    """
    kinds = {}
    for kind in (name.removesuffix("_objects") for name in arrays if name.endswith("_objects")):
        label, image = arrays[f"{kind}_class"], arrays[f"{kind}_image"]
        right, counted = (
            np.unpackbits(arrays[f"{kind}_{name}"], axis=0, count=thresholds).astype(bool)
            for name in ("right", "counted")
        )
        kinds[kind] = [
            Matches(image[label == k], right[:, label == k], counted[:, label == k], objects.astype(np.float64))
            for k, objects in enumerate(arrays[f"{kind}_objects"])
        ]
    return kinds
