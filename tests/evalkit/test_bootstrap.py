"""The bootstrap: resampled metrics equal the metrics of the drawn samples, spreads equal what theory and repeated
sampling say."""

import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from evalkit import bootstrap, metrics
from evalkit.bootstrap import Aurra, Calibration, Detection, Means


def ids_of(n):
    return np.array([f"{i:05d}" for i in range(n)])


def cases(number, seed=0):
    """(scores in 0..1, flags): every other case has many equal scores."""
    rng = np.random.default_rng(seed)
    for case in range(number):
        n = int(rng.integers(1, 40))
        scores = rng.random(n)
        yield np.round(scores, 1) if case % 2 else scores, rng.random(n) < rng.uniform(0.1, 0.9)


def drawn(counts):
    """The samples of one resample, each as often as it was drawn."""
    return np.repeat(np.arange(len(counts)), counts.astype(int))


# ---- the draws


def test_draws_have_the_size_of_the_sample_and_of_each_side():
    ood = np.arange(50) % 5 == 0
    (counts,) = bootstrap.draws(ids_of(50), ood, 200)
    assert counts.shape == (200, 50) and (counts.sum(axis=1) == 50).all() and (counts[:, ood].sum(axis=1) == 10).all()
    assert (counts == counts.astype(int)).all() and len({row.tobytes() for row in counts}) == 200
    # Poisson-like
    assert abs(counts.mean(axis=0) - 1).max() < 5 / math.sqrt(200) and counts.var() == pytest.approx(1, abs=0.1)


def test_draws_follow_the_ids_and_not_their_order_the_block_or_the_number_of_resamples(monkeypatch):
    ids, p = ids_of(30), np.random.default_rng(0).permutation(30)
    (whole,) = bootstrap.draws(ids, None, 20)
    (shuffled,) = bootstrap.draws(ids[p], None, 20)
    np.testing.assert_array_equal(shuffled, whole[:, p])
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    np.testing.assert_array_equal(np.concatenate(list(bootstrap.draws(ids, None, 20))), whole)
    np.testing.assert_array_equal(np.concatenate(list(bootstrap.draws(ids, None, 7))), whole[:7])


@pytest.mark.parametrize("ids", [[], ["a", "b", "a"]])
def test_ids_must_be_unique(ids):
    with pytest.raises(ValueError, match="Expected argument `ids` to be unique and not empty"):
        next(bootstrap.draws(ids))


# ---- every resampled metric is the metric of the resample


def test_means():
    for values, flags in cases(100):
        (counts,) = bootstrap.draws(ids_of(len(values)), None, 5)
        got = Means({"a": values, "b": flags}).resampled(counts)
        for r, row in enumerate(counts):
            assert got["a"][r] == pytest.approx(values[drawn(row)].mean(), abs=1e-12) and got["b"][r] == pytest.approx(
                flags[drawn(row)].mean(), abs=1e-12
            )
        if flags.any():
            half = Means({"a": values}, rows=flags)
            (counts,) = bootstrap.draws(ids_of(len(values)), flags, 5)
            assert half.values["a"] == pytest.approx(values[flags].mean())
            expected = [np.average(values[flags], weights=row[flags]) for row in counts]
            np.testing.assert_allclose(half.resampled(counts)["a"], expected, atol=1e-12)


def test_calibration_errors():
    for i, (confidence, correct) in enumerate(cases(400)):
        bin_size = 1 + i % 6
        statistic = Calibration(confidence, correct, bin_size=bin_size)
        (counts,) = bootstrap.draws(ids_of(len(correct)), None, 3)
        got = statistic.resampled(np.concatenate([counts, np.ones((1, len(correct)))]))
        for r, rows in enumerate([*map(drawn, counts), np.arange(len(correct))]):
            c, k = confidence[rows], correct[rows]
            if not math.isnan(statistic.values["rms_calibration_error"]):
                assert got["rms_calibration_error"][r] == pytest.approx(
                    metrics.rms_calibration_error(c, k, bin_size), abs=1e-9
                )
            assert got["rms_calibration_error_include"][r] == pytest.approx(
                metrics.rms_calibration_error(c, k, bin_size, "include"), abs=1e-9
            )
            assert got["ece"][r] == pytest.approx(metrics.expected_calibration_error(c, k), abs=1e-12)


def test_aurra():
    for score, correct in cases(400, seed=1):
        (counts,) = bootstrap.draws(ids_of(len(correct)), None, 3)
        got = Aurra("aurra", score, correct).resampled(np.concatenate([counts, np.ones((1, len(correct)))]))["aurra"]
        expected = [
            metrics.aurra(score[rows], correct[rows]) for rows in [*map(drawn, counts), np.arange(len(correct))]
        ]
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_detection_against_scikit_learn_with_the_counts_as_weights():
    done = 0
    for score, ood in cases(450, seed=2):
        if ood.all() or not ood.any():
            continue
        done += 1
        (counts,) = bootstrap.draws(ids_of(len(ood)), ood, 3)
        got = Detection(score, ood).resampled(np.concatenate([counts, np.ones((1, len(ood)))]))
        for r, rows in enumerate([*map(drawn, counts), np.arange(len(ood))]):
            assert got["aupr"][r] == pytest.approx(average_precision_score(ood[rows], score[rows]), abs=1e-12)
            assert got["auroc"][r] == pytest.approx(roc_auc_score(ood[rows], score[rows]), abs=1e-12)
            sides = score[rows][ood[rows]], score[rows][~ood[rows]]
            assert got["fpr95"][r] == metrics.fpr95(*sides) and got["fpr95_hendrycks"][r] == metrics.fpr95(
                *sides, convention="nearest"
            )
    assert done >= 400


# ---- standard errors and intervals


def test_a_mean_has_its_closed_form_error_to_which_the_resamples_converge():
    correct = np.arange(400) < 80
    statistic = Means({"top1": correct})
    got = bootstrap.spread([statistic], ids_of(400))
    assert got.standard_errors["top1"] == pytest.approx(math.sqrt(0.2 * 0.8 / 400), abs=1e-15)
    resampled = bootstrap.resample(statistic.resampled, ids_of(400))["top1"]
    assert len(resampled) == 1000 and bootstrap.standard_error(resampled) == pytest.approx(0.02, rel=0.1)
    low, high = stats.binomtest(80, 400).proportion_ci(method="wilson")
    assert got.intervals["top1"] == pytest.approx((low, high), abs=0.004)


def test_errors_equal_the_spread_over_fresh_samples():
    """What the bootstrap promises: the spread over many independent sets of images, here 400 sets of 600."""
    rng = np.random.default_rng(0)

    def sample():
        confidence = rng.random(600) ** 0.7
        correct = rng.random(600) < confidence * 0.6
        return [Calibration(confidence, correct), Aurra("aurra", confidence, correct), Detection(-confidence, correct)]

    fresh = {}
    for _ in range(400):
        for statistic in sample():
            for name, value in statistic.values.items():
                fresh.setdefault(name, []).append(value)
    ids, statistics = ids_of(600), sample()
    errors = bootstrap.spread(statistics, ids).standard_errors
    for name in ("rms_calibration_error", "rms_calibration_error_include", "ece", "aurra", "aupr", "auroc"):
        assert errors[name] == pytest.approx(np.std(fresh[name]), rel=0.35), name


def test_intervals_hold_the_value_also_where_resampling_raises_it():
    """A calibrated model: every resample has a larger binned error than the data."""
    rng = np.random.default_rng(1)
    confidence = rng.random(1000)
    statistic = Calibration(confidence, rng.random(1000) < confidence)
    resampled = bootstrap.resample(statistic.resampled, ids_of(1000))["rms_calibration_error"]
    value = statistic.values["rms_calibration_error"]
    assert resampled.mean() > value + bootstrap.standard_error(resampled)
    low, high = bootstrap.interval(value, resampled)
    assert 0 <= low < value < high and high - low == pytest.approx(
        np.subtract(*np.quantile(resampled, [0.975, 0.025])), abs=1e-12
    )


def test_intervals_are_centred_on_the_value():
    got = bootstrap.spread([Means({"all": np.ones(50), "rare": np.arange(50) < 1})], ids_of(50)).intervals
    assert got["all"] == (1.0, 1.0) and got["rare"][0] < 0.02 < got["rare"][1]  # what it can be cuts it in the record
    assert bootstrap.interval(0.0, np.array([-0.2, 0.2]))[0] < 0  # a difference may be negative


def test_what_is_undefined_has_neither_error_nor_interval():
    few = np.linspace(0.1, 0.9, 9)
    got = bootstrap.spread([Calibration(few, few > 0.5), Means({"none": np.zeros(0)})], ids_of(9))
    assert set(got.standard_errors) == set(got.intervals) == {"rms_calibration_error_include", "ece"}


def test_the_order_of_the_samples_moves_nothing_but_last_bits():
    rng = np.random.default_rng(3)
    ids, score, correct, p = ids_of(80), np.round(rng.random(80), 1), rng.random(80) < 0.4, rng.permutation(80)

    def make(s, c):
        return [Calibration(s, c, bin_size=10), Aurra("aurra", s, c), Detection(s, c), Means({"top1": c})]

    a, b = (
        bootstrap.spread(make(score, correct), ids, correct),
        bootstrap.spread(make(score[p], correct[p]), ids[p], correct[p]),
    )
    for name, value in a.standard_errors.items():
        assert value == pytest.approx(b.standard_errors[name], abs=1e-13) and a.intervals[name] == pytest.approx(
            b.intervals[name], abs=1e-13
        )


@pytest.mark.slow
def test_imagenet_a_takes_seconds():
    rng = np.random.default_rng(0)
    confidence = rng.random(7500)
    correct, start = rng.random(7500) < 0.19, time.process_time()
    bootstrap.spread(
        [Calibration(confidence, correct), Aurra("aurra", confidence, correct), Means({"top1": correct})], ids_of(7500)
    )
    assert time.process_time() - start < 30  # of the CPU, whatever else it does; as a rule one or two
