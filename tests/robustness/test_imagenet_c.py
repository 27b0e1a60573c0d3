"""ImageNet-C: the numbers from hand-made predictions, a miniature of the true layout, files used as they are."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.data.images import ArrayImages
from evalkit.errors import EvalkitError
from evalkit.models import imagenet_classes
from evalkit.robustness import imagenet_c
from evalkit.robustness.about.imagenet_c import CORRUPTIONS, SEVERITIES, ImageNetCConfig

from .fakes import CPU, loaded, shrink, vit, write_corruptions, write_tree

IMAGENET = imagenet_classes()
CLASSES = ["bird", "cat", "dog"]
CELLS = [(c, s) for c in CORRUPTIONS for s in SEVERITIES]


def arrays(predictions, labels, cells):
    return {
        "ids": np.arange(len(labels)).astype(str),
        "labels": np.array(labels),
        "predictions": np.array(predictions, dtype=np.int16),
        "corruption": np.array([c for c, _ in cells]),
        "severity": np.array([s for _, s in cells]),
    }


# ---- the numbers


def test_the_table_of_alexnet():
    """As the list in the code of AugMix (Hendrycks et al., ICLR 2020), in the order of its corruptions."""
    augmix = [
        0.886428,
        0.894468,
        0.922640,
        0.819880,
        0.826268,
        0.785948,
        0.798360,
        0.866816,
        0.826572,
        0.819324,
        0.564592,
        0.853204,
        0.646056,
        0.717840,
    ]
    assert list(imagenet_c.ALEXNET.values()) == [*augmix, 0.606500]
    assert (
        tuple(imagenet_c.ALEXNET) == CORRUPTIONS
        and len(CORRUPTIONS) == 15
        and not set(imagenet_c.EXTRA) & set(CORRUPTIONS)
    )


def test_alexnets_own_errors_are_an_mce_of_one():
    """Predictions that err as often as AlexNet does, to the image: 100,000 of them would be too many, so the errors are
    rounded to 1/500."""
    rows = np.zeros((500, 75), dtype=int)
    for i, (c, _) in enumerate(CELLS):
        rows[: round(500 * imagenet_c.ALEXNET[c]), i] = 1
    m = imagenet_c.evaluate(arrays(rows, np.zeros(500, int), CELLS)).metrics
    assert m["mce"] == pytest.approx(1.0, abs=1e-3) and m["mean_error"] == pytest.approx(
        np.mean(list(imagenet_c.ALEXNET.values())), abs=1e-3
    )


def test_mce_is_not_the_mean_error():
    """Always wrong under fog and nowhere else: mean error 1/15, mCE 1/(15 * .819324)."""
    rows = np.zeros((3, 75), dtype=int)
    rows[:, [c == "fog" for c, _ in CELLS]] = 1
    outcome = imagenet_c.evaluate(arrays(rows, [0, 0, 0], CELLS))
    assert outcome.metrics["mean_error"] == pytest.approx(1 / 15) and outcome.metrics["mce"] == pytest.approx(
        1 / (15 * 0.819324)
    )
    assert (
        outcome.metrics["error_fog"] == 1
        and outcome.metrics["error_snow"] == 0
        and outcome.undefined == {}
        and outcome.n == 3
    )
    # three images alike
    assert set(outcome.standard_errors) == {"mean_error", "mce", *(f"error_{c}" for c, _ in CELLS)}
    assert (
        max(outcome.standard_errors.values()) < 1e-15
        and max(high - low for low, high in outcome.intervals.values()) < 1e-15
    )
    assert {"mode": "fog", "level": 3, "top1": 0.0} in outcome.series and len(outcome.series) == 75


def test_severities_count_alike_and_missing_images_are_left_out_where_they_are_missing():
    cells = [("fog", 1), ("fog", 2), ("snow", 1)]
    outcome = imagenet_c.evaluate(arrays([[0, 1, 1], [1, -1, 0], [0, -1, 1], [0, 0, -1]], [0, 0, 1, 0], cells))
    # fog/1: wrong for the second and third image, fog/2: one of two, snow/1: one of three
    assert outcome.metrics["error_fog"] == pytest.approx((2 / 4 + 1 / 2) / 2) and outcome.metrics[
        "error_snow"
    ] == pytest.approx(1 / 3)
    assert outcome.metrics["mean_error"] == pytest.approx((1 / 2 + 1 / 3) / 2) and outcome.standard_errors == {}
    assert np.isnan(outcome.metrics["mce"]) and outcome.undefined == {
        "mce": "not all 15 corruptions at all five severities were evaluated"
    }


def test_the_standard_error_is_that_of_the_images():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (40, 75))
    outcome = imagenet_c.evaluate(arrays(rows, np.zeros(40, int), CELLS))
    per_image = [
        np.mean([rows[i, 5 * k : 5 * k + 5].mean() / imagenet_c.ALEXNET[c] for k, c in enumerate(CORRUPTIONS)])
        for i in range(40)
    ]
    assert outcome.metrics["mce"] == pytest.approx(np.mean(per_image)) and outcome.standard_errors[
        "mce"
    ] == pytest.approx(np.std(per_image) / 40**0.5)


# ---- from files


def config(root, **keys):
    return ImageNetCConfig(
        data=str(root),
        workers=0,
        **{"corruptions": ["fog", "snow"], "severities": [1, 3], "preprocess": "published"} | keys,
    )


def test_predictions_of_every_cell_are_those_of_its_own_files(tmp_path):
    root = write_corruptions(tmp_path / "c", dict.fromkeys(CLASSES, 4))
    model = loaded(vit(3), CLASSES[::-1])
    plan = imagenet_c.prepare(model, config(root), CPU)
    assert plan.complete and not plan.published and list(plan.sets) == ["fog/1", "fog/3", "snow/1", "snow/3"]
    got, bad = imagenet_c.collect(model, plan, config(root), CPU)
    assert bad == [] and got["predictions"].shape == (12, 4)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.network.mean, model.network.std))
    for column, cell in enumerate(plan.sets):
        for sample, label, predicted in zip(got["ids"], got["labels"], got["predictions"][:, column]):
            with Image.open(root / cell / sample) as image, torch.no_grad():
                x = plan.transform(image.convert("RGB")) / 255
                assert predicted == int(model.network(((x - mean) / std)[None]).logits.argmax())
            assert CLASSES[::-1][label] == sample.split("/")[0]
    (root / "fog" / "3" / "cat" / "cat_0001.JPEG").write_bytes(b"")
    again, bad = imagenet_c.collect(model, plan, config(root), CPU)
    row = again["ids"].tolist().index("cat/cat_0001.JPEG")
    expected = got["predictions"].copy()
    expected[row, 1] = -1
    assert bad == [("fog/3/cat/cat_0001.JPEG", "empty file")] and np.array_equal(again["predictions"], expected)


@pytest.fixture
def miniature(monkeypatch):
    shrink(monkeypatch, {})


@pytest.fixture(scope="module")
def true_layout(tmp_path_factory):
    """All 75 cells with all 1000 classes would be 75,000 files; two cells of them, in the archives' folders, and the
    others empty of them."""
    root = tmp_path_factory.mktemp("imagenet-c")
    file = next((write_tree(root / ".pixels", {"x": 1}, side=16) / "x").iterdir())
    for cell in ("weather/fog/1", "blur/glass_blur/5"):
        for wnid in IMAGENET:
            (root / cell / wnid).mkdir(parents=True)
            os.link(file, root / cell / wnid / "ILSVRC2012_val_00000001.JPEG")
    (root / "extra" / "saturate" / "1").mkdir(parents=True)
    return root


def test_the_true_layout_in_the_folders_of_the_archives(true_layout, miniature):
    model = loaded(vit(1000), IMAGENET)
    cfg = config(true_layout, corruptions=["fog"], severities=[1])
    plan = imagenet_c.prepare(model, cfg, CPU)
    assert plan.complete and not plan.published and len(plan.sets["fog/1"]) == 1000
    assert plan.notes == [
        "1 of 75 pairs of a corruption and a severity, 1000 classes matched by name",
        "no part of mCE and passed over: saturate",
    ]
    with pytest.raises(
        EvalkitError,
        match=r"is not complete: fog/2 is missing; glass_blur/1 is missing; glass_blur/2 is missing\. Complete it",
    ):
        imagenet_c.prepare(model, config(true_layout, corruptions=["fog", "glass_blur"], severities=[1, 2]), CPU)


def test_a_class_that_is_missing_in_one_cell_is_named_and_changes_no_label(tmp_path, true_layout, miniature):
    root = shutil.copytree(true_layout, tmp_path / "c", copy_function=os.link)
    shutil.rmtree(root / "weather/fog/1" / IMAGENET[5])
    model = loaded(vit(1000), IMAGENET)
    cfg = config(root, corruptions=["fog"], severities=[1])
    with pytest.raises(EvalkitError, match=rf"fog/1: 1 of 1000 class folders are missing or empty \({IMAGENET[5]}\)"):
        imagenet_c.prepare(model, cfg, CPU)
    plan = imagenet_c.prepare(model, config(root, corruptions=["fog"], severities=[1], allow_partial=True), CPU)
    assert not plan.complete
    images = plan.sets["fog/1"]
    assert len(images) == 999 and all(IMAGENET[label] == s.split("/")[0] for s, label in zip(images.ids, images.labels))


def test_files_are_used_as_they_are_at_224_pixels(tmp_path):
    root, model = write_corruptions(tmp_path / "c", {"cat": 1}, ("fog",), (1,), side=224), loaded(vit(3), CLASSES)
    model.network.input_size = (224, 224)
    keys = {"corruptions": ["fog"], "severities": [1], "preprocess": None}
    plan = imagenet_c.prepare(model, config(root, **keys), CPU)
    assert plan.settings["preprocess"] == {"mode": "native", "side": 224}
    image = ArrayImages(
        "x", ["x"], [0], ["x"], np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    ).read(0)
    assert np.array_equal(plan.transform(image).permute(1, 2, 0).numpy(), np.asarray(image))
    with pytest.raises(EvalkitError, match="used as they are, 227 x 224, but 224 x 224 is asked for"):
        imagenet_c.collect(model, plan, config(root, **keys), CPU)  # write_tree makes them 3 pixels wider
    small = loaded(vit(3), CLASSES)
    with pytest.raises(
        EvalkitError,
        match=(
            "the files of ImageNet-C have 224 pixels and fake takes 16; choose preprocess=published or model to resize"
            " them"
        ),
    ):
        imagenet_c.prepare(small, config(root, **keys), CPU)


def test_published_is_all_of_it_as_it_is(tmp_path, monkeypatch):
    cells = {f"{c}/{s}": ArrayImages("x", ["x"], [0], IMAGENET, np.zeros((1, 224, 224, 3), np.uint8)) for c, s in CELLS}
    monkeypatch.setattr(imagenet_c, "_cells", lambda *args: (cells, [], []))
    network = vit(1000)
    network.input_size = (224, 224)

    def published(**keys):
        return imagenet_c.prepare(loaded(network, IMAGENET), ImageNetCConfig(data=str(tmp_path), **keys), CPU).published

    assert published() and published(workers=5)
    assert (
        not published(preprocess="published")
        and not published(limit=5)
        and not published(severities=[5])
        and not published(corruptions=["fog"])
    )


def test_one_clear_line(tmp_path):
    model = loaded(vit(3), CLASSES)
    with pytest.raises(EvalkitError, match="no such folder: .*/none; imagenet-c has no embedded stand-in"):
        imagenet_c.prepare(model, config(tmp_path / "none"), CPU)
    with pytest.raises(EvalkitError, match=r"is not complete: fog is missing; snow is missing\. Complete it"):
        imagenet_c.prepare(model, config(tmp_path), CPU)
    with pytest.raises(
        EvalkitError, match="holds none of the corruptions; expected .*/gaussian_noise/1/CLASS/image.JPEG"
    ):
        imagenet_c.prepare(model, config(tmp_path, allow_partial=True), CPU)
    (tmp_path / "gausian_noise").mkdir()
    with pytest.raises(
        EvalkitError,
        match="the folder 'gausian_noise' in .* is none of the corruptions.* Did you mean 'gaussian_noise'",
    ):
        imagenet_c.prepare(model, config(tmp_path), CPU)
    with pytest.raises(EvalkitError, match="the class names of fake are not known"):
        imagenet_c.prepare(loaded(vit(3), None), config(Path(tmp_path)), CPU)
