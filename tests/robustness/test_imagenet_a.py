"""ImageNet-A: which logits count, what is measured, and a miniature of the true layout from folder to record."""

import hashlib
import math

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from timm.data import ImageNetInfo

from evalkit import metrics
from evalkit.robustness import imagenet_a, layouts
from evalkit.robustness.about.imagenet_a import ImageNetAConfig

from .fakes import CPU, loaded, shrink, vit, write_tree

IMAGENET = ImageNetInfo().label_names()
A = layouts.wnids("imagenet-a")


def arrays(logits, labels, restrict):
    ids = np.arange(len(labels)).astype(str)
    return {
        "ids": ids,
        "labels": np.array(labels),
        "logits": np.array(logits, np.float32),
        "restrict": np.array(restrict),
    }


def test_logits_are_restricted_before_the_softmax():
    """z = (2, 3, 1), classes 0 and 2 kept: right for label 0 with confidence .7311, not .2447."""
    outcome = imagenet_a.evaluate(arrays([[2, 3, 1]], [0], [0, 2]))
    m = outcome.metrics
    assert m["top1"] == 1.0 and m["top1_unrestricted"] == 0.0 and m["aurra"] == 1.0
    assert m["mean_confidence"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-12)
    assert m["nll"] == pytest.approx(-math.log(1 / (1 + math.exp(-1))), abs=1e-12)
    assert m["rms_calibration_error_include"] == pytest.approx(1 - 1 / (1 + math.exp(-1)), abs=1e-12)


def test_what_few_images_and_classes_leave_undefined_has_a_reason():
    outcome = imagenet_a.evaluate(arrays(np.eye(3), [0, 1, 2], [0, 1, 2]))
    assert math.isnan(outcome.metrics["top5"]) and math.isnan(outcome.metrics["rms_calibration_error"])
    assert set(outcome.undefined) == {"top5", "rms_calibration_error", "rms_calibration_error_temperature"}
    assert "fewer than 200 images" in outcome.undefined["rms_calibration_error"]
    assert "top1_unrestricted" not in outcome.metrics and not set(outcome.undefined) & set(outcome.standard_errors)


def test_numbers_equal_definitions_in_plain_numpy():
    rng = np.random.default_rng(0)
    z, restrict = rng.normal(size=(450, 40)).astype(np.float32), np.sort(rng.choice(40, 12, replace=False))
    labels = rng.integers(0, 12, 450)
    outcome = imagenet_a.evaluate(arrays(z, labels, restrict))
    kept = z[:, restrict].astype(np.float64)
    p = np.exp(kept) / np.exp(kept).sum(axis=1, keepdims=True)
    correct, confidence = p.argmax(axis=1) == labels, p.max(axis=1)
    m = outcome.metrics
    assert m["top1"] == correct.mean() and m["top1_unrestricted"] == (z.argmax(axis=1) == restrict[labels]).mean()
    assert m["top5"] == (np.argsort(-kept, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean()
    order = np.argsort(-confidence)
    assert m["aurra"] == pytest.approx(np.mean(np.cumsum(correct[order]) / np.arange(1, 451)), abs=1e-12)
    up = order[::-1]
    bins = [up[:100], up[100:200], up[200:300], up[300:]]
    gaps = [len(b) / 450 * (confidence[b].mean() - correct[b].mean()) ** 2 for b in bins]
    assert m["rms_calibration_error"] == pytest.approx(math.sqrt(sum(gaps[:-1])), abs=1e-12)
    assert m["rms_calibration_error_include"] == pytest.approx(math.sqrt(sum(gaps)), abs=1e-12)
    assert m["nll"] == pytest.approx(-np.log(p[np.arange(450), labels]).mean(), abs=1e-12)
    assert outcome.standard_errors["top1"] == pytest.approx(math.sqrt(m["top1"] * (1 - m["top1"]) / 450), abs=1e-15)


def test_the_order_of_the_images_changes_no_bit():
    rng = np.random.default_rng(1)
    z, labels, p = np.round(rng.normal(size=(300, 8)), 1), rng.integers(0, 8, 300), rng.permutation(300)
    ordered = arrays(z, labels, range(7, -1, -1))
    a, b = (
        imagenet_a.evaluate(ordered),
        imagenet_a.evaluate({k: v if k == "restrict" else v[p] for k, v in ordered.items()}),
    )
    assert (a.metrics, a.standard_errors, a.intervals) == (b.metrics, b.standard_errors, b.intervals)


def test_extras_equal_their_definitions():
    """Scores by scipy; the temperature of each half fitted on the other one, by a fine grid."""
    rng = np.random.default_rng(2)
    z, labels = 3 * rng.normal(size=(250, 6)), rng.integers(0, 6, 250)
    z = np.float32(z).astype(np.float64)
    given = arrays(z, labels, range(6))
    m = imagenet_a.evaluate(given).metrics
    correct, p = z.argmax(axis=1) == labels, softmax(z, axis=1)
    for name, score in (
        ("max_logit", z.max(axis=1)),
        ("energy", logsumexp(z, axis=1)),
        ("entropy", (p * np.log(p)).sum(axis=1)),
    ):
        assert m[f"aurra_{name}"] == pytest.approx(
            np.mean(np.cumsum(correct[np.argsort(-score)]) / np.arange(1, 251)), abs=1e-12
        )
    assert m["brier"] == pytest.approx(((p - np.eye(6)[labels]) ** 2).sum(axis=1).mean(), abs=1e-12)
    bins = np.ceil(p.max(axis=1) * 15)
    gaps = [abs((p.max(axis=1) - correct)[bins == b].sum()) for b in range(1, 16)]
    assert m["ece"] == pytest.approx(sum(gaps) / 250, abs=1e-12)
    half = np.array(
        [int.from_bytes(hashlib.blake2b(i.encode(), digest_size=8).digest(), "little") % 2 for i in given["ids"]],
        dtype=bool,
    )

    def nll(rows, t):
        return -(z[rows] / t - logsumexp(z[rows] / t, axis=1, keepdims=True))[
            np.arange(rows.sum()), labels[rows]
        ].mean()

    grid = np.exp(np.linspace(0, math.log(100), 4000))
    best = {flag: grid[np.argmin([nll(half == flag, t) for t in grid])] for flag in (False, True)}
    assert m["temperature"] == pytest.approx((best[False] + best[True]) / 2, rel=2e-3)
    expected = (half.sum() * nll(half, best[False]) + (~half).sum() * nll(~half, best[True])) / 250
    assert m["nll_temperature"] == pytest.approx(expected, abs=1e-6) and m["nll_temperature"] < m["nll"]


def test_every_number_has_a_standard_error_that_resampling_by_hand_confirms():
    rng = np.random.default_rng(3)
    z, labels = np.float32(2 * rng.normal(size=(400, 7))), rng.integers(0, 7, 400)
    z[np.arange(400), labels] += 2
    given = arrays(z, labels, range(7))
    outcome = imagenet_a.evaluate(given)
    confidence, correct = softmax(z.astype(float), axis=1).max(axis=1), z.argmax(axis=1) == labels
    again = {"rms_calibration_error": [], "aurra": [], "ece": []}
    for _ in range(300):
        rows = rng.integers(0, 400, 400)
        again["rms_calibration_error"].append(metrics.rms_calibration_error(confidence[rows], correct[rows]))
        again["aurra"].append(metrics.aurra(confidence[rows], correct[rows]))
        again["ece"].append(metrics.expected_calibration_error(confidence[rows], correct[rows]))
    for name, values in again.items():
        assert outcome.standard_errors[name] == pytest.approx(np.std(values), rel=0.2)
        low, high = np.quantile(values, [0.025, 0.975]) - np.mean(values) + outcome.metrics[name]
        assert outcome.intervals[name] == pytest.approx((low, high), abs=np.std(values))


def test_a_miniature_of_the_true_layout(tmp_path, monkeypatch):
    shrink(monkeypatch, {"imagenet-a": 200})
    root = write_tree(tmp_path / "imagenet-a", dict.fromkeys(A, 1), side=18)
    network, cfg = vit(1000), ImageNetAConfig(data=str(tmp_path), workers=0, batch_size=50)
    model = loaded(network, IMAGENET)
    plan = imagenet_a.PROTOCOL.prepare(model, cfg, CPU)
    assert plan.complete and not plan.published  # the network takes 16 pixels, not 224
    assert plan.notes == ["200 of 200 class folders matched by name, of 1000 classes of the model"]
    got, bad = imagenet_a.PROTOCOL.collect(model, plan, cfg, CPU)
    assert (
        bad == [] and got["logits"].shape == (200, 1000) and got["restrict"].tolist() == [IMAGENET.index(w) for w in A]
    )
    assert [A[label] for label in got["labels"]] == [sample.split("/")[0] for sample in got["ids"]]
    outcome = imagenet_a.PROTOCOL.evaluate(got)
    assert outcome.n == 200 and outcome.metrics["top1"] == metrics.top_k_accuracy(
        got["logits"][:, got["restrict"]], got["labels"]
    )
    assert root.is_dir()


def test_published_only_with_the_published_settings(tmp_path, monkeypatch):
    shrink(monkeypatch, {"imagenet-a": 200})
    root = str(write_tree(tmp_path, dict.fromkeys(A, 1), side=8))
    network = vit(1000)
    network.input_size = (224, 224)

    def published(**keys):
        return imagenet_a.prepare(loaded(network, IMAGENET), ImageNetAConfig(data=root, **keys), CPU).published

    assert published() and published(forward_batch=8, workers=3)
    assert not published(limit=10) and not published(preprocess="model")
