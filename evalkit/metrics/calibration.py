"""Calibration: does the confidence equal the accuracy?"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .checks import choice, confidence_and_correct, positive_integer


class ReliabilityBins(NamedTuple):
    """Samples sorted by confidence, in bins.

    Args:
        count: (K,) samples in the bin.
        confidence: (K,) mean confidence, ascending.
        accuracy: (K,) share of correct ones.
    """

    count: np.ndarray  # type: ignore[assignment]  # nobody needs a tuple's own `count`
    confidence: np.ndarray
    accuracy: np.ndarray


def sum_over_ties(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct confidences ascending, samples of each, correct ones of each).

    Args:
        confidence: Of the N samples.
        correct: Whether each is right.
    """
    distinct, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    return distinct, size, np.bincount(group, weights=correct, minlength=distinct.size)


def reliability_bins(
    confidence: ArrayLike, correct: ArrayLike, bin_size: int = 100, ties: Literal["mean", "index"] = "mean"
) -> ReliabilityBins:
    """Adaptive bins: sorted by confidence, `bin_size` samples each; the last also takes the remainder (and everything
    where N < bin_size).

    ties="mean" gives every sample of a group of equal confidence the group's mean correctness, so that the order of the
    samples does not matter; ties="index" keeps them in the given order. Raises ValueError for unequal lengths,
    non-finite values, `correct` other than 0/1, bin_size < 1.

    Args:
        confidence: Of the N samples.
        correct: Whether each is right, 0 or 1.
        bin_size: Samples of a bin.
        ties: What becomes of equal confidences.
    """
    confidence, correct = confidence_and_correct(confidence, correct)
    positive_integer("bin_size", bin_size)
    choice("ties", ties, ("mean", "index"))
    n = confidence.size
    if n == 0:
        return ReliabilityBins(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    if ties == "mean":
        distinct, size, hits = sum_over_ties(confidence, correct)
        confidence, correct = np.repeat(distinct, size), np.repeat(hits / size, size)
    else:
        order = np.argsort(confidence, kind="stable")
        confidence, correct = confidence[order], correct[order]
    edges = np.arange(max(1, n // bin_size) + 1) * bin_size
    edges[-1] = n
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return ReliabilityBins(
        np.diff(edges), np.array([confidence[s].mean() for s in spans]), np.array([correct[s].mean() for s in spans])
    )


def rms_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    bin_size: int = 100,
    last_bin: Literal["skip", "include"] = "skip",
    ties: Literal["mean", "index"] = "mean",
) -> float:
    """Root mean square gap between confidence and accuracy over adaptive bins of `bin_size` samples, a fraction.

    sqrt(sum_i n_i/N (mean confidence_i - accuracy_i)^2) over the bins of `reliability_bins`. The code published with
    the metric leaves the last, most confident bin out of the sum but keeps N: last_bin="skip" is that, the number
    papers print; "include" is the formula. NaN for N = 0, and with "skip" for N < 2 * bin_size, where no bin is left.
    Raises as `reliability_bins` does.

    Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021; Hendrycks et al., "Deep Anomaly Detection with
    Outlier Exposure", ICLR 2019.

    Args:
        confidence: Of the N samples.
        correct: Whether each is right, 0 or 1.
        bin_size: Samples of a bin.
        last_bin: Whether the most confident bin counts.
        ties: As in `reliability_bins`.

    >>> confidence, correct = [.9, .2, .6, .4, .8, .3, .7], [1, 0, 1, 1, 0, 0, 1]
    >>> round(rms_calibration_error(confidence, correct, bin_size=2), 6)
    0.298807
    >>> round(rms_calibration_error(confidence, correct, bin_size=2, last_bin="include"), 6)
    0.311295
    >>> rms_calibration_error(confidence, correct)
    nan
    """
    choice("last_bin", last_bin, ("skip", "include"))
    count, mean_confidence, accuracy = reliability_bins(confidence, correct, bin_size, ties)
    terms = count / max(1, count.sum()) * (mean_confidence - accuracy) ** 2
    terms = terms[:-1] if last_bin == "skip" else terms
    return float(np.sqrt(terms.sum())) if terms.size else float("nan")


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `n_bins` bins of equal width (a, b], weighted by their samples, a
    fraction. NaN for N = 0.

    Args:
        confidence: Of the N samples, 0 to 1.
        correct: Whether each is right, 0 or 1.
        n_bins: How many bins there are.

    Raises ValueError for unequal lengths, non-finite values, confidences outside 0..1, `correct` other than 0/1, n_bins
    < 1.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; Guo et al., ICML
    2017 (15 bins).

    >>> round(expected_calibration_error([.95, .92, .55], [1, 0, 1], n_bins=10), 6)
    0.44
    """
    confidence, correct = confidence_and_correct(confidence, correct)
    gap = np.bincount(width_bins(confidence, n_bins), weights=confidence - correct, minlength=n_bins)
    return float(np.abs(gap).sum() / confidence.size) if confidence.size else float("nan")


def width_bins(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """Which of some bins (i / n_bins, (i + 1) / n_bins] each confidence is in, (N,) int64; 0 is in the first.

    Args:
        confidence: Of the N samples, 0 to 1.
        n_bins: How many bins there are.
    """
    positive_integer("n_bins", n_bins)
    if confidence.size and not 0 <= confidence.min() <= confidence.max() <= 1:
        raise ValueError(
            f"Expected argument `confidence` to lie in 0..1, but got {confidence.min()}..{confidence.max()}"
        )
    edges = np.arange(n_bins + 1) / n_bins
    return np.maximum(np.searchsorted(edges, confidence, side="left") - 1, 0)
