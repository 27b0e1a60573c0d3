"""`evalkit compare`: exact tests and paired spreads against scipy and closed forms, which runs may be compared, what a
person reads."""

import doctest
import json
import math

import numpy as np
import pytest
from scipy import stats

from evalkit import cli, metrics, results
from evalkit.errors import EvalkitError
from evalkit.robustness import (
    CONFIGS,
    PROTOCOLS,
    compare,
    comparison,
    imagenet_a,
    imagenet_c,
    imagenet_o,
    occlusion,
    run,
    shifts,
)
from evalkit.robustness.comparison import mcnemar, paired

from .fakes import save_checkpoint, write_tree

CLASSES = ["bird", "cat", "dog"]
A = PROTOCOLS["imagenet-a"]


def test_doctests():
    result = doctest.testmod(comparison)
    assert result.attempted == 2 and result.failed == 0


# ---- the numbers


def test_mcnemar_equals_two_binomial_tails():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.random(40) < 0.6, rng.random(40) < 0.5
        only_a, only_b, p = mcnemar(a, b)
        assert (only_a, only_b) == (sum(x and not y for x, y in zip(a, b)), sum(y and not x for x, y in zip(a, b)))
        n = only_a + only_b
        tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
        assert p == pytest.approx(min(1.0, 2 * tail), abs=1e-12)
    assert mcnemar(np.ones(5, bool), np.ones(5, bool)) == (0, 0, 1.0)


def a_records(seed, n=300, k=6, skill=1.0):
    """The same images and labels for every seed, logits of a model of its own."""
    labels = np.random.default_rng(99).integers(0, k, n)
    hard = np.random.default_rng(98).normal(size=n) * 1.5  # what both models find hard
    z = np.random.default_rng(seed).normal(size=(n, k)) * 0.7
    z[np.arange(n), labels] += skill + hard
    arrays = {
        "ids": np.array([f"{i:04d}" for i in range(n)]),
        "labels": labels,
        "logits": z.astype(np.float32),
        "restrict": np.arange(k),
    }
    return arrays["ids"], imagenet_a.evaluate(arrays)


def test_differences_of_accuracy_have_their_closed_form_error():
    a, b = a_records(0, skill=1.5), a_records(1)
    by_metric = {d.metric: d for d in paired(A, a, b)}
    top1 = by_metric["top1"]
    right = [np.asarray(side[1].statistics[0].samples["top1"]) for side in (a, b)]
    delta = right[0] - right[1]
    assert top1.difference == pytest.approx(delta.mean(), abs=1e-12) and top1.standard_error == pytest.approx(
        delta.std() / math.sqrt(300), rel=0.1
    )
    assert top1.interval == pytest.approx(
        (delta.mean() - 1.96 * top1.standard_error, delta.mean() + 1.96 * top1.standard_error), abs=0.006
    )
    only_a, only_b, p = top1.mcnemar
    assert only_a - only_b == delta.sum() and p == stats.binomtest(only_a, only_a + only_b).pvalue
    assert top1.better == ("a" if p < 0.05 else None) and top1.better == "a"
    # lower is better
    assert by_metric["nll"].better == "a" and by_metric["nll"].difference < 0 and by_metric["nll"].mcnemar is None
    alone = math.hypot(a[1].standard_errors["top1"], b[1].standard_errors["top1"])
    assert top1.standard_error < 0.8 * alone  # the same images are hard for both
    assert {"top1", "top5", "rms_calibration_error", "aurra", "aurra_energy", "ece", "brier"} <= set(by_metric)
    assert not {"mean_confidence", "temperature"} & set(by_metric)  # neither high nor low is better


def test_paired_errors_equal_the_spread_over_fresh_images():
    """RMS and AURRA of two models on 150 fresh sets of images."""

    def both(seed, n=400):
        rng = np.random.default_rng(seed)
        labels, hard = rng.integers(0, 4, n), rng.normal(size=n) * 1.5
        sides = []
        for skill in (0.5, 1.0):
            z = rng.normal(size=(n, 4)) * 0.7
            z[np.arange(n), labels] += skill + hard
            sides.append(
                {
                    "ids": np.array([f"{i:04d}" for i in range(n)]),
                    "labels": labels,
                    "logits": z,
                    "restrict": np.arange(4),
                }
            )
        return sides

    fresh = {"aurra": [], "rms_calibration_error": []}
    for seed in range(150):
        values = []
        for side in both(seed):
            c, k = metrics.confidence(side["logits"]), metrics.top_k_correct(side["logits"], side["labels"])
            values.append((metrics.aurra(c, k), metrics.rms_calibration_error(c, k)))
        fresh["aurra"].append(values[0][0] - values[1][0])
        fresh["rms_calibration_error"].append(values[0][1] - values[1][1])
    found = {d.metric: d for d in paired(A, *((side["ids"], imagenet_a.evaluate(side)) for side in both(1000)))}
    for name, values in fresh.items():
        assert found[name].standard_error == pytest.approx(np.std(values), rel=0.35)
        assert (
            found[name].interval[0] - 3 * found[name].standard_error
            < np.mean(values)
            < found[name].interval[1] + 3 * found[name].standard_error
        )


def test_a_model_does_not_differ_from_itself():
    for d in paired(A, a_records(0), a_records(0)):
        assert (d.difference, d.standard_error, d.interval, d.better) == (0, 0, (0, 0), None) and (
            d.mcnemar is None or d.mcnemar == (0, 0, 1.0)
        )


def test_detection_is_resampled_side_by_side():
    rng = np.random.default_rng(0)
    ood, ids = np.arange(200) % 4 == 0, np.array([f"{i:04d}" for i in range(200)])
    sides = []
    for gap in (2.5, 0.0):
        z = rng.normal(size=(200, 5))
        z[~ood, 0] += gap
        sides.append((ids, imagenet_o.evaluate({"ids": ids, "ood": ood, "logits": z, "restrict": np.arange(5)})))
    found = {d.metric: d for d in paired(PROTOCOLS["imagenet-o"], *sides)}
    assert found["aupr"].better == "a" and found["fpr95_hendrycks"].better == "a" and found["fpr95"].difference < 0
    assert all(d.mcnemar is None for d in found.values()) and "chance" not in found


def test_occlusion_levels_have_an_exact_test_where_they_are_one_run():
    rng = np.random.default_rng(1)
    columns = [("clean", 0.0, 0), ("random", 0.5, 0), ("random", 0.5, 1), ("salient", 0.5, 0)]
    mode, level, repeat = map(np.array, zip(*columns))
    sides = []
    for share in (0.9, 0.6):
        labels = np.zeros(120, int)
        predictions = (rng.random((120, 4)) > share).astype(int)
        arrays = {
            "ids": np.arange(120).astype(str),
            "labels": labels,
            "predictions": predictions,
            "dropped": np.zeros((120, 4)),
        }
        arrays = occlusion.by_id(arrays | {"mode": mode, "level": level, "repeat": repeat})
        sides.append((arrays["ids"], occlusion.evaluate(arrays)))
    found = {d.metric: d for d in paired(PROTOCOLS["occlusion"], *sides)}
    assert set(found) == {"clean_top1", "top1_random_0.5", "auc_random", "top1_salient_0.5", "auc_salient"}
    assert {m for m, d in found.items() if d.mcnemar} == {"clean_top1", "top1_salient_0.5"} and all(
        d.better == "a" for d in found.values()
    )


def test_errors_under_corruption_are_better_low_and_reassessed_labels_high():
    rng = np.random.default_rng(2)
    labels, ids = np.zeros(100, int), np.arange(100).astype(str)
    cells = {"corruption": np.array(["fog", "snow", "snow"]), "severity": np.array([1, 1, 2])}
    right = [rng.random((100, 3)) < share for share in (0.9, 0.5)]
    sides = [
        imagenet_c.by_id({"ids": ids, "labels": labels, "predictions": 1 - r.astype(np.int16)} | cells) for r in right
    ]
    found = {
        d.metric: d
        for d in paired(PROTOCOLS["imagenet-c"], *((arrays["ids"], imagenet_c.evaluate(arrays)) for arrays in sides))
    }
    assert set(found) == {"mean_error", "error_fog", "error_snow"} and all(d.better == "a" for d in found.values())
    only_a, only_b = (right[0] & ~right[1])[:, 0].sum(), (right[1] & ~right[0])[:, 0].sum()
    assert (
        found["error_fog"].mcnemar == (only_a, only_b, stats.binomtest(only_a, only_a + only_b).pvalue)
        and found["error_snow"].mcnemar is None
    )
    whole = {
        c: np.repeat(v, k)
        for c, v, k in (
            ("corruption", np.array(list(imagenet_c.ALEXNET)), 5),
            ("severity", np.tile(np.arange(1, 6), 15), 1),
        )
    }
    sides = [
        imagenet_c.by_id(
            {"ids": ids, "labels": labels, "predictions": (rng.random((100, 75)) > s).astype(np.int16)} | whole
        )
        for s in (0.9, 0.5)
    ]
    assert {
        d.metric: d.better
        for d in paired(PROTOCOLS["imagenet-c"], *((a["ids"], imagenet_c.evaluate(a)) for a in sides))
    }["mce"] == "a"
    real = {"ids": ids, "labels": labels, "restrict": np.arange(2), "real": np.zeros((100, 1), np.int16)}
    sides = [shifts.by_id(real | {"logits": np.stack([r[:, 0], ~r[:, 0]], axis=1).astype(np.float32)}) for r in right]
    assert {
        d.metric: d.better
        for d in paired(PROTOCOLS["imagenet-val"], *((a["ids"], shifts.evaluate_val(a)) for a in sides))
    }["real_top1"] == "a"


# ---- runs


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models' results in one folder and in folders of their own."""
    root = tmp_path_factory.mktemp("world")
    write_tree(root / "data", {"cat": 9, "dog": 8, "bird": 7})
    first, second = (
        save_checkpoint(root / "one", CLASSES, label="one"),
        save_checkpoint(root / "two", CLASSES, label="two", seed=1),
    )
    keys = {"data": str(root / "data"), "workers": 0, "forward_batch": 8}
    small = {"levels": [0.5], "repeats": 1, "grid": 4, "saliency": "self"}
    for protocol, more in (("imagenet-a", {}), ("occlusion", small)):
        run(protocol, [str(first), str(second)], CONFIGS[protocol](**keys | more, out=str(root / "both")))
        run(protocol, [str(first)], CONFIGS[protocol](**keys | more, out=str(root / "a")))
        run(protocol, [str(second)], CONFIGS[protocol](**keys | more, out=str(root / "b")))
    run("imagenet-a", [str(second)], CONFIGS["imagenet-a"](**keys, out=str(root / "limited"), limit=10))
    return root, keys, second


def test_a_table_and_a_record(world, tmp_path, capsys):
    root, _, _ = world
    assert cli.invoke(["compare", str(root / "a"), str(root / "b"), "--out", str(tmp_path)]) == (0, "")
    printed = capsys.readouterr().out
    assert "imagenet-a on data, 24 images: A = one, B = two" in printed and "occlusion on data, 24 images" in printed
    made = {r["protocol"]: r for r in json.loads((tmp_path / "compare.json").read_text())}
    assert set(made) == {"imagenet-a", "occlusion"} and made["imagenet-a"]["resamples"] == 1000
    records = {r["protocol"]: r for r in results.read([root / "a"])}
    for protocol, record in made.items():
        assert record["a"]["label"] == "one" and record["b"]["label"] == "two" and record["n"] == 24
        assert record["data"]["fingerprint"] == records[protocol]["data"]["fingerprint"]
        for name, d in record["metrics"].items():
            assert d["a"] == pytest.approx(records[protocol]["metrics"][name], abs=1e-12) and d[
                "difference"
            ] == pytest.approx(d["a"] - d["b"])
            (line,) = [line for line in printed.splitlines() if line.split()[:1] == [name]]
            assert line.endswith("no difference shown") if d["better"] is None else line.endswith("is better")
    assert cli.invoke(
        ["compare", f"{root / 'both'}:one", f"{root / 'both'}:two", "--out", str(tmp_path / "again")]
    ) == (0, "")
    assert (tmp_path / "again" / "compare.json").read_bytes() == (tmp_path / "compare.json").read_bytes()
    sha = results.read([root / "a"])[0]["checkpoint_sha256"]
    assert compare(f"{root / 'both'}:{sha[:8]}", str(root / "b"), ["imagenet-a"]) == 0


def test_what_cannot_be_compared_is_one_clear_line(world, tmp_path, capsys):
    root, keys, second = world
    a, b = str(root / "a"), str(root / "b")
    with pytest.raises(
        EvalkitError,
        match=r"both holds 2 models: one \(vit.*, checkpoint .{8}\), two \(vit.*\); name one as .*both:LABEL",
    ):
        compare(str(root / "both"), b)
    with pytest.raises(EvalkitError, match="unknown model of .*both 'onne'. Did you mean 'one'"):
        compare(f"{root / 'both'}:onne", b)
    with pytest.raises(EvalkitError, match="nowhere does not exist"):
        compare(a, str(root / "nowhere"))
    with pytest.raises(EvalkitError, match="unknown protocol 'imagenet-b'"):
        compare(a, b, ["imagenet-b"])
    with pytest.raises(EvalkitError, match="do not both hold imagenet-o results"):
        compare(a, b, ["imagenet-o"])
    with pytest.raises(
        EvalkitError,
        match="imagenet-a of .* cannot be compared: limit is None against 10; run both with the same settings",
    ):
        compare(a, str(root / "limited"))
    write_tree(tmp_path / "data", {"cat": 9, "dog": 8, "bird": 6})
    run(
        "imagenet-a",
        [str(second)],
        CONFIGS["imagenet-a"](**keys | {"data": str(tmp_path / "data")}, out=str(tmp_path / "other")),
    )
    with pytest.raises(
        EvalkitError,
        match=r"the data differ, data \(.{12}\) against data \(.{12}\); evaluate both models on the same files",
    ):
        compare(a, str(tmp_path / "other"))


def test_another_version_missing_records_and_other_images_are_refused(world, tmp_path):
    root = world[0]
    older = results.read([root / "b"])[0]
    results.append(tmp_path / "old", {k: v for k, v in older.items() if k != "_dir"} | {"version": 0})
    with pytest.raises(EvalkitError, match="protocol version 1 against 0; run the older one again"):
        compare(str(root / "a"), str(tmp_path / "old"))
    results.append(tmp_path / "gone", {k: v for k, v in older.items() if k != "_dir"})
    with pytest.raises(
        EvalkitError,
        match=r"the per-sample records of two \(imagenet-a, in .*gone\) are gone or damaged; evaluate it again",
    ):
        compare(str(root / "a"), str(tmp_path / "gone"))
    ids, outcome = a_records(0)
    with pytest.raises(EvalkitError, match="A and B hold different images: 2 are in one only, e.g. 0000"):
        paired(A, (ids, outcome), (np.array(["x", *ids[1:]]), outcome))
