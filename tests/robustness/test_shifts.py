"""ImageNet-R, -Sketch, V2 and val: miniatures of the true layouts, reassessed labels, unreadable images that count as
wrong."""

import json
import math
import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.models import imagenet_classes
from evalkit.robustness import PROTOCOLS, imagenet_a, layouts, shifts
from evalkit.robustness.about.shifts import ImageNetRConfig, ImageNetSketchConfig, ImageNetV2Config, ImageNetValConfig

from .fakes import CPU, loaded, shrink, vit, write_tree

IMAGENET = imagenet_classes()
R = layouts.wnids("imagenet-r")
V2 = "imagenetv2-matched-frequency-format-val"


@pytest.fixture(scope="module")
def network():
    net = vit(1000)
    net.input_size = (16, 16)
    return net


@pytest.fixture
def model(network):
    return loaded(network, IMAGENET)


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    shrink(monkeypatch, {"imagenet-a": 200, "imagenet-r": 200, "imagenet-sketch": 1000, "imagenet-v2": 1000})


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A few small files, linked to wherever a tree needs one."""
    root = write_tree(tmp_path_factory.mktemp("pixels"), {"x": 20}, side=16)
    return sorted((root / "x").iterdir())


def link_tree(root: Path, folders, pixels, name="a.JPEG"):
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        os.link(pixels[i % len(pixels)], root / folder / name)
    return root


def collected(protocol, model, cfg):
    plan = PROTOCOLS[protocol].load().prepare(model, cfg, CPU)
    arrays, bad = PROTOCOLS[protocol].load().collect(model, plan, cfg, CPU)
    assert bad == []
    return plan, arrays, PROTOCOLS[protocol].load().evaluate(arrays)


# ---- the sets


def test_the_list_of_imagenet_r():
    assert len(R) == 200 and sorted(R) == R and set(R) <= set(IMAGENET) and layouts.wnids("imagenet-a") != R
    folder = resources.files("timm.data") / "_info"
    assert (folder / "imagenet_r_synsets.txt").read_text().split() == R
    assert [int(i) for i in (folder / "imagenet_r_indices.txt").read_text().split()] == [IMAGENET.index(w) for w in R]


def test_imagenet_r_is_restricted_to_its_classes(tmp_path, model, pixels):
    link_tree(tmp_path / "imagenet-r", R, pixels)
    (tmp_path / "imagenet-r" / "README.txt").write_text("about")
    plan, arrays, outcome = collected("imagenet-r", model, ImageNetRConfig(data=str(tmp_path), workers=0))
    assert (
        plan.complete
        and plan.sets["data"].name == "imagenet-r"
        and arrays["restrict"].tolist() == [IMAGENET.index(w) for w in R]
    )
    assert [R[i] for i in arrays["labels"]] == [sample.split("/")[0] for sample in arrays["ids"]] and outcome.n == 200
    kept = arrays["logits"][:, arrays["restrict"]]
    assert outcome.metrics["top1"] == (kept.argmax(1) == arrays["labels"]).mean()
    assert (
        outcome.metrics["top1_unrestricted"]
        == (arrays["logits"].argmax(1) == arrays["restrict"][arrays["labels"]]).mean()
    )


def test_sketch_has_a_thousand_classes(tmp_path, model, pixels):
    link_tree(tmp_path / "sketch", IMAGENET, pixels)
    plan, arrays, _ = collected("imagenet-sketch", model, ImageNetSketchConfig(data=str(tmp_path), workers=0))
    assert (
        plan.complete
        and plan.notes[0].startswith("1000 of 1000 class folders matched")
        and arrays["labels"].tolist() == list(range(1000))
    )


def test_the_folders_of_v2_are_numbers_not_text(tmp_path, network, pixels):
    """Sorted as text, folder 10 would be the third class. A model whose outputs are in another order makes no
    difference."""
    link_tree(tmp_path / V2, map(str, range(1000)), pixels)
    for classes in (IMAGENET, IMAGENET[::-1]):
        plan, arrays, _ = collected(
            "imagenet-v2", loaded(network, classes), ImageNetV2Config(data=str(tmp_path), workers=0)
        )
        assert plan.complete and plan.sets["data"].name == "imagenet-v2 matched-frequency"
        outputs = arrays["restrict"][arrays["labels"]]
        assert [classes[o] for o in outputs] == [IMAGENET[int(sample.split("/")[0])] for sample in arrays["ids"]]


def test_v2_in_parts_or_several(tmp_path, model, pixels):
    root = link_tree(tmp_path / V2, map(str, range(1000)), pixels)
    whole = layouts.open_set("imagenet-v2", str(root), model, False)
    before = {s: whole.images.classes[label] for s, label in zip(whole.images.ids, whole.images.labels)}
    shutil.rmtree(root / "7")
    with pytest.raises(
        EvalkitError,
        match=rf"1 of 1000 class folders are missing or empty \({IMAGENET[7]}\); 999 images instead of 1,000",
    ):
        layouts.open_set("imagenet-v2", str(root), model, False)
    partial = layouts.open_set("imagenet-v2", str(root), model, True)
    after = {s: partial.images.classes[label] for s, label in zip(partial.images.ids, partial.images.labels)}
    assert (
        not partial.complete
        and set(before) - set(after) == {"7/a.JPEG"}
        and all(before[s] == c for s, c in after.items())
    )
    (root / "1000").mkdir()
    with pytest.raises(EvalkitError, match=r"the folder '1000' in .* is none of the 1000 classes"):
        layouts.open_set("imagenet-v2", str(root), model, True)
    (tmp_path / "imagenetv2-top-images-format-val").mkdir()
    with pytest.raises(
        EvalkitError,
        match="holds imagenetv2-matched-frequency-format-val and imagenetv2-top-images-format-val, which are different",
    ):
        layouts.open_set("imagenet-v2", str(tmp_path), model, True)


def test_only_the_matched_frequency_set_of_v2_is_what_papers_print(tmp_path, network, pixels, monkeypatch):
    monkeypatch.setattr(network, "input_size", (224, 224))
    expected = {
        V2: ("matched-frequency", True),
        "imagenetv2-top-images-format-val": ("top-images", False),
        "mine": ("of unknown choice", False),
    }
    for folder, (variant, published) in expected.items():
        root = link_tree(tmp_path / folder, map(str, range(1000)), pixels)
        plan = shifts.prepare("imagenet-v2", loaded(network, IMAGENET), ImageNetV2Config(data=str(root)), CPU)
        assert (plan.sets["data"].name, plan.published, plan.complete) == (f"imagenet-v2 {variant}", published, True)
        assert published or plan.notes[-1].startswith(
            "the folder's name is not that of the matched-frequency set, which papers print; the images are "
        )


def test_published_with_the_published_settings_only(tmp_path, network, pixels, monkeypatch):
    monkeypatch.setattr(network, "input_size", (224, 224))
    root = str(link_tree(tmp_path / "imagenet-r", R, pixels))

    def published(**keys):
        return shifts.prepare(
            "imagenet-r", loaded(network, IMAGENET), ImageNetRConfig(data=root, **keys), CPU
        ).published

    assert published() and not published(limit=9) and not published(preprocess="model")


# ---- ImageNet val


def val_name(i: int) -> str:
    return f"ILSVRC2012_val_{i:08d}.JPEG"


def write_val(root: Path, pixels, flat: bool) -> Path:
    """One image of each class, numbered in an order that is not the classes'; with a labels file beside a flat
    folder."""
    root.mkdir(parents=True)
    lines = []
    for i in range(1000):
        wnid = IMAGENET[(i * 7) % 1000]
        folder = root if flat else root / wnid
        folder.mkdir(exist_ok=True)
        os.link(pixels[i % len(pixels)], folder / val_name(i + 1))
        lines.append(f"{val_name(i + 1)} {wnid}")
    (root.parent / "labels.txt").write_text("\n".join(lines))
    return root


def test_a_flat_folder_gives_the_same_records_as_class_folders(tmp_path, model, pixels):
    write_val(tmp_path / "a" / "val", pixels, flat=False)
    flat = write_val(tmp_path / "b" / "val", pixels, flat=True)
    labels = str(tmp_path / "b" / "labels.txt")
    one, a, first = collected("imagenet-val", model, ImageNetValConfig(data=str(tmp_path / "a"), workers=0))
    two, b, second = collected(
        "imagenet-val", model, ImageNetValConfig(data=str(tmp_path / "b"), workers=0, val_labels=labels)
    )
    assert one.sets["data"].fingerprint == two.sets["data"].fingerprint and one.complete and two.complete
    assert set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a) and first.metrics == second.metrics
    with pytest.raises(
        EvalkitError, match=r"val holds 1000 images but no class folders; name their classes with val_labels=FILE"
    ):
        layouts.open_set("val", str(flat), model, False)
    with pytest.raises(EvalkitError, match="val_labels is for images without class folders, but .* holds folders"):
        layouts.open_set("val", str(tmp_path / "a" / "val"), model, False, labels=labels)
    with pytest.raises(EvalkitError, match="val_labels belongs to a folder of images; digits is an embedded set"):
        layouts.open_set("val", "digits", model, False, labels=labels)
    (flat / val_name(3)).unlink()
    with pytest.raises(EvalkitError, match=rf"1 of 1000 class folders are missing or empty \({IMAGENET[14]}\)"):
        layouts.open_set("val", str(flat), model, False, labels=labels)


def test_the_clean_images_of_a_run_are_prepared_as_it_validates(tmp_path, model, pixels):
    """And only they: what is published of the other sets was made in one way for every network."""
    recipe = {"image_size": 12, "eval_size": 16, "eval_resize": 17, "interpolation": "bicubic"}
    model.meta["config"] = recipe
    write_val(tmp_path / "a" / "val", pixels, flat=False)
    folder = str(tmp_path / "a")
    for keys, words in [
        ({}, "shorter side 17 (bicubic), centre 16"),
        ({"preprocess": "published"}, "shorter side 18 (bilinear), centre 16"),
    ]:
        plan = PROTOCOLS["imagenet-val"].load().prepare(model, ImageNetValConfig(data=folder, workers=0, **keys), CPU)
        assert str(plan.transform) == words and plan.resolved == {"preprocess": keys.get("preprocess", "run")}
    r = str(link_tree(tmp_path / "r", R, pixels))
    plan = PROTOCOLS["imagenet-r"].load().prepare(model, ImageNetRConfig(data=r, workers=0), CPU)
    assert str(plan.transform) == "shorter side 18 (bilinear), centre 16"
    model.meta["config"] = recipe | {"eval_size": None}  # a run at 12 pixels, but the network was told to take 16
    plan = PROTOCOLS["imagenet-val"].load().prepare(model, ImageNetValConfig(data=folder, workers=0), CPU)
    assert str(plan.transform) == "shorter side 18 (bilinear), centre 16"
    model.meta["config"] = {"image_size": 16}
    with pytest.raises(EvalkitError, match="does not say how its run prepared validation images"):
        PROTOCOLS["imagenet-val"].load().prepare(model, ImageNetValConfig(data=folder, workers=0), CPU)


def test_reassessed_labels(tmp_path, model, pixels):
    """Against the official list: correct if the prediction is one of the image's labels; images without any do not
    count."""
    write_val(tmp_path / "val", pixels, flat=False)
    _, arrays, outcome = collected("imagenet-val", model, ImageNetValConfig(data=str(tmp_path), workers=0))
    official = json.loads((resources.files("timm.data") / "_info" / "imagenet_real_labels.json").read_text())
    right = []
    for sample, z in zip(arrays["ids"], arrays["logits"]):
        labels = official[int(sample[-13:-5]) - 1]
        right += [int(z.argmax()) in labels] if labels else []
    assert outcome.metrics["real_top1"] == np.mean(right) and outcome.data["n_real"] == len(right) < 1000
    assert official[0] == [] and (arrays["real"][[s.endswith("00000001.JPEG") for s in arrays["ids"]]] == -1).all()


def test_reassessed_labels_by_hand():
    z = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    real = np.array([[0, -1], [2, 3], [-1, -1], [0, 3]], dtype=np.int16)
    arrays = {
        "ids": np.arange(4).astype(str),
        "labels": np.array([0, 1, 2, 0]),
        "logits": z,
        "restrict": np.arange(4),
        "real": real,
    }
    outcome = shifts.evaluate_val(arrays)
    assert (
        outcome.metrics["top1"] == 0.75
        and outcome.metrics["real_top1"] == pytest.approx(2 / 3)
        and outcome.data == {"n_real": 3}
    )
    nothing = shifts.evaluate_val(arrays | {"real": np.full((4, 2), -1, np.int16)})
    assert (
        math.isnan(nothing.metrics["real_top1"])
        and "real_top1" in nothing.undefined
        and "real_top1" not in nothing.standard_errors
    )


def test_reassessed_labels_follow_the_models_order_of_classes(network):
    names = [f"x/{val_name(i)}" for i in (2, 4)]  # official: [970, 795] and [809]
    table = shifts.real_labels(loaded(network, IMAGENET[::-1]), names)
    assert table[0][:3].tolist() == [999 - 970, 999 - 795, -1] and table[1][:2].tolist() == [999 - 809, -1]
    assert shifts.real_labels(loaded(network, IMAGENET), [*names, "x/mine.JPEG"]) is None


def test_the_clean_counterpart_of_another_set(tmp_path, model, pixels):
    write_val(tmp_path / "val", pixels, flat=False)
    _, arrays, outcome = collected(
        "imagenet-val", model, ImageNetValConfig(data=str(tmp_path), workers=0, classes="imagenet-a")
    )
    a = layouts.wnids("imagenet-a")
    assert (
        outcome.n == 200
        and arrays["restrict"].tolist() == [IMAGENET.index(w) for w in a]
        and {s.split("/")[0] for s in arrays["ids"]} == set(a)
    )
    assert "real" not in arrays and "top1_unrestricted" in outcome.metrics


# ---- unreadable and peculiar images


def test_unreadable_images_can_count_as_wrong(tmp_path, model):
    """Two of 200: everything as if they had been answered wrongly with a confidence of 0."""
    root = write_tree(tmp_path / "imagenet-r", dict.fromkeys(R, 1), side=16)  # no two alike, so that no confidences tie
    lost = [f"{wnid}/{wnid}_0000.JPEG" for wnid in (R[3], R[150])]
    for sample in lost:
        (root / sample).write_bytes(b"")
    cfg = ImageNetRConfig(data=str(root), workers=0, on_error="wrong")
    plan = PROTOCOLS["imagenet-r"].load().prepare(model, cfg, CPU)
    arrays, bad = PROTOCOLS["imagenet-r"].load().collect(model, plan, cfg, CPU)
    assert [b[0] for b in bad] == lost and arrays["readable"].sum() == 198 and len(arrays["ids"]) == 200
    m = imagenet_a.evaluate(arrays).metrics
    z = arrays["logits"][:198, arrays["restrict"]].astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    correct, confidence = np.append(p.argmax(1) == arrays["labels"][:198], [False] * 2), np.append(p.max(1), [0.0] * 2)
    assert (
        m["top1"] == correct.mean()
        and m["mean_confidence"] == pytest.approx(confidence.mean(), abs=1e-12)
        and math.isnan(m["nll"])
    )
    order = np.argsort(confidence, kind="stable")
    bins = [order[:100], order[100:]]
    gaps = [0.5 * (confidence[b].mean() - correct[b].mean()) ** 2 for b in bins]
    assert m["rms_calibration_error"] == pytest.approx(math.sqrt(gaps[0]), abs=1e-12)
    assert m["rms_calibration_error_include"] == pytest.approx(math.sqrt(sum(gaps)), abs=1e-12)
    down = order[::-1]
    assert m["aurra"] == pytest.approx(np.mean(np.cumsum(correct[down]) / np.arange(1, 201)), abs=1e-9)


def test_every_kind_of_file_goes_through_as_pillow_converts_it(tmp_path, model, pixels, monkeypatch):
    """Grey, palette, alpha, CMYK, turned by EXIF, one pixel, very wide: the logits are those of the published
    preprocessing of the plain conversion."""
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    from evalkit.inference import Pass, predict

    root = link_tree(tmp_path / "imagenet-r", R, pixels)
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "grey.png": rgb.convert("L"),
        "bits.png": rgb.convert("1"),
        "palette.png": rgb.convert("P"),
        "alpha.png": rgb.convert("RGBA"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "pixel.png": Image.new("RGB", (1, 1), (9, 99, 199)),
        "wide.png": rgb.resize((400, 20)),
    }
    for name, image in kinds.items():
        image.save(root / R[0] / name)
    rgb.save(root / R[0] / "turned.jpg", exif=exif)
    shrink(monkeypatch, {"imagenet-r": 208})
    cfg = ImageNetRConfig(data=str(root), workers=0)
    plan, arrays, _ = collected("imagenet-r", model, cfg)
    reference = Compose([Resize(18), CenterCrop(16), PILToTensor()])  # floor(16 * 256 / 224)
    seen = predict(model.network, plan.sets["data"], lambda image: reference(image), Pass(CPU, workers=0))
    np.testing.assert_array_equal(arrays["logits"], seen.logits)
    notes = plan.sets["data"].notes
    assert (notes["cmyk_converted"], notes["exif_orientation_ignored"], notes["alpha_dropped"]) == (1, 1, 1)
