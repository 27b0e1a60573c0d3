"""Accuracy, calibration, selective prediction and out-of-distribution metrics: float64 functions of per-sample values.

Nothing here depends on the order of the samples: equal confidences are treated as one group. A metric that the data do not define
(too few samples, an empty side) is NaN; NaN or infinite input is a ValueError.
"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# ---- checks


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    out = np.asarray(values, dtype=np.float64)
    if out.ndim != 1:
        raise ValueError(f"Expected argument `{name}` to be one-dimensional, but got shape {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(f"Expected argument `{name}` to be finite, but {int((~np.isfinite(out)).sum())} of {out.size} values are NaN or infinite")
    return out


def _confidence_and_correct(confidence: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = _vector("confidence", confidence), _vector("correct", correct)
    if confidence.shape != correct.shape:
        raise ValueError(f"Expected arguments `confidence` and `correct` to have the same length, but got {confidence.size} and {correct.size}")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("Expected argument `correct` to hold 0 and 1 (or booleans) only")
    return confidence, correct


def _choice(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"Expected argument `{name}` to be one of {options}, but got {value!r}")


def _positive_integer(name: str, value: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"Expected argument `{name}` to be an integer larger than 0, but got {value}")


def _logits(logits: ArrayLike) -> np.ndarray:
    out = np.ascontiguousarray(logits, dtype=np.float64)
    if out.ndim != 2 or out.shape[1] == 0:
        raise ValueError(f"Expected argument `logits` to have shape (N, K) with K larger than 0, but got {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(f"Expected argument `logits` to be finite, but row {int(np.argmin(np.isfinite(out).all(axis=1)))} is not")
    return out


# ---- from logits


def log_confidence(logits: ArrayLike) -> np.ndarray:
    """Logarithm of the largest softmax probability of each row of `logits` (N, K), (N,) float64.

    It ranks samples as the confidence does and keeps doing so where the confidence itself rounds to 1. Raises ValueError for non-finite logits.

    >>> log_confidence([[50.0, 0.0]])[0] > log_confidence([[45.0, 0.0]])[0]
    np.True_
    """
    z = _logits(logits)
    top = z.argmax(axis=1)
    others = np.exp(z - z[np.arange(len(z)), top][:, None])
    others[np.arange(len(z)), top] = 0.0
    return -np.log1p(others.sum(axis=1))


def confidence(logits: ArrayLike) -> np.ndarray:
    """Largest softmax probability of each row of `logits` (N, K), (N,) float64. Raises ValueError for non-finite logits.

    >>> round(float(confidence([[2.0, 1.0]])[0]), 4)
    0.7311
    """
    return np.exp(log_confidence(logits))


def top_k_correct(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> np.ndarray:
    """Whether the label is among the `k` largest logits of its row; of equal logits the lower class index comes first. (N,) bool.

    `logits` (N, K), `labels` (N,) class indices. Raises ValueError for non-finite logits, labels outside 0..K-1 or k outside 1..K.

    >>> top_k_correct([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], [2, 1], k=1).tolist()
    [False, False]
    >>> top_k_correct([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], [2, 1], k=2).tolist()
    [True, True]
    """
    z, labels = _logits(logits), np.asarray(labels)
    _positive_integer("k", k)
    if k > z.shape[1]:
        raise ValueError(f"Expected argument `k` to be at most the number of classes, {z.shape[1]}, but got {k}")
    if labels.shape != z.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected argument `labels` to be {len(z)} integers, but got shape {labels.shape} of {labels.dtype}")
    if labels.size and (labels.min() < 0 or labels.max() >= z.shape[1]):
        raise ValueError(f"Expected argument `labels` to lie in 0..{z.shape[1] - 1}, but got {labels.min()}..{labels.max()}")
    own = z[np.arange(len(z)), labels][:, None]
    before = (z > own) | ((z == own) & (np.arange(z.shape[1]) < labels[:, None]))
    return before.sum(axis=1) < k


def top_k_accuracy(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of samples whose label is among the `k` largest logits (see `top_k_correct`); NaN without samples."""
    return _mean(top_k_correct(logits, labels, k))


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log softmax(logits)[label] in nats; `logits` (N, K), `labels` (N,). NaN without samples; ValueError for non-finite logits.

    >>> round(negative_log_likelihood([[2.0, 1.0]], [0]), 4)
    0.3133
    """
    z = _logits(logits)
    own = z[np.arange(len(z)), np.asarray(labels, dtype=np.int64)]
    return _mean(z.max(axis=1) - log_confidence(z) - own)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64)) if values.size else float("nan")


def standard_error(values: ArrayLike) -> float:
    """Standard error of the mean of `values` (N,): sd / sqrt(N) with the 1/N variance, the binomial sqrt(p(1-p)/N) for 0/1 values; NaN without values.

    >>> round(standard_error([1] * 191 + [0] * 809), 6)
    0.012431
    """
    values = _vector("values", values)
    return float(values.std() / np.sqrt(values.size)) if values.size else float("nan")


# ---- calibration


class ReliabilityBins(NamedTuple):
    count: np.ndarray  # (K,) samples in the bin
    confidence: np.ndarray  # (K,) mean confidence, ascending
    accuracy: np.ndarray  # (K,) share of correct ones


def _sum_over_ties(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct confidences ascending, samples of each, correct ones of each)."""
    distinct, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    return distinct, size, np.bincount(group, weights=correct, minlength=distinct.size)


def reliability_bins(
    confidence: ArrayLike, correct: ArrayLike, bin_size: int = 100, ties: Literal["mean", "index"] = "mean"
) -> ReliabilityBins:
    """Adaptive bins: sorted by confidence, `bin_size` samples each; the last also takes the remainder (and everything where N < bin_size).

    ties="mean" gives every sample of a group of equal confidence the group's mean correctness, so that the order of the samples does not matter;
    ties="index" keeps them in the given order. Raises ValueError for unequal lengths, non-finite values, `correct` other than 0/1, bin_size < 1.
    """
    confidence, correct = _confidence_and_correct(confidence, correct)
    _positive_integer("bin_size", bin_size)
    _choice("ties", ties, ("mean", "index"))
    n = confidence.size
    if n == 0:
        return ReliabilityBins(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    if ties == "mean":
        distinct, size, hits = _sum_over_ties(confidence, correct)
        confidence, correct = np.repeat(distinct, size), np.repeat(hits / size, size)
    else:
        order = np.argsort(confidence, kind="stable")
        confidence, correct = confidence[order], correct[order]
    edges = np.arange(max(1, n // bin_size) + 1) * bin_size
    edges[-1] = n
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return ReliabilityBins(np.diff(edges), np.array([confidence[s].mean() for s in spans]), np.array([correct[s].mean() for s in spans]))


def rms_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    bin_size: int = 100,
    last_bin: Literal["skip", "include"] = "skip",
    ties: Literal["mean", "index"] = "mean",
) -> float:
    """Root mean square gap between confidence and accuracy over adaptive bins of `bin_size` samples, a fraction.

    sqrt(sum_i n_i/N (mean confidence_i - accuracy_i)^2) over the bins of `reliability_bins`. The code published with the metric leaves the last, most
    confident bin out of the sum but keeps N: last_bin="skip" is that, the number papers print; "include" is the formula. NaN for N = 0, and with "skip"
    for N < 2 * bin_size, where no bin is left. Raises as `reliability_bins` does.

    Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021; Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure", ICLR 2019.

    >>> confidence, correct = [.9, .2, .6, .4, .8, .3, .7], [1, 0, 1, 1, 0, 0, 1]
    >>> round(rms_calibration_error(confidence, correct, bin_size=2), 6)
    0.298807
    >>> round(rms_calibration_error(confidence, correct, bin_size=2, last_bin="include"), 6)
    0.311295
    >>> rms_calibration_error(confidence, correct)
    nan
    """
    _choice("last_bin", last_bin, ("skip", "include"))
    count, mean_confidence, accuracy = reliability_bins(confidence, correct, bin_size, ties)
    terms = count / max(1, count.sum()) * (mean_confidence - accuracy) ** 2
    terms = terms[:-1] if last_bin == "skip" else terms
    return float(np.sqrt(terms.sum())) if terms.size else float("nan")


# ---- selective prediction


def _accuracy_at_coverage(confidence: ArrayLike, correct: ArrayLike) -> np.ndarray:
    """a_k = accuracy among the k most confident, k = 1..N: its expectation over all orders of equal confidences."""
    confidence, correct = _confidence_and_correct(confidence, correct)
    if confidence.size == 0:
        return np.zeros(0)
    _, size, hits = (values[::-1] for values in _sum_over_ties(confidence, correct))
    before, hits_before = np.cumsum(size) - size, np.cumsum(hits) - hits
    k = np.arange(1, confidence.size + 1)
    return (np.repeat(hits_before, size) + (k - np.repeat(before, size)) * np.repeat(hits / size, size)) / k


def aurra(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the response rate - accuracy curve, a fraction: the mean over k = 1..N of the accuracy among the k most confident samples.

    Equal confidences contribute the exact mean over all their orders, so the result does not depend on the order of the samples. `confidence` may be any
    ranking score, `log_confidence` for one. NaN for N = 0. Raises ValueError for unequal lengths, non-finite values, `correct` other than 0/1.

    Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.

    >>> round(aurra([.9, .2, .6, .4, .8, .3, .7], [1, 0, 1, 1, 0, 0, 1]), 6)
    0.707823
    >>> round(aurra([.9, .5, .5, .5, .1], [1, 1, 0, 0, 1]), 6)
    0.664444
    """
    return _mean(_accuracy_at_coverage(confidence, correct))


class RiskCoverage(NamedTuple):
    coverage: np.ndarray  # (N,) k/N
    risk: np.ndarray  # (N,) error among the k most confident


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Error among the k most confident samples against the share k/N answered; 1 - mean(risk) is `aurra`. Raises as `aurra` does.

    >>> risk_coverage([.9, .5], [1, 0]).risk.tolist()
    [0.0, 0.5]
    """
    accuracy = _accuracy_at_coverage(confidence, correct)
    return RiskCoverage(np.arange(1, accuracy.size + 1) / max(1, accuracy.size), 1.0 - accuracy)


# ---- out-of-distribution detection: the out-of-distribution side is positive, a higher score means more out-of-distribution


def _counts_by_threshold(ood_scores: ArrayLike, id_scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives with a score of at least each distinct threshold, thresholds descending."""
    ood, ind = _vector("ood_scores", ood_scores), _vector("id_scores", id_scores)
    thresholds = np.unique(np.concatenate([ood, ind]))[::-1]
    at_least = lambda scores: scores.size - np.searchsorted(np.sort(scores), thresholds, side="left")  # noqa: E731
    return at_least(ood), at_least(ind)


class PrecisionRecall(NamedTuple):
    precision: np.ndarray  # (T,) at each distinct threshold, descending
    recall: np.ndarray  # (T,) ascending up to 1


def precision_recall(ood_scores: ArrayLike, id_scores: ArrayLike) -> PrecisionRecall:
    """Precision and recall of calling a sample out-of-distribution, at every distinct score; empty where a side is. ValueError for non-finite scores."""
    tp, fp = _counts_by_threshold(ood_scores, id_scores)
    if not tp.size or not tp[-1] or not fp[-1]:
        return PrecisionRecall(np.zeros(0), np.zeros(0))
    return PrecisionRecall(tp / (tp + fp), tp / tp[-1])


def aupr(ood_scores: ArrayLike, id_scores: ArrayLike) -> float:
    """Average precision of detecting out-of-distribution samples: sum_k (R_k - R_{k-1}) P_k over distinct scores, descending. Chance is n_ood / n.

    Steps, not trapezoids (which are optimistic). NaN where a side is empty; ValueError for non-finite scores.

    Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021 (ImageNet-O).

    >>> round(aupr([-.3, -.5, -.7, -.9], [-.4, -.6, -.8, -.95, -.99]), 6)
    0.709524
    >>> aupr([1, 1], [1, 1, 1])
    0.4
    """
    precision, recall = precision_recall(ood_scores, id_scores)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if precision.size else float("nan")


def auroc(ood_scores: ArrayLike, id_scores: ArrayLike) -> float:
    """Probability that an out-of-distribution sample scores higher than an in-distribution one, ties counting half. NaN where a side is empty.

    Raises ValueError for non-finite scores.

    >>> auroc([-.3, -.5, -.7, -.9], [-.4, -.6, -.8, -.95, -.99])
    0.7
    """
    tp, fp = _counts_by_threshold(ood_scores, id_scores)
    if not tp.size or not tp[-1] or not fp[-1]:
        return float("nan")
    above = np.concatenate([[0], tp[:-1]])
    return float(np.sum((above + tp) * np.diff(fp, prepend=0)) / (2 * int(tp[-1]) * int(fp[-1])))  # an exact integer over an exact integer


def fpr95(ood_scores: ArrayLike, id_scores: ArrayLike, convention: Literal["first", "nearest"] = "first") -> float:
    """Share of in-distribution samples flagged at the threshold that finds 95 % of the out-of-distribution ones. NaN where a side is empty.

    "first": the highest threshold with a recall of at least 95 %, decided in integers. "nearest": the threshold whose recall is nearest to 0.95, of equal
    recalls the lowest threshold, never beyond the first of recall 1 (the code of Hendrycks et al.). Raises ValueError for non-finite scores.

    >>> ood, ind = [-i / 100 for i in range(1, 21)], [-.185, -.195, -.5, -.6]
    >>> fpr95(ood, ind), fpr95(ood, ind, convention="nearest")
    (0.25, 0.5)
    """
    _choice("convention", convention, ("first", "nearest"))
    tp, fp = _counts_by_threshold(ood_scores, id_scores)
    if not tp.size or not tp[-1] or not fp[-1]:
        return float("nan")
    if convention == "first":
        at = int(np.argmax(100 * tp >= 95 * tp[-1]))
    else:
        full = int(np.argmax(tp == tp[-1]))
        at = full - int(np.argmin(np.abs(tp[full::-1] / tp[-1] - 0.95)))  # backwards: of equal distances the lowest threshold is met first
    return float(fp[at] / fp[-1])
