"""Selective prediction: how right are the most confident answers?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .calibration import sum_over_ties
from .checks import confidence_and_correct, mean


def _accuracy_at_coverage(confidence: ArrayLike, correct: ArrayLike) -> np.ndarray:
    """a_k = accuracy among the k most confident, k = 1..N: its expectation over all orders of equal confidences."""
    confidence, correct = confidence_and_correct(confidence, correct)
    if confidence.size == 0:
        return np.zeros(0)
    _, size, hits = (values[::-1] for values in sum_over_ties(confidence, correct))
    before, hits_before = np.cumsum(size) - size, np.cumsum(hits) - hits
    k = np.arange(1, confidence.size + 1)
    return (np.repeat(hits_before, size) + (k - np.repeat(before, size)) * np.repeat(hits / size, size)) / k


def aurra(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the response rate - accuracy curve, a fraction: the mean over k = 1..N of the accuracy among the k
    most confident samples.

    Equal confidences contribute the exact mean over all their orders, so the result does not depend on the order of the
    samples. `confidence` may be any ranking score, `log_confidence` for one. NaN for N = 0. Raises ValueError for
    unequal lengths, non-finite values, `correct` other than 0/1.

    Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.

    Args:
        confidence: Any ranking score of the N samples.
        correct: Whether each is right, 0 or 1.

    >>> round(aurra([.9, .2, .6, .4, .8, .3, .7], [1, 0, 1, 1, 0, 0, 1]), 6)
    0.707823
    >>> round(aurra([.9, .5, .5, .5, .1], [1, 1, 0, 0, 1]), 6)
    0.664444
    """
    return mean(_accuracy_at_coverage(confidence, correct))


class RiskCoverage(NamedTuple):
    """A curve, one point for each number of samples.

    Args:
        coverage: (N,) k/N.
        risk: (N,) error among the k most confident.
    """

    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Error among the k most confident samples against the share k/N answered; 1 - mean(risk) is `aurra`. Raises as
    `aurra` does.

    Args:
        confidence: Any ranking score of the N samples.
        correct: Whether each is right, 0 or 1.

    >>> risk_coverage([.9, .5], [1, 0]).risk.tolist()
    [0.0, 0.5]
    """
    accuracy = _accuracy_at_coverage(confidence, correct)
    return RiskCoverage(np.arange(1, accuracy.size + 1) / max(1, accuracy.size), 1.0 - accuracy)
