"""Scores of confidence, proper scores, expected calibration error and temperature, against scipy, scikit-learn and slow
definitions."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss

from evalkit import metrics


def logits(n=200, k=7, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) * scale, rng.integers(0, k, n)


def test_scores_equal_scipy():
    z, _ = logits()
    expected = {
        "msp": np.log(softmax(z, axis=1).max(axis=1)),
        "max_logit": z.max(axis=1),
        "energy": logsumexp(z, axis=1),
        "entropy": -entropy(softmax(z, axis=1), axis=1),
    }
    assert set(metrics.SCORES) == set(expected)
    for name, score in metrics.SCORES.items():
        np.testing.assert_allclose(score(z), expected[name], rtol=1e-10, atol=1e-13)
        assert (np.argsort(score(np.array([[5.0, 0, 0], [1.0, 0, 0]]))) == [1, 0]).all()  # higher is more confident


def test_scores_keep_ranking_where_probabilities_round_to_one():
    z = np.array([[float(gap), 0.0] for gap in (40, 60, 300, 700)])
    for score in metrics.SCORES.values():
        assert (np.diff(score(z)) > 0).all()
    np.testing.assert_allclose(
        metrics.negative_entropy(z), [-(1 + gap) * math.exp(-gap) for gap in (40, 60, 300, 700)], rtol=1e-12
    )


def test_brier_equals_scikit_learn_for_two_classes_and_the_definition_for_more():
    z, y = logits(k=2)
    assert metrics.sample_brier(z, y).mean() == pytest.approx(
        2 * brier_score_loss(y, softmax(z, axis=1)[:, 1]), abs=1e-12
    )
    z, y = logits()
    np.testing.assert_allclose(
        metrics.sample_brier(z, y), ((softmax(z, axis=1) - np.eye(7)[y]) ** 2).sum(axis=1), atol=1e-14
    )
    np.testing.assert_allclose(metrics.sample_nll(z, y), -np.log(softmax(z, axis=1)[np.arange(200), y]), atol=1e-12)


def test_expected_calibration_error_equals_a_loop_over_its_bins():
    rng = np.random.default_rng(1)
    for case in range(200):
        n, bins = int(rng.integers(1, 50)), int(rng.integers(1, 16))
        confidence, correct = rng.random(n), rng.random(n) < 0.5
        if case % 2:
            confidence = np.round(confidence * bins) / bins  # on the edges, both ends among them
        expected = 0.0
        for b in range(bins):
            inside = [
                i for i in range(n) if b / bins < confidence[i] <= (b + 1) / bins or (b == 0 and confidence[i] == 0)
            ]
            if inside:
                expected += len(inside) / n * abs(np.mean(confidence[inside]) - np.mean(correct[inside]))
        assert metrics.expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(metrics.expected_calibration_error([], []))
    assert metrics.expected_calibration_error([1.0, 1.0], [1, 1]) == 0.0  # certainty has a bin


def test_expected_calibration_error_refuses_what_is_no_confidence():
    with pytest.raises(ValueError, match=r"`confidence` to lie in 0\.\.1, but got 0.5..1.2"):
        metrics.expected_calibration_error([0.5, 1.2], [1, 1])
    with pytest.raises(ValueError, match="`n_bins` to be an integer larger than 0, but got 0"):
        metrics.expected_calibration_error([0.5], [1], 0)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_that_the_labels_were_drawn_with(true):
    rng = np.random.default_rng(2)
    z, _ = logits(6000, 5)
    y = (rng.random((6000, 1)) > np.cumsum(softmax(z / true, axis=1), axis=1)).sum(axis=1).clip(max=4)
    found = metrics.fit_temperature(z, y)
    assert found == pytest.approx(true, rel=0.06)
    grid = np.exp(np.linspace(-1, 1, 41)) * found
    assert (
        metrics.negative_log_likelihood(z / found, y)
        <= min(metrics.negative_log_likelihood(z / t, y) for t in grid) + 1e-9
    )


def test_the_temperature_of_labels_that_fit_or_contradict_perfectly_is_as_extreme_as_the_likelihood_can_tell():
    z = np.eye(3) * 5
    assert metrics.fit_temperature(z, np.arange(3)) < 0.1 and metrics.fit_temperature(-z, np.arange(3)) > 95
    assert math.isnan(metrics.fit_temperature(np.zeros((0, 3)), np.zeros(0, int)))
