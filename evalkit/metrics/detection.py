"""Out-of-distribution detection: the out-of-distribution side is positive, a higher score means more
out-of-distribution."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checks import choice, vector


def _counts_by_threshold(ood_scores: ArrayLike, id_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives with a score of at least each distinct threshold, thresholds descending."""
    ood, ind = vector("ood_scores", ood_scores), vector("id_scores", id_scores)
    thresholds = np.unique(np.concatenate([ood, ind]))[::-1]
    at_least = lambda scores: scores.size - np.searchsorted(np.sort(scores), thresholds, side="left")  # noqa: E731
    return at_least(ood), at_least(ind)


class PrecisionRecall(NamedTuple):
    """A curve, one point for each distinct score.

    Args:
        precision: (T,) at each distinct threshold, descending.
        recall: (T,) ascending up to 1.
    """

    precision: np.ndarray
    recall: np.ndarray


def precision_recall(ood_scores: ArrayLike, id_scores: ArrayLike) -> PrecisionRecall:
    """Precision and recall of calling a sample out-of-distribution, at every distinct score; empty where a side is.
    ValueError for non-finite scores.

    Args:
        ood_scores: Of the out-of-distribution samples, higher = more so.
        id_scores: Of the in-distribution samples.
    """
    tp, fp = _counts_by_threshold(ood_scores, id_scores)
    if not tp.size or not tp[-1] or not fp[-1]:
        return PrecisionRecall(np.zeros(0), np.zeros(0))
    return PrecisionRecall(tp / (tp + fp), tp / tp[-1])


def aupr(ood_scores: ArrayLike, id_scores: ArrayLike) -> float:
    """Average precision of detecting out-of-distribution samples: sum_k (R_k - R_{k-1}) P_k over distinct scores,
    descending. Chance is n_ood / n.

    Steps, not trapezoids (which are optimistic). NaN where a side is empty; ValueError for non-finite scores.

    Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021 (ImageNet-O).

    Args:
        ood_scores: Of the out-of-distribution samples, higher = more so.
        id_scores: Of the in-distribution samples.

    >>> round(aupr([-.3, -.5, -.7, -.9], [-.4, -.6, -.8, -.95, -.99]), 6)
    0.709524
    >>> aupr([1, 1], [1, 1, 1])
    0.4
    """
    precision, recall = precision_recall(ood_scores, id_scores)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if precision.size else float("nan")


def auroc(ood_scores: ArrayLike, id_scores: ArrayLike) -> float:
    """Probability that an out-of-distribution sample scores higher than an in-distribution one, ties counting half. NaN
    where a side is empty.

    Args:
        ood_scores: Of the out-of-distribution samples, higher = more so.
        id_scores: Of the in-distribution samples.

    Raises ValueError for non-finite scores.

    >>> auroc([-.3, -.5, -.7, -.9], [-.4, -.6, -.8, -.95, -.99])
    0.7
    """
    tp, fp = _counts_by_threshold(ood_scores, id_scores)
    if not tp.size or not tp[-1] or not fp[-1]:
        return float("nan")
    above = np.concatenate([[0], tp[:-1]])
    # an exact integer over an exact integer
    return float(np.sum((above + tp) * np.diff(fp, prepend=0)) / (2 * int(tp[-1]) * int(fp[-1])))


def fpr95(ood_scores: ArrayLike, id_scores: ArrayLike, convention: Literal["first", "nearest"] = "first") -> float:
    """Share of in-distribution samples flagged at the threshold that finds 95 % of the out-of-distribution ones. NaN
    where a side is empty.

    "first": the highest threshold with a recall of at least 95 %, decided in integers. "nearest": the threshold whose
    recall is nearest to 0.95, of equal recalls the lowest threshold, never beyond the first of recall 1 (the code of
    Hendrycks et al.). Raises ValueError for non-finite scores.

    Args:
        ood_scores: Of the out-of-distribution samples, higher = more so.
        id_scores: Of the in-distribution samples.
        convention: Which threshold is taken, "first" or "nearest".

    >>> ood, ind = [-i / 100 for i in range(1, 21)], [-.185, -.195, -.5, -.6]
    >>> fpr95(ood, ind), fpr95(ood, ind, convention="nearest")
    (0.25, 0.5)
    """
    choice("convention", convention, ("first", "nearest"))
    tp, fp = _counts_by_threshold(ood_scores, id_scores)
    if not tp.size or not tp[-1] or not fp[-1]:
        return float("nan")
    if convention == "first":
        at = int(np.argmax(100 * tp >= 95 * tp[-1]))
    else:
        full = int(np.argmax(tp == tp[-1]))
        # backwards: of equal distances the lowest threshold is met first
        at = full - int(np.argmin(np.abs(tp[full::-1] / tp[-1] - 0.95)))
    return float(fp[at] / fp[-1])
