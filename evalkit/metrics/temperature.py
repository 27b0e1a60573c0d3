"""Temperature scaling: one number that softens or sharpens every softmax alike and changes no prediction."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from .checks import class_labels, finite_logits
from .classification import sample_nll

LARGEST = 100.0  # temperatures are sought between its inverse and it


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T whose softmax(logits / T) has the least negative log-likelihood of `labels`; 1/100 to 100. NaN
    without samples.

    `logits` (N, K), `labels` (N,). Raises as `top_k_correct` does. Source: Guo et al., "On Calibration of
    Modern Neural Networks", ICML 2017.

    Args:
        logits: (N, K), finite.
        labels: (N,) class indices.
    """
    z = finite_logits(logits)
    labels = class_labels(labels, z)
    if not len(z):
        return float("nan")
    bound = np.log(LARGEST)
    found = minimize_scalar(
        lambda t: sample_nll(z * np.exp(-t), labels).mean(),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))  # convex in 1/T, so one minimum
