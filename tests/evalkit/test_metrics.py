"""Metrics against hand examples, scikit-learn, brute force over orders, and slow definitions written out here."""

import doctest
import inspect
import itertools
import math
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evalkit import metrics

CONFIDENCE = [0.9, 0.2, 0.6, 0.4, 0.8, 0.3, 0.7]
CORRECT = [1, 0, 1, 1, 0, 0, 1]


def test_doctests():
    modules = [
        sys.modules[f"evalkit.metrics.{name}"]
        for name in ("calibration", "classification", "detection", "selective", "temperature")
    ]
    result = [doctest.testmod(module) for module in modules]
    assert sum(r.attempted for r in result) >= 20 and sum(r.failed for r in result) == 0


# ---- slow definitions


def slow_rms(confidence, correct, bin_size, last_bin):
    """Bins walked one sample at a time; equal confidences share their mean correctness."""
    share = [np.mean([c for other, c in zip(confidence, correct) if other == conf]) for conf in confidence]
    pairs = sorted(zip(confidence, share))
    bins, full = [], len(pairs) // bin_size
    for i, pair in enumerate(pairs):
        number = min(i // bin_size, max(full - 1, 0))
        if number == len(bins):
            bins.append([])
        bins[number].append(pair)
    used = bins[:-1] if last_bin == "skip" else bins
    if not used:
        return math.nan
    return math.sqrt(
        sum(len(b) / len(pairs) * (sum(p[0] for p in b) / len(b) - sum(p[1] for p in b) / len(b)) ** 2 for b in used)
    )


def slow_aurra_of_order(correct):
    return np.mean([np.mean(correct[: k + 1]) for k in range(len(correct))])


def slow_rates(ood, ind):
    """(threshold, true positive count, false positive count) with thresholds descending."""
    return [(t, sum(s >= t for s in ood), sum(s >= t for s in ind)) for t in sorted({*ood, *ind}, reverse=True)]


def slow_fpr95(ood, ind, convention):
    rates = slow_rates(ood, ind)
    if convention == "first":
        return next(fp for _, tp, fp in rates if 100 * tp >= 95 * len(ood)) / len(ind)
    first_full = next(i for i, (_, tp, _) in enumerate(rates) if tp == len(ood))
    best = min(range(first_full + 1), key=lambda i: (abs(rates[i][1] / len(ood) - 0.95), -i))
    return rates[best][2] / len(ind)


def random_cases(count, seed=0):
    """(values, flags): every other case has many equal values."""
    rng = np.random.default_rng(seed)
    for case in range(count):
        n = int(rng.integers(2, 60))
        values = rng.random(n)
        yield np.round(values, 1) if case % 2 else values, rng.random(n) < rng.uniform(0.1, 0.9)


# ---- calibration


def test_rms_hand_example():
    """Bins {.2,.3 | 0,0}, {.4,.6 | 1,1}, {.7,.8,.9 | 1,0,1}."""
    rms = metrics.rms_calibration_error
    assert rms(CONFIDENCE, CORRECT, 2) == pytest.approx(math.sqrt(2 / 7 * 0.0625 + 2 / 7 * 0.25), abs=1e-15)
    assert rms(CONFIDENCE, CORRECT, 2, last_bin="include") == pytest.approx(
        math.sqrt(0.0625 * 2 / 7 + 0.25 * 2 / 7 + 3 / 7 * (2 / 15) ** 2), abs=1e-15
    )
    for correct, skip, include in (([1] * 7, 0.481812, 0.499285), ([0] * 7, 0.298807, 0.602969)):
        assert round(rms(CONFIDENCE, correct, 2), 6) == skip
        assert round(rms(CONFIDENCE, correct, 2, last_bin="include"), 6) == include
    bins = metrics.reliability_bins(CONFIDENCE, CORRECT, 2)
    assert bins.count.tolist() == [2, 2, 3]
    np.testing.assert_allclose(bins.confidence, [0.25, 0.5, 0.8], atol=1e-15)
    np.testing.assert_allclose(bins.accuracy, [0, 1, 2 / 3], atol=1e-15)


@pytest.mark.parametrize(
    ("n", "skip_is_nan", "include_is_nan"),
    [
        (0, True, True),
        (1, True, False),
        (99, True, False),
        (100, True, False),
        (199, True, False),
        (200, False, False),
        (250, False, False),
    ],
)
def test_rms_of_few_samples(n, skip_is_nan, include_is_nan):
    rng = np.random.default_rng(n)
    confidence, correct = rng.random(n), rng.random(n) < 0.5
    assert math.isnan(metrics.rms_calibration_error(confidence, correct)) == skip_is_nan
    assert math.isnan(metrics.rms_calibration_error(confidence, correct, last_bin="include")) == include_is_nan
    if 0 < n < 200:  # one bin of everything
        assert metrics.rms_calibration_error(confidence, correct, last_bin="include") == pytest.approx(
            abs(confidence.mean() - correct.mean()), abs=1e-12
        )


def test_rms_of_imagenet_a_size_has_75_bins_and_keeps_n_in_the_denominator():
    rng = np.random.default_rng(5)
    confidence, correct = rng.random(7500), rng.random(7500) < 0.2
    assert metrics.reliability_bins(confidence, correct).count.tolist() == [100] * 75
    order = np.argsort(confidence)
    gaps = [confidence[b].mean() - correct[b].mean() for b in order.reshape(75, 100)]
    assert metrics.rms_calibration_error(confidence, correct) == pytest.approx(
        math.sqrt(sum(g * g for g in gaps[:-1]) / 75), abs=1e-12
    )
    assert metrics.rms_calibration_error(confidence, correct, last_bin="include") == pytest.approx(
        math.sqrt(sum(g * g for g in gaps) / 75), abs=1e-12
    )


def test_rms_equals_the_slow_definition():
    for i, (confidence, correct) in enumerate(random_cases(400)):
        for last_bin in ("skip", "include"):
            bin_size = 1 + i % 7
            expected = slow_rms(confidence, correct, bin_size, last_bin)
            assert metrics.rms_calibration_error(confidence, correct, bin_size, last_bin) == pytest.approx(
                expected, abs=1e-12, nan_ok=True
            )


def test_rms_ties_by_index_keep_the_given_order():
    confidence = [0.5, 0.5, 0.5, 0.5]
    assert metrics.rms_calibration_error(confidence, [1, 1, 0, 0], 2, "include", ties="index") == 0.5
    assert metrics.rms_calibration_error(confidence, [1, 0, 1, 0], 2, "include", ties="index") == 0.0
    assert metrics.rms_calibration_error(confidence, [1, 1, 0, 0], 2, "include") == 0.0


# ---- selective prediction


def test_aurra_hand_examples():
    assert metrics.aurra(CONFIDENCE, CORRECT) == pytest.approx(
        np.mean([1, 1 / 2, 2 / 3, 3 / 4, 4 / 5, 4 / 6, 4 / 7]), abs=1e-15
    )
    assert metrics.aurra([0.9, 0.5, 0.5, 0.5, 0.1], [1, 0, 0, 1, 1]) == pytest.approx(
        np.mean([0.753333333333, 0.653333333333, 0.586666666667]), abs=1e-12
    )
    assert metrics.aurra(CONFIDENCE, [1] * 7) == 1.0 and metrics.aurra(CONFIDENCE, [0] * 7) == 0.0
    assert metrics.aurra([0.3], [True]) == 1.0 and metrics.aurra([0.3], [False]) == 0.0
    assert math.isnan(metrics.aurra([], []))


def test_aurra_is_the_mean_over_every_order_of_ties():
    rng = np.random.default_rng(1)
    for _ in range(60):
        n = int(rng.integers(1, 7))
        confidence, correct = rng.integers(0, 3, n) / 4, rng.random(n) < 0.5
        orders = [
            p
            for p in itertools.permutations(range(n))
            if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(p))
        ]
        assert metrics.aurra(confidence, correct) == pytest.approx(
            np.mean([slow_aurra_of_order(correct[list(p)]) for p in orders]), abs=1e-12
        )


def test_aurra_and_risk_coverage_agree():
    for confidence, correct in random_cases(50, seed=3):
        curve = metrics.risk_coverage(confidence, correct)
        assert curve.coverage[-1] == 1.0 and curve.risk[-1] == pytest.approx(1 - correct.mean(), abs=1e-12)
        assert 1 - curve.risk.mean() == pytest.approx(metrics.aurra(confidence, correct), abs=1e-12)


def test_aurra_from_the_trapezoid_of_selective_classification_libraries():
    """AURRA = 1 - ((N-1) AURC + (r_1 + r_N)/2) / N, with AURC the trapezoid of the error normalised by N-1."""
    risk = metrics.risk_coverage(CONFIDENCE, CORRECT).risk
    aurc = np.trapezoid(risk) / (len(risk) - 1)
    assert round(aurc, 6) == 0.305159
    assert 1 - ((len(risk) - 1) * aurc + (risk[0] + risk[-1]) / 2) / len(risk) == pytest.approx(
        metrics.aurra(CONFIDENCE, CORRECT), abs=1e-12
    )


def test_the_order_of_the_samples_changes_no_bit():
    rng = np.random.default_rng(2)
    for confidence, correct in random_cases(50, seed=4):
        p = rng.permutation(len(confidence))
        for metric in (
            metrics.aurra,
            lambda c, k: metrics.rms_calibration_error(c, k, 5),
            lambda c, k: metrics.rms_calibration_error(c, k, 5, "include"),
        ):
            np.testing.assert_array_equal(metric(confidence, correct), metric(confidence[p], correct[p]))
        if correct.any() and not correct.all():
            for metric in (metrics.aupr, metrics.auroc, metrics.fpr95):
                assert metric(confidence[correct], confidence[~correct]) == metric(
                    confidence[p][correct[p]], confidence[p][~correct[p]]
                )


# ---- out-of-distribution detection


@pytest.mark.parametrize(
    ("ood", "ind", "aupr", "auroc", "first", "nearest"),
    [
        ([-0.3, -0.5, -0.7, -0.9], [-0.4, -0.6, -0.8, -0.95, -0.99], (1 + 2 / 3 + 3 / 5 + 4 / 7) / 4, 0.7, 0.6, 0.6),
        ([-0.5, -0.5, -0.9], [-0.5, -0.7, -0.9, -0.9], 2 / 3 * 2 / 3 + 1 / 3 * 3 / 7, 2 / 3, 1.0, 1.0),
        ([-0.5, -0.5], [-0.5, -0.5, -0.5], 0.4, 0.5, 1.0, 1.0),
        ([-i / 100 for i in range(1, 21)], [-0.185, -0.195, -0.5, -0.6], None, None, 0.25, 0.5),
    ],
)
def test_ood_hand_examples(ood, ind, aupr, auroc, first, nearest):
    if aupr is not None:
        assert metrics.aupr(ood, ind) == pytest.approx(aupr, abs=1e-15)
        assert metrics.auroc(ood, ind) == pytest.approx(auroc, abs=1e-15)
    assert metrics.fpr95(ood, ind) == first
    assert metrics.fpr95(ood, ind, convention="nearest") == nearest


def test_ood_metrics_equal_scikit_learn_and_the_slow_definition():
    cases = 0
    for scores, is_ood in random_cases(450, seed=7):
        if is_ood.all() or not is_ood.any():
            continue
        cases += 1
        ood, ind = scores[is_ood], scores[~is_ood]
        assert metrics.aupr(ood, ind) == pytest.approx(average_precision_score(is_ood, scores), abs=1e-12)
        assert metrics.auroc(ood, ind) == pytest.approx(roc_auc_score(is_ood, scores), abs=1e-12)
        for convention in ("first", "nearest"):
            assert metrics.fpr95(ood, ind, convention) == slow_fpr95(ood, ind, convention)
        curve = metrics.precision_recall(ood, ind)
        expected = [(tp / (tp + fp), tp / len(ood)) for _, tp, fp in slow_rates(ood, ind)]
        np.testing.assert_allclose(np.stack([curve.precision, curve.recall], axis=1), expected, atol=1e-15)
    assert cases >= 400


def test_ten_positives_pick_recall_nine_tenths_by_rounding():
    """|0.9 - 0.95| < |1.0 - 0.95| in float64, as in the official code."""
    ood, ind = [-i / 100 for i in range(1, 11)], [-0.10, -0.5]
    assert metrics.fpr95(ood, ind, "nearest") == 0.0
    assert metrics.fpr95(ood, ind, "first") == 0.5


def test_chance_is_the_share_of_the_ood_side():
    assert metrics.aupr(np.zeros(2000), np.zeros(10000)) == pytest.approx(1 / 6, abs=1e-15)


@pytest.mark.parametrize(
    "metric", [metrics.aupr, metrics.auroc, metrics.fpr95, lambda a, b: metrics.fpr95(a, b, "nearest")]
)
def test_an_empty_side_is_undefined(metric):
    assert math.isnan(metric([], [1.0])) and math.isnan(metric([1.0], [])) and math.isnan(metric([], []))


# ---- from logits


def test_confidence_by_hand_and_restriction_before_softmax():
    z = np.array([[2.0, 3.0, 1.0]])
    # .7311, not the .2447 of a softmax over all three
    assert metrics.confidence(z[:, [0, 2]])[0] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-15)
    assert math.exp(2) / sum(math.exp(v) for v in (2, 3, 1)) == pytest.approx(0.2447, abs=5e-5)


def test_log_confidence_does_not_saturate():
    z = np.array([[float(gap), 0.0, 0.0] for gap in (40, 60, 300, 700)])
    assert (metrics.confidence(z) == 1.0).all()
    assert (np.diff(metrics.log_confidence(z)) > 0).all()
    np.testing.assert_allclose(
        metrics.log_confidence(z), [-2 * math.exp(-gap) for gap in (40, 60, 300, 700)], rtol=1e-12
    )


def test_log_confidence_does_not_overflow_and_equals_softmax():
    z = np.random.default_rng(0).normal(size=(50, 7)) * 5
    expected = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(metrics.confidence(z), expected, rtol=1e-13)
    np.testing.assert_allclose(metrics.confidence(z + 1e5), expected, rtol=1e-9)


def test_top_k_equals_a_stable_sort():
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 4, (300, 7)).astype(float), rng.integers(0, 7, 300)
    order = np.argsort(-logits, axis=1, kind="stable")
    for k in (1, 3, 5, 7):
        np.testing.assert_array_equal(
            metrics.top_k_correct(logits, labels, k), (order[:, :k] == labels[:, None]).any(axis=1)
        )
    np.testing.assert_array_equal(metrics.top_k_correct(logits, labels, 1), logits.argmax(axis=1) == labels)
    assert metrics.top_k_accuracy(logits, labels, 7) == 1.0
    assert math.isnan(metrics.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, np.int64)))


def test_negative_log_likelihood_equals_the_definition():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(40, 6)), rng.integers(0, 6, 40)
    expected = -np.log(np.exp(z)[np.arange(40), y] / np.exp(z).sum(axis=1)).mean()
    assert metrics.negative_log_likelihood(z, y) == pytest.approx(expected, abs=1e-12)


def test_standard_error_is_binomial_for_top1():
    assert metrics.standard_error([1] * 30 + [0] * 70) == pytest.approx(math.sqrt(0.3 * 0.7 / 100), abs=1e-15)
    assert math.isnan(metrics.standard_error([]))


# ---- wrong input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_refused(bad):
    for metric in (metrics.rms_calibration_error, metrics.aurra, metrics.reliability_bins, metrics.risk_coverage):
        with pytest.raises(ValueError, match=r"^Expected argument `confidence` to be finite"):
            metric([0.5, bad], [1, 0])
    for metric in (metrics.aupr, metrics.auroc, metrics.fpr95, metrics.precision_recall):
        with pytest.raises(ValueError, match="`ood_scores` to be finite"):
            metric([bad], [0.1])
        with pytest.raises(ValueError, match="`id_scores` to be finite"):
            metric([0.1], [bad])
    with pytest.raises(ValueError, match="row 1 is not"):
        metrics.log_confidence([[0.0, 1.0], [bad, 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.aurra([0.1, 0.2], [1]), "same length, but got 2 and 1"),
        (lambda: metrics.aurra([[0.1]], [1]), "one-dimensional"),
        (lambda: metrics.aurra([0.1], [2]), "0 and 1"),
        (
            lambda: metrics.rms_calibration_error([0.1], [1], bin_size=0),
            "`bin_size` to be an integer larger than 0, but got 0",
        ),
        (
            lambda: metrics.rms_calibration_error([0.1], [1], bin_size=2.5),
            "`bin_size` to be an integer larger than 0, but got 2.5",
        ),
        (lambda: metrics.rms_calibration_error([0.1], [1], last_bin="drop"), "`last_bin` to be one of"),
        (lambda: metrics.rms_calibration_error([0.1], [1], ties="random"), "`ties` to be one of"),
        (lambda: metrics.fpr95([0.1], [1], convention="best"), "`convention` to be one of"),
        (lambda: metrics.top_k_correct([[0.1, 0.2]], [0], k=3), "at most the number of classes, 2, but got 3"),
        (lambda: metrics.top_k_correct([[0.1, 0.2]], [2]), r"lie in 0\.\.1"),
        (lambda: metrics.top_k_correct([[0.1, 0.2]], [0, 1]), "to be 1 integers"),
        (lambda: metrics.confidence([0.1, 0.2]), r"shape \(N, K\)"),
    ],
)
def test_wrong_arguments_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=r"^Expected argument.*" + message):
        call()


LABELLED = {
    "top_k_correct": metrics.top_k_correct,
    "top_k_accuracy": metrics.top_k_accuracy,
    "sample_nll": metrics.sample_nll,
    "negative_log_likelihood": metrics.negative_log_likelihood,
    "sample_brier": metrics.sample_brier,
    "fit_temperature": metrics.fit_temperature,
}
WRONG_LABELS = {
    "below": [0, -1, 1],
    "beyond": [0, 1, 4],
    "floats": [0.0, 1.0, 2.0],
    "booleans": [True, False, True],
    "text": ["0", "1", "2"],
    "one for all": 1,
    "one in a list": [1],
    "too few": [0, 1],
    "too many": [0, 1, 2, 3],
    "a column": [[0], [1], [2]],
    "one-hot": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "missing": [0, None, 1],
}


def test_every_metric_that_takes_labels_is_in_the_list():
    functions = {name: getattr(metrics, name) for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    named = {name for name, function in functions.items() if "labels" in inspect.signature(function).parameters}
    assert named == set(LABELLED)


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS)
@pytest.mark.parametrize("metric", LABELLED)
def test_labels_that_are_not_one_class_each_are_refused(metric, labels):
    logits = np.array([[0.1, 0.7, 0.2, 0.0], [0.5, 0.5, 0.0, 0.1], [1.0, 0.0, 3.0, 0.2]])
    with pytest.raises(ValueError, match="Expected argument `labels` to "):
        LABELLED[metric](logits, labels)
    right = LABELLED[metric](logits, [0, 1, 2])
    for good in (np.array([0, 1, 2], np.uint8), np.array([0, 1, 2], np.int16), (0, 1, 2)):
        np.testing.assert_array_equal(LABELLED[metric](logits, good), right)


@pytest.mark.parametrize("metric", LABELLED)
def test_no_samples_need_no_labels(metric):
    found = np.asarray(LABELLED[metric](np.zeros((0, 3)), []))
    assert found.shape == (0,) or np.isnan(found)
