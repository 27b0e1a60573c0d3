"""Errors over images: the metrics of a draw are those of the evaluation on the images drawn, copies and all; and what
is kept of every image gives them again."""

import contextlib
import importlib.util
import io

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from evalkit.downstream import per_image, spread
from evalkit.downstream.about.det import AT


def test_segmentation_of_a_draw_is_that_of_the_images_drawn():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 3, (6, 20)), rng.integers(0, 4, (6, 20))
    masks = [(t == c, f == c) for t, f in zip(truth, found) for c in range(4)]
    images = np.array([[(t & f).sum(), (t | f).sum(), t.sum()] for t, f in masks]).reshape(6, 4, 3).transpose(0, 2, 1)
    counts = rng.multinomial(6, [1 / 6] * 6, 5).astype(float)
    measured = spread.Segmentation(images)
    values = measured.resampled(counts)
    for r, row in enumerate(counts.astype(int)):
        t, f = (np.concatenate([part[i] for i in range(6) for _ in range(row[i])]) for part in (truth, found))
        ious = [((t == c) & (f == c)).sum() / union for c in range(4) if (union := ((t == c) | (f == c)).sum())]
        assert values["miou"][r] == pytest.approx(np.mean(ious))
        shares = [((t == c) & (f == c)).sum() / (t == c).sum() for c in range(4) if (t == c).any()]
        assert values["mean_accuracy"][r] == pytest.approx(np.mean(shares))
        assert values["pixel_accuracy"][r] == pytest.approx((t == f).mean())
    assert list(spread.Segmentation(images, "_ms").values) == ["miou_ms"]
    errors, intervals = spread.over_images([f"{i}" for i in range(6)], [measured])
    assert set(errors) == set(values) and all(
        intervals[m][0] <= value <= intervals[m][1] for m, value in measured.values.items()
    )


def test_the_mean_of_the_classes_is_scikit_learns_balanced_accuracy_of_the_images_drawn():
    rng = np.random.default_rng(0)
    labels, found = rng.choice(list("abcd"), 60, p=[0.6, 0.2, 0.1, 0.1]), rng.choice(list("abcd"), 60)
    counts = rng.multinomial(60, [1 / 60] * 60, 20).astype(float)
    measured = spread.PerClass(labels, labels == found)
    assert measured.values == {"mean_per_class": pytest.approx(balanced_accuracy_score(labels, found))}
    values = measured.resampled(counts)["mean_per_class"]
    for value, row in zip(values, counts.astype(int)):
        drawn = np.repeat(np.arange(60), row)
        assert value == pytest.approx(balanced_accuracy_score(labels[drawn], found[drawn]))
    # of a class that no draw holds, nothing is known
    assert spread.PerClass(labels, labels == found).resampled(np.eye(60)[:1])["mean_per_class"][0] in (0.0, 1.0)


def test_names_of_images_do_not_say_where_the_data_lie():
    assert per_image.names(["/x/val/a.png", "/x/val/b.png"]).tolist() == ["a.png", "b.png"]
    cities = ["/y/leftImg8bit/val/bonn/1.png", "/y/leftImg8bit/val/ulm/1.png"]
    assert per_image.names(cities).tolist() == ["bonn/1.png", "ulm/1.png"]
    assert per_image.names(["/x/val/a.png"]).tolist() == ["a.png"]


def scene(rng, copies):
    """COCO annotations and detections of images, each as often as it was drawn."""
    images, objects, found = [], [], []
    for i, times in enumerate(copies):
        own = np.random.default_rng(100 + i)
        boxes = [own.integers(0, 60, 2).tolist() + own.integers(20, 50, 2).tolist() for _ in range(3)]
        kinds, crowd = own.integers(1, 3, 3), int(own.random() < 0.3)
        seen = [
            ([b + int(s) for b, s in zip(box, own.integers(-6, 7, 4))], k, own.random()) for box, k in zip(boxes, kinds)
        ]
        seen += [(own.integers(5, 60, 4).tolist(), int(own.integers(1, 3)), own.random()) for _ in range(3)]
        for copy in range(times):
            name = 1000 * (i + 1) + copy
            images.append({"id": name, "width": 200, "height": 200})
            for n, (box, kind) in enumerate(zip(boxes, kinds)):
                area, last = box[2] * box[3], n == 2
                objects.append({"image_id": name, "category_id": int(kind), "bbox": box, "area": area})
                objects[-1] |= {"iscrowd": crowd * last, "id": len(objects)}
            found += [{"image_id": name, "category_id": int(k), "bbox": b, "score": float(s)} for b, k, s in seen]
    return images, objects, found


def judged(copies):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        images, objects, found = scene(None, copies)
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": k, "name": str(k)} for k in (1, 2)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="the extra 'downstream' is not installed")
def test_average_precision_of_a_draw_is_pycocotools_on_the_images_drawn():
    from evalkit.downstream.mm import require

    require("mmdet")
    det = importlib.import_module("evalkit.downstream.mm.det")
    matches = [det._matches(judged([1] * 5), k) for k in (0, 1)]
    draws = np.array([[1, 1, 1, 1, 1], [2, 0, 3, 0, 0], [0, 1, 1, 2, 1], [0, 0, 0, 5, 0]])
    for k in (0, 1):
        ours = spread.average_precision(matches[k], draws.astype(float))
        for r, row in enumerate(draws):
            theirs = judged(row.tolist()).eval["precision"][:, :, k, 0, -1].mean(axis=1)
            theirs = np.where(theirs < 0, np.nan, theirs)
            np.testing.assert_allclose(ours[r], theirs, atol=1e-12)
    measured = spread.Detection({"box": matches, "mask": matches[::-1]})
    values = measured.resampled(draws.astype(float))
    expected = judged([1] * 5).eval["precision"][:, :, :, 0, -1]
    assert values["box_ap"][0] == pytest.approx(expected.mean()) and values["box_ap50"][0] == pytest.approx(
        expected[0].mean()
    )
    assert values["box_ap75"][0] == pytest.approx(expected[5].mean())
    again = spread.Detection(spread.unpacked(spread.packed(measured.kinds)))
    assert again.values == measured.values and set(again.values) == {f"{k}_ap{a}" for k in ("box", "mask") for a in AT}
    for name, drawn in again.resampled(draws.astype(float)).items():
        np.testing.assert_array_equal(drawn, measured.resampled(draws.astype(float))[name])
    errors, _ = spread.over_images([f"{i}" for i in range(5)], [spread.Detection({"box": matches})])
    assert set(errors) <= {"box_ap", "box_ap50", "box_ap75"}
