"""What the metrics accept, and the mean of nothing."""

import numpy as np
from numpy.typing import ArrayLike


def vector(name: str, values: ArrayLike) -> np.ndarray:
    """Values as a float64 vector (N,). Raises ValueError for what is none, or not finite.

    Args:
        name: The argument, for the error.
        values: What was given.
    """
    out = np.asarray(values, dtype=np.float64)
    if out.ndim != 1:
        raise ValueError(f"Expected argument `{name}` to be one-dimensional, but got shape {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(
            f"Expected argument `{name}` to be finite, but {int((~np.isfinite(out)).sum())} of {out.size} values are"
            " NaN or infinite"
        )
    return out


def confidence_and_correct(confidence: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as vectors of one length. Raises ValueError for anything else.

    Args:
        confidence: Of the N samples.
        correct: Whether each is right, 0 or 1.
    """
    confidence, correct = vector("confidence", confidence), vector("correct", correct)
    if confidence.shape != correct.shape:
        raise ValueError(
            f"Expected arguments `confidence` and `correct` to have the same length, but got {confidence.size} and"
            f" {correct.size}"
        )
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("Expected argument `correct` to hold 0 and 1 (or booleans) only")
    return confidence, correct


def choice(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise ValueError for a value that is none of the options.

    Args:
        name: The argument, for the error.
        value: What was given.
        options: What it may be.
    """
    if value not in options:
        raise ValueError(f"Expected argument `{name}` to be one of {options}, but got {value!r}")


def positive_integer(name: str, value: int) -> None:
    """Raise ValueError for anything but an integer larger than 0.

    Args:
        name: The argument, for the error.
        value: What was given.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"Expected argument `{name}` to be an integer larger than 0, but got {value}")


def finite_logits(logits: ArrayLike) -> np.ndarray:
    """Logits as float64 (N, K). Raises ValueError for another shape and for values that are not finite."""
    out = np.ascontiguousarray(logits, dtype=np.float64)
    if out.ndim != 2 or out.shape[1] == 0:
        raise ValueError(f"Expected argument `logits` to have shape (N, K) with K larger than 0, but got {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(
            f"Expected argument `logits` to be finite, but row {int(np.argmin(np.isfinite(out).all(axis=1)))} is not"
        )
    return out


def class_labels(labels: ArrayLike, logits: np.ndarray) -> np.ndarray:
    """Labels as (N,) class indices.

    Args:
        labels: What was given.
        logits: (N, K), whose classes they are.
    """
    out = np.asarray(labels)
    if out.size == 0 and out.ndim == 1:
        out = out.astype(np.int64)  # an empty list has no integers to show
    if out.shape != logits.shape[:1] or not np.issubdtype(out.dtype, np.integer):
        raise ValueError(
            f"Expected argument `labels` to be {len(logits)} integers, but got shape {out.shape} of {out.dtype}"
        )
    if out.size and (out.min() < 0 or out.max() >= logits.shape[1]):
        raise ValueError(
            f"Expected argument `labels` to lie in 0..{logits.shape[1] - 1}, but got {out.min()}..{out.max()}"
        )
    return out.astype(np.int64)


def mean(values: np.ndarray) -> float:
    """The mean in float64, NaN of no values."""
    return float(np.mean(values, dtype=np.float64)) if values.size else float("nan")
