"""Evalkit beside a golden vector: the largest difference and where it is."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import mixups, protocols
from .vectors import Case


@dataclass(frozen=True)
class Difference:
    """The largest difference of a case; `where` names the compared key, or the error that left nothing to compare."""

    value: float
    where: str
    equal: bool


def difference(case: Case) -> Difference:
    """Compare one case. Whatever goes wrong on the way counts as a difference: other cases are still to be asked."""
    try:
        value, where = max(differences(case).items(), key=lambda found: found[1])[::-1]
    except Exception as e:
        value, where = float("inf"), f"{type(e).__name__}: {e}".splitlines()[0]
    return Difference(value, where, value <= case.meta["tolerance"])


def differences(case: Case) -> dict[str, float]:
    """Largest difference of each expected array.

    Of methods with recorded networks it is absolute. Where `meta` has a `kind`, gradients are divided by the largest
    entry of the gradient, other real numbers by the largest expected one if that exceeds 1."""
    if "kind" not in case.meta:
        got, expected = mixups.results(case), case.below("expect")
        return {key: distance(got[key], want, 1.0) for key, want in expected.items()}
    got = protocols.results(case)
    expected = {key: want for key, want in case.arrays.items() if "expect/" in key}
    return {key: distance(got[key], want, scale(key, want)) for key, want in expected.items()}


def scale(key: str, expected: np.ndarray) -> float:
    largest = float(np.abs(expected).max())
    if "/grad/" in key:
        return largest or 1e-30
    return max(1.0, largest) if expected.dtype.kind == "f" else 1.0


def distance(got: object, expected: np.ndarray, unit: float) -> float:
    """Infinite where shapes differ or a number is none."""
    values = np.asarray(got.detach() if isinstance(got, Tensor) else got, dtype=np.float64)
    if values.shape != expected.shape:
        return float("inf")
    largest = float(np.abs(values - expected).max(initial=0.0)) / unit
    return float("inf") if np.isnan(largest) else largest
