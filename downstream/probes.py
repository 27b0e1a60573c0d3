"""Classes from features: logistic regression, weighted nearest neighbours, class means. Functions of arrays alone."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng

CHUNK = 256  # images whose neighbours are looked for at a time
STRENGTH = 1.0  # inverse penalty of few-shot regression


@dataclass(frozen=True)
class Features:
    """What a network makes of some images.

    Args:
        ids: Of the N images.
        labels: (N,) int64.
        values: (N, D) float32.
    """

    ids: list[str]
    labels: np.ndarray
    values: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Features":
        chosen = np.arange(len(self.ids))[rows]
        return Features([self.ids[i] for i in chosen], self.labels[chosen], self.values[chosen])


class Linear:
    """Multinomial logistic regression with an L2 penalty by scikit-learn's lbfgs, features standardised by the images
    that it is fitted to. `converged` tells whether the solver came to its end.

    Args:
        train: What it is fitted to.
        strength: scikit-learn's C, the inverse of the penalty's strength.
        iterations: Most iterations of the solver.
    """

    def __init__(self, train: Features, strength: float, iterations: int):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        values = train.values.astype(np.float64)
        self.mean, spread = values.mean(0), values.std(0)
        self.spread = np.where(spread > 0, spread, 1.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.model: Any = LogisticRegression(C=strength, max_iter=iterations).fit(
                self._scaled(values), train.labels
            )
        self.converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)

    def scores(self, values: np.ndarray, classes: int) -> np.ndarray:
        """(N, classes) float64 probabilities; 0 for a class that no training image was of.

        Args:
            values: Features, (N, D).
            classes: How many there are.
        """
        found = np.zeros((len(values), classes))
        found[:, self.model.classes_] = self.model.predict_proba(self._scaled(values.astype(np.float64)))
        return found

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return (values - self.mean) / self.spread


def unit(values: np.ndarray) -> np.ndarray:
    """Features (N, D) as float64 of length 1; zeros stay zeros."""
    values = values.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1.0)


def neighbours(
    train: Features, values: np.ndarray, counts: Sequence[int], temperature: float, classes: int
) -> dict[int, np.ndarray]:
    """k -> (N, classes) float64, the share of the weight of an image's k nearest training images by cosine, each of
    weight exp(cosine / temperature). Source: Caron et al. (DINO), arXiv 2104.14294, appendix F; Wu et al., arXiv
    1805.01978, section 3.4.

    Args:
        train: The training images.
        values: Features of the images that are classified, (N, D).
        counts: The ks, none above the number of training images.
        temperature: Of the weights.
        classes: How many there are.
    """
    own, others = unit(train.values), unit(values)
    found = {k: np.zeros((len(others), classes)) for k in counts}
    most = max(counts)
    for start in range(0, len(others), CHUNK):
        cosine = others[start : start + CHUNK] @ own.T
        nearest = np.argpartition(-cosine, most - 1, axis=1)[:, :most]
        nearest.sort(axis=1)  # of equal cosines the one that comes first
        near = np.take_along_axis(cosine, nearest, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        near, labels = np.take_along_axis(near, order, axis=1), train.labels[np.take_along_axis(nearest, order, axis=1)]
        weight = np.exp((near - near[:, :1]) / temperature)  # relative to the nearest, which never overflows
        for k, scores in found.items():
            rows = np.repeat(np.arange(len(near)), k)
            np.add.at(scores[start : start + CHUNK], (rows, labels[:, :k].ravel()), weight[:, :k].ravel())
    return {k: scores / scores.sum(1, keepdims=True) for k, scores in found.items()}


def centroids(train: Features, values: np.ndarray, classes: int) -> np.ndarray:
    """(N, classes) float64: minus the squared distance to the mean of each class, all features of length 1; -5,
    farther than any, for a class without an image. Source: Wang et al. (SimpleShot), arXiv 1911.04623, section 3.

    Args:
        train: The images of each class.
        values: Features of the images that are classified, (N, D).
        classes: How many there are.
    """
    own, others = unit(train.values), unit(values)
    found = np.full((len(others), classes), -5.0)
    for label in np.unique(train.labels):
        mean = own[train.labels == label].mean(0)
        found[:, label] = -np.square(others - mean).sum(1)
    return found


def drawn(train: Features, shots: int, seed: int, draws: int, names: Sequence[str]) -> Iterator[Features]:
    """`shots` images of each class, `draws` times; those of fewer shots are among those of more, and none depends on
    the order of the images.

    Args:
        train: The training images.
        shots: Images of each class.
        seed: Of the draws.
        draws: How many times.
        names: Of the classes.

    Raises EvalkitError for a class that has fewer.
    """
    order = np.array(sorted(range(len(train.ids)), key=train.ids.__getitem__))
    members = {int(label): order[train.labels[order] == label] for label in np.unique(train.labels)}
    for label, rows in members.items():
        if len(rows) < shots:
            raise EvalkitError(
                f"shots={shots}, but class '{names[label]}' has {len(rows)} training images; give shots of at most that"
            )
    for draw in range(draws):
        chosen = [
            derive_rng("fewshot", seed, draw, names[label]).permutation(rows)[:shots] for label, rows in members.items()
        ]
        yield train[np.concatenate(chosen)]
