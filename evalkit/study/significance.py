"""Do two methods differ? What the seeds of both, and the images within them, allow to say.

Seed by seed, two methods start from the same weights and see the same order of images, so their differences are paired.
The t interval speaks of other seeds on these images; the bootstrap draws seeds and, within every draw of seeds, images,
so it speaks of both. Sources: Student, "The probable error of a mean", 1908; Holm, "A simple sequentially rejective
multiple test procedure", 1979; Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from .. import bootstrap
from ..runtime import derive_rng

MIN_SEEDS = 3  # with two the t interval is 12.7 standard errors wide on each side
LEVEL = 1 - bootstrap.COVERAGE


class Paired(NamedTuple):
    """A difference of means over pairs. NaN where it is not defined: the interval and `p` need two pairs that are not
    the same number.

    Args:
        pairs: How many there are.
        difference: Of the means.
        interval: 95 %, Student's t.
        p: two-sided.
    """

    pairs: int
    difference: float
    interval: tuple[float, float]
    p: float

    @property
    def why_not(self) -> str:
        """Why nothing can be decided from it; empty where something can."""
        if self.pairs < MIN_SEEDS:
            return f"{self.pairs} seed{'s' if self.pairs != 1 else ''}, {MIN_SEEDS} are the least"
        return "every seed gives the same difference" if math.isnan(self.p) else ""


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """How much higher one mean is than another, value by value.

    Args:
        a: Values of the first, in the order of the seeds.
        b: Those of the second, of the same seeds.

    >>> found = paired([3.0, 4.0, 5.0], [2.0, 2.0, 2.0])
    >>> found.difference, round(found.interval[0], 2), round(found.p, 3)
    (2.0, -0.48, 0.074)
    """
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    n, mean = len(d), float(d.mean()) if len(d) else math.nan
    if n < 2 or np.ptp(d) <= 1e-12:
        return Paired(n, mean, (math.nan, math.nan), math.nan)
    error = float(d.std(ddof=1)) / math.sqrt(n)
    wide = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    return Paired(n, mean, (mean - wide, mean + wide), float(2 * stats.t.sf(abs(mean) / error, n - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted values: one below 0.05 stands although so many were tested. NaN takes no part and stays NaN.

    >>> [round(v, 3) for v in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [math.nan] * len(p), 0.0
    tested = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    for rank, (value, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * value))
        adjusted[i] = running
    return adjusted


def nested(pairs: Sequence[tuple[bootstrap.Values, bootstrap.Values]]) -> bootstrap.Values:
    """The mean difference over seeds for draws of seeds and images, metric -> (R,).

    Every resample draws as many seeds as there are, then images: once for all of them and for both methods, who saw the
    same images. Images drawn for each seed anew would count as other images, and the interval would be too narrow.

    Args:
        pairs: of each seed, the metrics of method A and of B for every draw of images, (R,) by name; draw r holds the
            same images in all of them (see `bootstrap.draws`).
    """
    shared = set.intersection(*(set(a) & set(b) for a, b in pairs)) if pairs else set()
    found = {}
    for name in sorted(shared):
        difference = np.stack([a[name] - b[name] for a, b in pairs], axis=1)  # (R, S)
        n, s = difference.shape
        seeds = np.stack([derive_rng("seeds", s, r).integers(0, s, s) for r in range(n)])
        found[name] = np.take_along_axis(difference, seeds, axis=1).mean(axis=1)
    return found


def verdict(found: Paired, adjusted: float, better: str) -> str:
    """In words: better, worse, not shown, or not decidable and why.

    Args:
        found: the difference.
        adjusted: its p after Holm.
        better: "high" or "low", the side of the metric that is better.
    """
    if why := found.why_not:
        return f"not decidable ({why})"
    if adjusted >= LEVEL:
        return "no difference shown"
    return "better" if (found.difference > 0) == (better == "high") else "worse"
