"""Numbers from features, beside brute force and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from evalkit.downstream.probes import Features, Linear, centroids, drawn, neighbours
from evalkit.errors import EvalkitError


def clouds(count, classes=4, dims=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    means = np.random.default_rng(99).normal(size=(classes, dims))
    values = (means[labels] + 0.8 * rng.normal(size=(count, dims))).astype(np.float32)
    return Features([f"{seed}-{i:04d}" for i in range(count)], labels.astype(np.int64), values)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_neighbours_are_those_of_a_loop_over_all_pairs(temperature):
    train, test = clouds(70), clouds(600, seed=1)  # three chunks
    found = neighbours(train, test.values, [5, 1, 70], temperature, 5)
    for i in (0, 1, 255, 256, 599):
        near = []
        for j in range(len(train.ids)):
            a, b = (v.astype(float).tolist() for v in (test.values[i], train.values[j]))
            dot = sum(x * y for x, y in zip(a, b))
            near.append((dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b)), train.labels[j]))
        near.sort(key=lambda pair: -pair[0])
        for k in (1, 5, 70):
            votes = [0.0] * 5
            for cosine, label in near[:k]:
                votes[label] += math.exp(cosine / temperature)
            assert found[k][i] == pytest.approx(np.array(votes) / sum(votes), abs=1e-12)
    assert all(scores[:, 4].max() == 0 for scores in found.values())


def test_a_tie_goes_to_the_image_that_comes_first():
    same = Features(["a", "b", "c"], np.array([1, 0, 0]), np.ones((3, 2), np.float32))
    assert neighbours(same, np.ones((1, 2), np.float32), [1], 0.07, 2)[1].tolist() == [[0.0, 1.0]]
    assert np.isfinite(neighbours(same, np.zeros((1, 2), np.float32), [3], 0.001, 2)[3]).all()


def test_regression_is_scikit_learns_on_standardised_features():
    train, test = clouds(120), clouds(50, seed=1)
    train.values[:, 2] = 3.0  # a feature that says nothing
    fitted = Linear(train, 0.5, 1000)
    other = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000)).fit(
        train.values.astype(float), train.labels
    )
    assert fitted.scores(test.values, 4) == pytest.approx(other.predict_proba(test.values.astype(float)), abs=1e-6)
    assert fitted.converged and not Linear(train, 100.0, 1).converged
    some = train[train.labels != 1]
    assert (Linear(some, 1.0, 100).scores(test.values, 4)[:, 1] == 0).all()


def test_centroids_are_scikit_learns():
    train, test = clouds(80), clouds(60, seed=1)
    other = NearestCentroid().fit(normalize(train.values.astype(float)), train.labels)
    found = centroids(train, test.values, 5)
    assert (found.argmax(1) == other.predict(normalize(test.values.astype(float)))).all()
    assert (found[:, 4] == -5).all() and found[:, :4].min() >= -4


def test_few_images_are_drawn_by_class_nested_and_whatever_the_order():
    train, names = clouds(90), ["a", "b", "c", "d"]
    one, three = (list(drawn(train, shots, 7, 4, names)) for shots in (1, 3))
    for few, more in zip(one, three):
        assert sorted(few.labels) == [0, 1, 2, 3] and sorted(more.labels) == sorted([0, 1, 2, 3] * 3)
        assert set(few.ids) < set(more.ids)
    assert len({tuple(sorted(few.ids)) for few in three}) == 4
    turned = train[np.random.default_rng(3).permutation(90)]
    assert [f.ids for f in drawn(turned, 3, 7, 4, names)] == [f.ids for f in three]
    assert [f.ids for f in drawn(train, 3, 8, 4, names)] != [f.ids for f in three]
    with pytest.raises(EvalkitError, match="has .* training images; give shots of at most that"):
        list(drawn(train, 60, 0, 1, names))
