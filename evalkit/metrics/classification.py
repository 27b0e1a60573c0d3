"""From logits: which predictions are right, and how confident they are."""

import numpy as np
from numpy.typing import ArrayLike

from .checks import class_labels, finite_logits, mean, positive_integer, vector


def log_confidence(logits: ArrayLike) -> np.ndarray:
    """Logarithm of the largest softmax probability of each row of `logits` (N, K), (N,) float64.

    It ranks samples as the confidence does and keeps doing so where the confidence itself rounds to 1. Raises
    ValueError for non-finite logits.

    >>> log_confidence([[50.0, 0.0]])[0] > log_confidence([[45.0, 0.0]])[0]
    np.True_
    """
    z = finite_logits(logits)
    top = z.argmax(axis=1)
    others = np.exp(z - z[np.arange(len(z)), top][:, None])
    others[np.arange(len(z)), top] = 0.0
    return -np.log1p(others.sum(axis=1))


def confidence(logits: ArrayLike) -> np.ndarray:
    """Largest softmax probability of each row of `logits` (N, K), (N,) float64. Raises ValueError for non-finite
    logits.

    >>> round(float(confidence([[2.0, 1.0]])[0]), 4)
    0.7311
    """
    return np.exp(log_confidence(logits))


def top_k_correct(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> np.ndarray:
    """Whether the label is among the `k` largest logits of its row; of equal logits the lower class index comes first.
    (N,) bool.

    `logits` (N, K), `labels` (N,) class indices. Raises ValueError for non-finite logits, labels outside 0..K-1 or k
    outside 1..K.

    Args:
        logits: (N, K), finite.
        labels: (N,) class indices.
        k: How many of the largest logits count.

    >>> top_k_correct([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], [2, 1], k=1).tolist()
    [False, False]
    >>> top_k_correct([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], [2, 1], k=2).tolist()
    [True, True]
    """
    z = finite_logits(logits)
    labels = class_labels(labels, z)
    positive_integer("k", k)
    if k > z.shape[1]:
        raise ValueError(f"Expected argument `k` to be at most the number of classes, {z.shape[1]}, but got {k}")
    own = z[np.arange(len(z)), labels][:, None]
    before = (z > own) | ((z == own) & (np.arange(z.shape[1]) < labels[:, None]))
    return before.sum(axis=1) < k


def top_k_accuracy(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of samples whose label is among the `k` largest logits (see `top_k_correct`, whose errors it raises); NaN
    without samples.

    Args:
        logits: (N, K), finite.
        labels: (N,) class indices.
        k: How many of the largest logits count.
    """
    return mean(top_k_correct(logits, labels, k))


def sample_nll(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """-log softmax(logits)[label] of each sample in nats, (N,) float64; `logits` (N, K), `labels` (N,). Raises
    as `top_k_correct` does.

    Args:
        logits: (N, K), finite.
        labels: (N,) class indices.
    """
    z = finite_logits(logits)
    own = z[np.arange(len(z)), class_labels(labels, z)]
    return z.max(axis=1) - log_confidence(z) - own


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log softmax(logits)[label] in nats; `logits` (N, K), `labels` (N,). NaN without samples. Raises as
    `top_k_correct` does.

    Args:
        logits: (N, K), finite.
        labels: (N,) class indices.

    >>> round(negative_log_likelihood([[2.0, 1.0]], [0]), 4)
    0.3133
    """
    return mean(sample_nll(logits, labels))


def sample_brier(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Squared distance of the softmax from the one-hot label, sum_k (p_k - y_k)^2, of each sample, (N,) float64, 0 to
    2; its mean is the Brier score.

    `logits` (N, K), `labels` (N,). Raises as `top_k_correct` does. Source: Brier, Monthly Weather Review 78,
    1950.

    Args:
        logits: (N, K), finite.
        labels: (N,) class indices.

    >>> sample_brier([[0.0, 0.0]], [1]).tolist()
    [0.5]
    """
    z = finite_logits(logits)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(z)), class_labels(labels, z)] -= 1.0
    return (p * p).sum(axis=1)


# ---- other scores of confidence, by which samples may be ranked: higher = more confident


def max_logit(logits: ArrayLike) -> np.ndarray:
    """Largest logit of each row of `logits` (N, K), (N,) float64. Raises ValueError for non-finite logits.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022.
    """
    return finite_logits(logits).max(axis=1)


def energy(logits: ArrayLike) -> np.ndarray:
    """log sum_k exp(logit_k) of each row of `logits` (N, K), the negative energy, (N,) float64. Raises ValueError for
    non-finite logits.

    Source: Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020.

    >>> energy([[1000.0, 1000.0]]).round(4).tolist()
    [1000.6931]
    """
    z = finite_logits(logits)
    return z.max(axis=1) - log_confidence(z)


def negative_entropy(logits: ArrayLike) -> np.ndarray:
    """sum_k p_k log p_k of the softmax of each row of `logits` (N, K) in nats, (N,) float64, at most 0. Raises
    ValueError for non-finite logits.

    >>> negative_entropy([[0.0, 0.0]]).round(4).tolist()
    [-0.6931]
    """
    z = finite_logits(logits)
    below = z - z.max(axis=1, keepdims=True)
    weight = np.exp(below)
    # two negative terms: nothing cancels near certainty
    return log_confidence(z) + (weight * below).sum(axis=1) / weight.sum(axis=1)


#: Name -> the score of confidence in an image, from its logits: high for one that is known.
SCORES = {"msp": log_confidence, "max_logit": max_logit, "energy": energy, "entropy": negative_entropy}


def standard_error(values: ArrayLike) -> float:
    """Standard error of the mean of `values` (N,): sd / sqrt(N) with the 1/N variance, the binomial sqrt(p(1-p)/N) for
    0/1 values; NaN without values.

    >>> round(standard_error([1] * 191 + [0] * 809), 6)
    0.012431
    """
    values = vector("values", values)
    return float(values.std() / np.sqrt(values.size)) if values.size else float("nan")
