"""A number of several seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """A result over seeds.

    Args:
        mean: Over the seeds.
        spread: Standard deviation, NaN for a single one.
        values: The seeds' own.
    """

    mean: float
    spread: float
    values: list[float]


def point(values: Sequence[float]) -> Point:
    """Mean and standard deviation of the values of the seeds.

    >>> point([1.0, 3.0])
    Point(mean=2.0, spread=1.4142135623730951, values=[1.0, 3.0])
    """
    return Point(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, list(values))
