"""ImageNet-O: which side is positive, which classes count, and a miniature of the true layout from folder to
numbers."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.metrics import average_precision_score, roc_auc_score
from timm.data import ImageNetInfo

from evalkit.errors import EvalkitError
from evalkit.robustness import imagenet_o, layouts
from evalkit.robustness.about.imagenet_o import ImageNetOConfig

from .fakes import CPU, loaded, shrink, vit, write_tree

IMAGENET = ImageNetInfo().label_names()
O = layouts.wnids("imagenet-o")  # noqa: E741


def test_out_of_distribution_is_positive_and_low_confidence_its_score():
    """Two classes, so that the margin is the logit of the confidence; the unknown images are the less confident ones,
    but for one."""
    margins = np.array([0.1, 0.3, 2.5, 1.0, 2.0, 3.0, 4.0])
    ood = np.array([True, True, True, False, False, False, False])
    arrays = {
        "ids": np.arange(7).astype(str),
        "ood": ood,
        "logits": np.stack([margins, 9 * np.ones(7), 0 * margins], 1),
        "restrict": np.array([0, 2]),
    }
    outcome = imagenet_o.evaluate(arrays)
    m = outcome.metrics
    assert m["aupr"] == pytest.approx((1 + 1 + 3 / 5) / 3) and m["auroc"] == pytest.approx(10 / 12)
    assert (
        m["fpr95"] == 0.5
        and m["chance"] == pytest.approx(3 / 7)
        and outcome.n == 7
        and outcome.data == {"n_ood": 3, "n_id": 4}
    )
    confidence = 1 / (1 + np.exp(-margins))
    assert m["mean_confidence_ood"] == pytest.approx(confidence[:3].mean()) and m[
        "mean_confidence_id"
    ] == pytest.approx(confidence[3:].mean())


def test_numbers_equal_scikit_learn_on_softmax_scores():
    rng = np.random.default_rng(0)
    z, ood, restrict = rng.normal(size=(300, 20)).astype(np.float32), rng.random(300) < 0.2, np.arange(0, 20, 2)
    m = imagenet_o.evaluate({"ids": np.arange(300).astype(str), "ood": ood, "logits": z, "restrict": restrict}).metrics
    kept = z[:, restrict].astype(np.float64)
    score = -(np.exp(kept) / np.exp(kept).sum(axis=1, keepdims=True)).max(axis=1)
    assert m["aupr"] == pytest.approx(average_precision_score(ood, score), abs=1e-12)
    assert m["aupr_in"] == pytest.approx(average_precision_score(~ood, -score), abs=1e-12)
    assert m["auroc"] == pytest.approx(roc_auc_score(ood, score), abs=1e-12)


def test_other_scores_over_the_restricted_and_over_all_classes():
    rng = np.random.default_rng(1)
    z, ood, restrict = rng.normal(size=(120, 12)).astype(np.float32), rng.random(120) < 0.3, np.arange(1, 12, 2)
    outcome = imagenet_o.evaluate({"ids": np.arange(120).astype(str), "ood": ood, "logits": z, "restrict": restrict})
    for suffix, kept in (("", z[:, restrict].astype(float)), ("_all", z.astype(float))):
        p = softmax(kept, axis=1)
        scores = {
            "max_logit": kept.max(axis=1),
            "energy": logsumexp(kept, axis=1),
            "entropy": (p * np.log(p)).sum(axis=1),
            "msp": p.max(axis=1),
        }
        for name, score in scores.items():
            if name + suffix != "msp":
                assert outcome.metrics[f"aupr_{name}{suffix}"] == pytest.approx(
                    average_precision_score(ood, -score), abs=1e-12
                )
                assert outcome.metrics[f"auroc_{name}{suffix}"] == pytest.approx(roc_auc_score(ood, -score), abs=1e-12)
    assert set(outcome.standard_errors) == set(outcome.intervals) == set(outcome.metrics) - {"chance"}


def test_the_order_of_the_images_changes_no_bit():
    rng = np.random.default_rng(2)
    arrays = {
        "ids": np.arange(90).astype(str),
        "ood": rng.random(90) < 0.4,
        "logits": rng.normal(size=(90, 5)).astype(np.float32),
        "restrict": np.arange(3),
    }
    p = rng.permutation(90)
    a, b = (
        imagenet_o.evaluate(arrays),
        imagenet_o.evaluate({k: v if k == "restrict" else v[p] for k, v in arrays.items()}),
    )
    assert (a.metrics, a.standard_errors, a.intervals) == (b.metrics, b.standard_errors, b.intervals)


def test_confidences_that_round_to_one_are_still_ranked():
    z = np.array([[800.0, 0.0], [700.0, 0.0], [600.0, 0.0], [500.0, 0.0]])
    m = imagenet_o.evaluate(
        {
            "ids": np.arange(4).astype(str),
            "ood": np.array([False, False, True, True]),
            "logits": z,
            "restrict": np.array([0, 1]),
        }
    ).metrics
    assert m["aupr"] == 1.0 and m["auroc"] == 1.0


@pytest.fixture
def miniature(tmp_path, monkeypatch):
    shrink(monkeypatch, {"imagenet-o": 200})
    write_tree(tmp_path / "imagenet-o", dict.fromkeys(O, 1), side=18)
    write_tree(tmp_path / "val", dict.fromkeys([*O, IMAGENET[0], IMAGENET[5]], 1), side=18, seed=1)
    return tmp_path


def test_a_miniature_of_the_true_layout(miniature):
    cfg = ImageNetOConfig(data=str(miniature / "imagenet-o"), id_data=str(miniature / "val"), workers=0)
    model = loaded(vit(1000), IMAGENET)
    plan = imagenet_o.PROTOCOL.prepare(model, cfg, CPU)
    assert plan.complete and not plan.published
    assert plan.notes == [
        "200 of 200 class folders matched by name, of 1000 classes of the model",
        "200 out-of-distribution images of imagenet-o against 200 in-distribution images of val",
    ]
    got, bad = imagenet_o.PROTOCOL.collect(model, plan, cfg, CPU)
    assert (
        bad == []
        and got["ood"].sum() == 200
        and len(got["ood"]) == 400
        and got["restrict"].tolist() == [IMAGENET.index(w) for w in O]
    )
    assert {s.split("/")[0] for s in got["ids"]} == {"ood", "id"} and {s.split("/")[1] for s in got["ids"]} == set(O)
    outcome = imagenet_o.PROTOCOL.evaluate(got)
    assert (
        outcome.metrics["chance"] == 0.5
        and outcome.data == {"n_ood": 200, "n_id": 200}
        and not math.isnan(outcome.metrics["aupr"])
    )


def test_images_on_both_sides_are_named(miniature):
    """A copy under another name and in another class is found by its content; a file of the same size is not taken for
    one."""
    source = next((miniature / "val" / O[4]).iterdir())
    target = next((miniature / "imagenet-o" / O[9]).iterdir())
    target.write_bytes(source.read_bytes())
    keys = {"data": str(miniature / "imagenet-o"), "id_data": str(miniature / "val")}
    model = loaded(vit(1000), IMAGENET)
    plan = imagenet_o.prepare(model, ImageNetOConfig(**keys), CPU)
    where = f"id/{O[4]}/{source.name} is the file ood/{O[9]}/{target.name}"
    assert (
        plan.notes[-1]
        == f"warning: 1 images are on both sides, e.g. {where}; they cannot be told apart, clean the data"
    )
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    assert len(imagenet_o.prepare(model, ImageNetOConfig(**keys), CPU).notes) == 2


def test_a_flat_val_folder_is_the_in_distribution_side(miniature, tmp_path):
    """The labels decide which of its images are of the 200 classes; ids, rows and restriction are those of class
    folders."""
    flat, lines = tmp_path / "flat", []
    flat.mkdir()
    for i, file in enumerate(sorted((miniature / "val").glob("*/*"))):
        file.with_name(f"ILSVRC2012_val_{i + 1:08d}.JPEG").write_bytes(file.read_bytes())
        (flat / f"ILSVRC2012_val_{i + 1:08d}.JPEG").write_bytes(file.read_bytes())
        lines.append(f"ILSVRC2012_val_{i + 1:08d}.JPEG,{file.parent.name}")
        file.unlink()
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    model, plans = loaded(vit(1000), IMAGENET), []
    for keys in (
        {"id_data": str(miniature / "val")},
        {"id_data": str(flat), "val_labels": str(tmp_path / "labels.csv")},
    ):
        plans.append(imagenet_o.prepare(model, ImageNetOConfig(data=str(miniature / "imagenet-o"), **keys), CPU))
    assert (
        plans[0].sets["id"].ids == plans[1].sets["id"].ids
        and plans[0].sets["id"].fingerprint == plans[1].sets["id"].fingerprint
    )
    assert (
        plans[0].settings == plans[1].settings
        and plans[0].rows["id"].tolist() == plans[1].rows["id"].tolist()
        and len(plans[1].rows["id"]) == 200
    )


def test_a_partial_folder_takes_its_classes_out_of_both_sides(miniature):
    for f in (miniature / "imagenet-o" / O[3]).iterdir():
        f.unlink()
    keys = {"data": str(miniature / "imagenet-o"), "id_data": str(miniature / "val")}
    model = loaded(vit(1000), IMAGENET)
    with pytest.raises(EvalkitError, match=f"1 of 200 class folders are missing or empty \\({O[3]}\\)"):
        imagenet_o.prepare(model, ImageNetOConfig(**keys), CPU)
    plan = imagenet_o.prepare(model, ImageNetOConfig(**keys, allow_partial=True), CPU)
    assert not plan.complete and len(plan.rows["id"]) == len(plan.rows["ood"]) == 199
    assert not any(s.startswith(O[3]) for s in plan.sets["id"].ids)


def test_a_class_without_in_distribution_images_is_refused(miniature):
    (miniature / "val" / O[9]).rename(miniature / "val" / ".hidden")
    cfg = ImageNetOConfig(data=str(miniature / "imagenet-o"), id_data=str(miniature / "val"))
    with pytest.raises(
        EvalkitError, match=f"val is not complete: 1 of 200 class folders are missing or empty \\({O[9]}\\)"
    ):
        imagenet_o.prepare(loaded(vit(1000), IMAGENET), cfg, CPU)


def test_a_model_without_the_classes_is_refused(miniature):
    cfg = ImageNetOConfig(data=str(miniature / "imagenet-o"), id_data=str(miniature / "val"))
    with pytest.raises(EvalkitError, match="is none of the 3 classes"):
        imagenet_o.prepare(loaded(vit(3), ["a", "b", "c"]), cfg, CPU)
