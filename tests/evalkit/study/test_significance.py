import math

import numpy as np
import pytest
from scipy import stats

from evalkit import bootstrap
from evalkit.study import significance


def test_paired_against_scipy():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 12):
        a, b = rng.normal(0.8, 0.01, n), rng.normal(0.79, 0.01, n)
        found, theirs = significance.paired(a, b), stats.ttest_rel(a, b)
        low, high = theirs.confidence_interval(0.95)
        assert found.pairs == n and found.difference == pytest.approx(a.mean() - b.mean())
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-9) and found.interval == pytest.approx((low, high))


def test_what_decides_nothing():
    one, two = significance.paired([0.9], [0.8]), significance.paired([0.9, 0.91], [0.8, 0.8])
    assert math.isnan(one.p) and one.difference == pytest.approx(0.1) and "1 seed," in one.why_not
    assert not math.isnan(two.p) and "2 seeds" in two.why_not
    same = significance.paired([0.9, 0.8, 0.7], [0.8, 0.7, 0.6])  # no spread is no certainty
    assert math.isnan(same.p) and "same difference" in same.why_not
    assert significance.verdict(two, 0.001, "high") == "not decidable (2 seeds, 3 are the least)"
    clear = significance.paired([0.9, 0.91, 0.92], [0.5, 0.52, 0.51])
    assert significance.verdict(clear, 0.01, "high") == "better" and significance.verdict(clear, 0.01, "low") == "worse"
    assert significance.verdict(clear, 0.06, "high") == "no difference shown"


def test_holm_by_hand():
    # sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, then 0.04 x 1 is raised to the one before
    assert significance.holm([0.03, 0.005, math.nan, 0.04, 0.01])[:2] == pytest.approx([0.06, 0.02])
    assert significance.holm([0.03, 0.005, math.nan, 0.04, 0.01])[3:] == pytest.approx([0.06, 0.03])
    assert math.isnan(significance.holm([math.nan])[0]) and significance.holm([]) == []
    assert significance.holm([0.7, 0.9]) == [1.0, 1.0]
    rng = np.random.default_rng(1)
    for _ in range(20):  # rejects what Holm's step-down procedure, written out, rejects
        p = rng.uniform(0, 0.06, 7)
        rejected = set()
        for rank, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (len(p) - rank):
                break
            rejected.add(int(i))
        assert {i for i, v in enumerate(significance.holm(p.tolist())) if v <= 0.05} == rejected


def test_nested_draws_against_loops_over_seeds_and_images():
    rng = np.random.default_rng(2)
    right = rng.random((2, 3, 40)) < np.array([0.8, 0.6])[:, None, None]  # method, seed, image
    ids = [f"{i:02d}" for i in range(40)]
    drawn = lambda values: bootstrap.resample(bootstrap.Means({"top1": values}).resampled, ids)  # noqa: E731
    found = significance.nested([(drawn(right[0, s]), drawn(right[1, s])) for s in range(3)])["top1"]
    counts = np.concatenate(list(bootstrap.draws(ids)))
    for r in (0, 1, 57, 999):
        images = np.repeat(np.arange(40), counts[r].astype(int))
        seeds = significance.derive_rng("seeds", 3, r).integers(0, 3, 3)
        looped = [right[0, s, i] * 1.0 - right[1, s, i] for s in seeds for i in images]
        assert found[r] == pytest.approx(sum(looped) / len(looped))
    # images that are hard for every seed do not average out over seeds: the spread is that of one set of images
    ids = [f"{i:03d}" for i in range(400)]
    same = [(drawn(rng.permutation(400) < 200), drawn(np.zeros(400)))] * 3
    spread = significance.nested(same)["top1"].std()
    assert spread == pytest.approx(math.sqrt(0.25 / 400), rel=0.1)
