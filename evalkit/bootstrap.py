"""The bootstrap: how far a metric would move on other images of the same kind.

Images are drawn with replacement, 1,000 times. The draws follow from the number of images alone and are dealt out in
the order of the ids, so neither the order of the files nor the model changes them: two models on the same images are
resampled alike, which makes their difference far more certain than either. A statistic holds the metrics of one kind
with their values and computes them for many resamples at once, from how often each image was drawn.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from . import metrics
from .metrics.calibration import width_bins
from .runtime import derive_rng

RESAMPLES = 1000
COVERAGE = 0.95
BLOCK = 2**20  # values of a block of resamples

Values = dict[str, np.ndarray]


class Statistic(Protocol):
    """Metrics of N samples. `resampled` maps counts (R, N) float64, how often each sample was drawn, to the metrics of
    each resample, (R,) by name."""

    values: dict[str, float]

    def resampled(self, counts: np.ndarray) -> Values: ...


class Spread(NamedTuple):
    """What the resamples say about each metric that is defined.

    Args:
        standard_errors: Metric -> standard error.
        intervals: Metric -> (low, high), 95 %.
    """

    standard_errors: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def spread(
    statistics: Sequence[Statistic],
    ids: Sequence[str] | np.ndarray,
    strata: np.ndarray | None = None,
    resamples: int = RESAMPLES,
) -> Spread:
    """Standard errors and 95 % intervals of all metrics.

    The standard error of a mean is the closed form that the bootstrap converges to. Intervals are the percentiles of
    the resamples, moved so that the resamples' mean is the value itself: drawing images twice adds noise to the bins of
    a calibration error, which rises by it. What a metric can be cuts them when they are recorded. Raises ValueError for
    ids that are not unique.

    Args:
        statistics: The metrics as functions of how often each sample counts.
        ids: Unique ids of the N samples; they key the draws.
        strata: (N,) bool: the two sides of a detection task are drawn each by itself. None: all together.
        resamples: How many resamples are drawn.
    """
    values = {name: value for s in statistics for name, value in s.values.items() if np.isfinite(value)}
    found = (
        resample(
            lambda counts: {name: v for s in statistics for name, v in s.resampled(counts).items()},
            ids,
            strata,
            resamples,
        )
        if values
        else {}
    )
    errors = {name: standard_error(found[name]) for name in values}
    for s in statistics:
        errors |= {name: metrics.standard_error(v) for name, v in getattr(s, "samples", {}).items() if name in values}
    return Spread(errors, {name: interval(value, found[name]) for name, value in values.items()})


def resample(
    function: Callable[[np.ndarray], Values],
    ids: Sequence[str] | np.ndarray,
    strata: np.ndarray | None = None,
    resamples: int = RESAMPLES,
) -> Values:
    """A function of the counts of every resample, (resamples,) by name; see `spread`.

    Args:
        function: Counts (R, N) to values (R,) by name.
        ids: Unique ids of the N samples.
        strata: (N,) bool, drawn each by itself; None: all together.
        resamples: How many resamples are drawn.
    """
    blocks = [function(counts) for counts in draws(ids, strata, resamples)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def draws(
    ids: Sequence[str] | np.ndarray, strata: np.ndarray | None = None, resamples: int = RESAMPLES
) -> Iterator[np.ndarray]:
    """Blocks of counts (R, N) float64; each row sums to N, and to the size of each stratum within it. See `spread`.

    Args:
        ids: Unique ids of the N samples.
        strata: (N,) bool, drawn each by itself; None: all together.
        resamples: How many rows there are in all.
    """
    ids = np.asarray(ids)
    order = np.argsort(ids, kind="stable")
    if len(ids) == 0 or (ids[order][1:] == ids[order][:-1]).any():
        raise ValueError(
            f"Expected argument `ids` to be unique and not empty, but {len(ids)} ids hold {len(set(ids.tolist()))}"
            " different ones"
        )
    strata = np.zeros(len(ids), dtype=bool) if strata is None else np.asarray(strata, dtype=bool)
    sides = [(int(side), order[strata[order] == side]) for side in (False, True)]
    rows = max(1, BLOCK // len(ids))
    for start in range(0, resamples, rows):
        counts = np.zeros((min(rows, resamples - start), len(ids)))
        for number, row in enumerate(counts, start):
            for side, members in sides:
                if n := len(members):
                    row[members] = np.bincount(derive_rng("bootstrap", side, n, number).integers(0, n, n), minlength=n)
        yield counts


def standard_error(resampled: np.ndarray) -> float:
    """Standard deviation of a metric over the resamples (R,)."""
    return float(np.std(resampled, ddof=1)) if len(resampled) > 1 else float("nan")


def interval(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """95 % interval of a metric or a difference from its resamples (R,), centred as `spread` says.

    Args:
        value: The value for the samples themselves.
        resampled: Its values for the resamples, (R,).
    """
    low, high = np.quantile(resampled, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]) - (resampled.mean() - value)
    return float(low), float(high)


# ---- statistics


class Means:
    """Means of per-sample values. Values without samples are NaN.

    Args:
        samples: Metric -> its value of each sample, (N,).
        rows: (N,) bool, the samples that count; None: all.
    """

    def __init__(self, samples: Mapping[str, np.ndarray], rows: np.ndarray | None = None):
        self.rows = rows
        chosen = {
            name: np.asarray(v, dtype=np.float64)[slice(None) if rows is None else rows] for name, v in samples.items()
        }
        self.values = {name: float(v.mean()) if v.size else float("nan") for name, v in chosen.items()}
        self.samples = {name: v for name, v in chosen.items() if v.size}

    def resampled(self, counts: np.ndarray) -> Values:
        if not self.samples:
            return {}
        counts = counts if self.rows is None else counts[:, self.rows]
        # no BLAS: the same bits for any number of threads
        sums = np.einsum("rn,nk->rk", counts, np.stack(list(self.samples.values()), axis=1))
        with np.errstate(invalid="ignore"):  # NaN for a resample without any of the rows
            return dict(zip(self.samples, sums.T / counts.sum(axis=1)))


class _Groups:
    """Samples of equal value as one group, values ascending."""

    def __init__(self, values: np.ndarray):
        values = np.asarray(values, dtype=np.float64)
        self.order = np.argsort(values, kind="stable")
        self.values, self.starts = np.unique(values[self.order], return_index=True)

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """(R, N) -> (R, G)."""
        return np.add.reduceat(counts[:, self.order], self.starts, axis=1)


class Calibration:
    """RMS calibration error, skipping or including the last bin, and the expected one.

    Args:
        confidence: Of each prediction, (N,) in [0, 1].
        correct: Whether it is right, (N,).
        suffix: What the names of the metrics end in.
        bin_size: Samples of a bin.
    """

    def __init__(self, confidence: np.ndarray, correct: np.ndarray, suffix: str = "", bin_size: int = 100):
        self.correct, self.bin_size, self.suffix = np.asarray(correct, dtype=np.float64), bin_size, suffix
        self.groups = _Groups(confidence)
        self.width_bin, self.gap = width_bins(confidence, 15), confidence - self.correct
        self.values = {
            f"rms_calibration_error{suffix}": metrics.rms_calibration_error(confidence, correct, bin_size),
            f"rms_calibration_error_include{suffix}": metrics.rms_calibration_error(
                confidence, correct, bin_size, last_bin="include"
            ),
            f"ece{suffix}": metrics.expected_calibration_error(confidence, correct),
        }

    def resampled(self, counts: np.ndarray) -> Values:
        n = counts.shape[1]
        size, hits = self.groups.sums(counts), self.groups.sums(counts * self.correct)
        start = np.zeros((len(counts), 1))
        before, confidence, right = (
            np.concatenate([start, np.cumsum(v, axis=1)], axis=1) for v in (size, size * self.groups.values, hits)
        )
        edges = np.arange(max(1, n // self.bin_size) + 1) * self.bin_size
        edges[-1] = n
        # the group that an edge cuts; after the last one at N
        at = np.stack([np.searchsorted(row, edges, side="right") - 1 for row in before])
        cut = edges - np.take_along_axis(before, at, axis=1)
        share = np.concatenate([hits / np.maximum(size, 1), start], axis=1)
        confidence = np.take_along_axis(confidence, at, axis=1) + cut * np.append(self.groups.values, 0.0)[at]
        right = np.take_along_axis(right, at, axis=1) + cut * np.take_along_axis(share, at, axis=1)
        terms = np.diff(confidence - right, axis=1) ** 2 / np.diff(edges) / n
        by_width = np.zeros((n, 15))
        by_width[np.arange(n), self.width_bin] = self.gap
        rms = (
            np.sqrt(terms[:, :-1].sum(axis=1)),
            np.sqrt(terms.sum(axis=1)),
            np.abs(np.einsum("rn,nb->rb", counts, by_width)).sum(axis=1) / n,
        )
        return dict(zip(self.values, rms))


class Aurra:
    """AURRA from a score of confidence.

    Args:
        name: Name of the metric.
        score: The higher, the more confident, (N,).
        correct: Whether the prediction is right, (N,).
    """

    def __init__(self, name: str, score: np.ndarray, correct: np.ndarray):
        self.name, self.correct, self.groups = name, np.asarray(correct, dtype=np.float64), _Groups(score)
        self.values = {name: metrics.aurra(score, correct)}
        self.harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(self.correct) + 1))])

    def resampled(self, counts: np.ndarray) -> Values:
        size, hits = (self.groups.sums(v)[:, ::-1] for v in (counts, counts * self.correct))  # most confident first
        before, hits_before = np.cumsum(size, axis=1) - size, np.cumsum(hits, axis=1) - hits
        share = hits / np.maximum(size, 1)
        # sum over the j-th of a group's s samples of (hits_before + j share) / (before + j)
        inverse = self.harmonic[(before + size).astype(np.int64)] - self.harmonic[before.astype(np.int64)]
        return {self.name: (hits + (hits_before - before * share) * inverse).sum(axis=1) / counts.shape[1]}


class Detection:
    """AUPR, AUROC and FPR95 (two conventions) of finding out-of-distribution samples.

    Args:
        score: The higher, the more out-of-distribution, (N,).
        ood: Which samples are, (N,) bool.
        suffix: What the names of the metrics end in.
        only: Which of the metrics are wanted.
    """

    def __init__(
        self,
        score: np.ndarray,
        ood: np.ndarray,
        suffix: str = "",
        only: Sequence[str] = ("aupr", "auroc", "fpr95", "fpr95_hendrycks"),
    ):
        self.ood, self.groups = np.asarray(ood, dtype=bool), _Groups(score)
        sides = score[self.ood], score[~self.ood]
        values = {
            "aupr": metrics.aupr(*sides),
            "auroc": metrics.auroc(*sides),
            "fpr95": metrics.fpr95(*sides),
            "fpr95_hendrycks": metrics.fpr95(*sides, convention="nearest"),
        }
        self.names = {name: f"{name}{suffix}" for name in only}
        self.values = {named: values[name] for name, named in self.names.items()}

    def resampled(self, counts: np.ndarray) -> Values:
        # highest score first
        hits, false = (self.groups.sums(counts * side)[:, ::-1] for side in (self.ood, ~self.ood))
        tp, fp = np.cumsum(hits, axis=1), np.cumsum(false, axis=1)
        p, n = tp[:, -1:], fp[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):  # a side without samples is NaN
            aupr = (hits / p * tp / np.maximum(tp + fp, 1)).sum(axis=1)
            auroc = ((2 * tp - hits) * false).sum(axis=1) / (2 * p * n)[:, 0]
            first = np.argmax(100 * tp >= 95 * p, axis=1)
            distance = np.abs(tp / p - 0.95)
            distance[np.cumsum(tp == p, axis=1) > 1] = np.inf  # beyond the first of recall 1
            nearest = tp.shape[1] - 1 - np.argmin(distance[:, ::-1], axis=1)  # of equal distances the lowest threshold
            rates = fp / n
        rows = np.arange(len(counts))
        found = {"aupr": aupr, "auroc": auroc, "fpr95": rates[rows, first], "fpr95_hendrycks": rates[rows, nearest]}
        return {named: found[name] for name, named in self.names.items()}
