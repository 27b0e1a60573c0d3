"""Standard errors and intervals over images of what transfers measure: images are drawn with replacement, and the
metrics of each draw follow from what every image contributes, without a model (`evalkit.bootstrap`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit import bootstrap

RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision
Values = dict[str, np.ndarray]


def over_images(
    values: Mapping[str, float], images: int, function: Callable[[np.ndarray], Values]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """(standard errors, 95 % intervals) of the metrics that are defined.

    Args:
        values: The metrics.
        images: How many there are; all models are drawn the same ones.
        function: From how often each image was drawn, (R, N), to the metrics of each draw, (R,) by name.
    """
    found = bootstrap.resample(function, [f"{i:09d}" for i in range(images)])
    known = [name for name in found if np.isfinite(values[name]) and np.isfinite(found[name]).all()]
    errors = {name: bootstrap.standard_error(found[name]) for name in known}
    return errors, {name: bootstrap.interval(values[name], found[name]) for name in known}


def segmentation(images: np.ndarray, counts: np.ndarray) -> Values:
    """The metrics of each draw.

    Args:
        images: (N, 3, classes) pixels of intersection, union and truth of every image.
        counts: (R, N), how often each image was drawn.
    """
    sums = np.einsum("rn,nk->rk", counts, images.reshape(len(images), -1).astype(np.float64))
    intersection, union, truth = sums.reshape(len(counts), 3, -1).transpose(1, 0, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "miou": _mean(intersection / union),
            "mean_accuracy": _mean(intersection / truth),
            "pixel_accuracy": intersection.sum(axis=1) / truth.sum(axis=1),
        }


def _mean(values: np.ndarray) -> np.ndarray:
    """(R, classes) to (R,): the mean over those that are not NaN."""
    known = ~np.isnan(values)
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


def detection(kinds: Mapping[str, Sequence[Matches]], counts: np.ndarray) -> Values:
    """The metrics of each draw.

    Args:
        kinds: box, mask -> the matches of each class.
        counts: (R, N), how often each image was drawn.
    """
    values: Values = {}
    for kind, classes in kinds.items():
        ap = np.stack([average_precision(m, counts) for m in classes], axis=1)  # (R, classes, T)
        for name, part in (("", ap.mean(axis=2)), ("50", ap[..., 0]), ("75", ap[..., 5])):
            values[f"{kind}_ap{name}"] = _mean(part)
    return values
