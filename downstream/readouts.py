"""How the features of a network become the classes of another set: a linear probe, nearest neighbours, a few images of
each class."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit import metrics
from evalkit.errors import EvalkitError

from .about.cls import ClsConfig
from .probes import STRENGTH, Features, Linear, centroids, drawn, neighbours


@dataclass(frozen=True)
class Probed:
    """What a mode measured.

    Args:
        right: Metric -> whether each image is right, or how often over draws, (N,) in [0, 1]; top1 among them.
        predicted: Class of each image, by the metric of the table, (N,).
        more: Metrics that are no means over images.
        series: One row per strength, k or number of shots.
        notes: What a reader of the numbers should know, one sentence each.
    """

    right: dict[str, np.ndarray]
    predicted: np.ndarray
    more: dict[str, float] = field(default_factory=dict)
    series: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def linear(cfg: ClsConfig, train: Features, test: Features, held: set[str], names: list[str]) -> Probed:
    """A linear probe: the strength that is best on the held-out training images (of equals the strongest penalty), then
    fitted to all of them.

    Args:
        cfg: The keys.
        train: The training images.
        test: Those that are measured on.
        held: Ids of the training images that choose.
        names: Of the classes.
    """
    chooses = np.array([sample in held for sample in train.ids])
    series: list[dict[str, Any]] = []
    notes = []
    for strength in sorted(cfg.sweep):
        fitted = Linear(train[~chooses], strength, cfg.iterations)
        right = metrics.top_k_correct(fitted.scores(train[chooses].values, len(names)), train[chooses].labels, 1)
        series.append({"mode": "sweep", "level": strength, "top1": float(right.mean())})
        if not fitted.converged:
            notes.append(f"C={strength:g}: lbfgs stopped after {cfg.iterations} iterations, before its end")
    best = float(max(series, key=lambda row: row["top1"])["level"])
    notes.insert(0, f"C={best:g} of {len(series)} is the best on {chooses.sum():,} training images held out")
    if len(series) > 1 and best in (series[0]["level"], series[-1]["level"]):
        notes.append(f"C={best:g} is at the edge of the sweep; a wider one may find a better one")
    fitted = Linear(train, best, cfg.iterations)
    if not fitted.converged:
        notes.append(f"the final fit: lbfgs stopped after {cfg.iterations} iterations, before its end")
    scores = fitted.scores(test.values, len(names))
    right = {"top1": metrics.top_k_correct(scores, test.labels, 1)}
    if len(names) > 5:
        right["top5"] = metrics.top_k_correct(scores, test.labels, 5)
    return Probed(right, scores.argmax(1), {"c": best}, series, notes)


def knn(cfg: ClsConfig, train: Features, test: Features, held: set[str], names: list[str]) -> Probed:
    """DINO's weighted nearest neighbours, for each k.

    Args:
        cfg: The keys.
        train: The training images.
        test: Those that are measured on.
        held: Not used: nothing is chosen.
        names: Of the classes.
    """
    counts = [k for k in cfg.k if k <= len(train.ids)]
    if not counts:
        raise EvalkitError(f"k={cfg.k} are all more than the {len(train.ids)} training images; give smaller ones")
    notes = [f"k={k} is more than the {len(train.ids)} training images and left out" for k in cfg.k if k not in counts]
    found = neighbours(train, test.values, counts, cfg.temperature, len(names))
    by = {k: metrics.top_k_correct(scores, test.labels, 1) for k, scores in found.items()}
    series = [{"mode": "knn", "level": k, "top1": float(by[k].mean())} for k in sorted(by)]
    notes.append(f"top1 is that of k={counts[0]}")
    right = {"top1": by[counts[0]], **{f"top1_k{k}": values for k, values in by.items()}}
    return Probed(right, found[counts[0]].argmax(1), {}, series, notes)


def fewshot(cfg: ClsConfig, train: Features, test: Features, held: set[str], names: list[str]) -> Probed:
    """A few images of each class, drawn again and again: means over the draws.

    Args:
        cfg: The keys.
        train: The training images that are drawn from.
        test: Those that are measured on.
        held: Not used: nothing is chosen.
        names: Of the classes.
    """
    right: dict[str, np.ndarray] = {}
    more: dict[str, float] = {}
    series: list[dict[str, Any]] = []
    notes: list[str] = []
    stopped = 0
    votes = np.zeros((len(test.ids), len(names)))
    for shots in sorted(cfg.shots):
        draws = []
        votes[:] = 0
        for few in drawn(train, shots, cfg.seed, cfg.draws, names):
            if cfg.head == "centroid":
                scores = centroids(few, test.values, len(names))
            else:
                fitted = Linear(few, STRENGTH, cfg.iterations)
                stopped += not fitted.converged
                scores = fitted.scores(test.values, len(names))
            draws.append(metrics.top_k_correct(scores, test.labels, 1))
            votes[np.arange(len(votes)), scores.argmax(1)] += 1
        right[f"top1_shots{shots}"] = np.mean(draws, axis=0)
        means = [float(d.mean()) for d in draws]
        if cfg.draws > 1:
            more[f"sd_shots{shots}"] = float(np.std(means, ddof=1))
        series += [{"mode": f"{shots}-shot", "level": i, "top1": value} for i, value in enumerate(means)]
    right["top1"] = right[f"top1_shots{max(cfg.shots)}"]
    if stopped:
        notes.append(f"lbfgs stopped after {cfg.iterations} iterations, before its end, in {stopped} fits")
    notes.append(f"means over {cfg.draws} draws of training images; top1 is that of {max(cfg.shots)} of a class")
    notes.append(
        "standard errors are over images, sd_* over draws; a class in the predictions is the one most draws say"
    )
    return Probed(right, votes.argmax(1), more, series, notes)


MEASURE = {"linear": linear, "knn": knn, "fewshot": fewshot}
