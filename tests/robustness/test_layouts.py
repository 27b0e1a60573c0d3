"""Data layouts: miniatures with the true folder names, and one clear line for each thing that can be wrong with
them."""

import hashlib
import shutil
from collections import Counter

import numpy as np
import pytest
from timm.data import ImageNetInfo

from evalkit.errors import EvalkitError
from evalkit.robustness import layouts
from evalkit.robustness.layouts import choose, class_indices, labels_in, open_set, pipeline, spread

from .fakes import loaded, shrink, vit, write_tree

IMAGENET = ImageNetInfo().label_names()
A, O = layouts.wnids("imagenet-a"), layouts.wnids("imagenet-o")  # noqa: E741


@pytest.fixture(scope="module")
def network():
    return vit(1000)


@pytest.fixture
def model(network):
    return loaded(network, IMAGENET)


@pytest.fixture(scope="module")
def tree_a(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("a"), dict.fromkeys(A, 1), side=8)


@pytest.fixture
def miniature(monkeypatch):
    """The published counts, scaled down to one image per class."""
    shrink(monkeypatch, {"imagenet-a": 200, "imagenet-o": 200})


def digest(names):
    return hashlib.sha256(("\n".join(names) + "\n").encode()).hexdigest()


# ---- the class lists


def test_the_shipped_lists_are_the_official_ones():
    assert digest(A) == "9826a24166e74ce62fb87b27889874ca26917542c745712309d6e25855d63bc2"
    assert digest(O) == "29575307f17b6cb040fcd04fee2b5b7b0e43f7c55072fb05d4b33cc39fc60978"
    assert digest(IMAGENET) == "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
    assert sorted(A) == A and sorted(O) == O and len({*A, *O}) == 400 - 59 and {*A, *O} <= set(IMAGENET)


def test_class_positions_among_the_thousand(model):
    assert class_indices(model, A)[:6].tolist() == [6, 11, 13, 15, 17, 22]
    assert class_indices(model, O)[:7].tolist() == [1, 51, 70, 79, 89, 90, 107]


def test_the_list_of_imagenet_a_equals_timms():
    import timm

    folder = __import__("pathlib").Path(timm.__file__).parent / "data" / "_info"
    assert (folder / "imagenet_a_synsets.txt").read_text().split() == A
    assert [int(i) for i in (folder / "imagenet_a_indices.txt").read_text().split()] == [IMAGENET.index(w) for w in A]


# ---- true layouts in miniature


def test_a_complete_folder_is_the_published_set(tree_a, model, miniature):
    opened = open_set("imagenet-a", str(tree_a), model, allow_partial=False)
    assert opened.complete and opened.published and opened.notes == [] and opened.images.name == "imagenet-a"
    assert opened.classes == A and opened.matched == A
    assert layouts.check_line(opened, model) == "200 of 200 class folders matched by name, of 1000 classes of the model"
    labels = labels_in(opened.images, A)
    assert all(sample.startswith(A[label] + "/") for sample, label in zip(opened.images.ids, labels))


def test_the_real_counts_are_asked_for(tree_a, model):
    with pytest.raises(
        EvalkitError,
        match=(
            r"is not complete: 200 images instead of 7,500\. Complete it, or accept it as partial with"
            r" allow_partial=true"
        ),
    ):
        open_set("imagenet-a", str(tree_a), model, allow_partial=False)
    opened = open_set("imagenet-a", str(tree_a), model, allow_partial=True)
    assert not opened.complete and opened.notes == ["imagenet-a is partial: 200 images instead of 7,500"]


def test_the_folder_that_the_archive_unpacks_to_is_found(tmp_path, tree_a, model, miniature):
    (tmp_path / "imagenet-a").symlink_to(tree_a)
    (tmp_path / "notes.txt").touch()
    assert open_set("imagenet-a", str(tmp_path), model, allow_partial=False).complete


def test_what_is_no_class_folder_is_passed_over(tmp_path, tree_a, model, miniature):
    root = shutil.copytree(tree_a, tmp_path / "a")
    (root / "README.txt").write_text("about")
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    (root / A[0] / ".DS_Store").touch()
    (root / A[0] / "notes.txt").touch()
    assert open_set("imagenet-a", str(root), model, allow_partial=False).complete


@pytest.mark.parametrize("damage", ["removed", "renamed", "emptied"])
def test_a_damaged_class_folder_is_named_and_changes_no_other_label(tmp_path, tree_a, model, miniature, damage):
    root = shutil.copytree(tree_a, tmp_path / "a")
    whole = open_set("imagenet-a", str(root), model, allow_partial=False)
    victim = A[50]
    if damage == "removed":
        shutil.rmtree(root / victim)
    elif damage == "emptied":
        for f in (root / victim).iterdir():
            f.unlink()
    else:
        (root / victim).rename(root / "n99999999")
        with pytest.raises(EvalkitError, match=r"folder 'n99999999' in .* is none of the 200 classes"):
            open_set("imagenet-a", str(root), model, allow_partial=True)
        (root / "n99999999").rename(root / ".n99999999")
    with pytest.raises(
        EvalkitError, match=rf"1 of 200 class folders are missing or empty \({victim}\); 199 images instead of 200"
    ):
        open_set("imagenet-a", str(root), model, allow_partial=False)
    partial = open_set("imagenet-a", str(root), model, allow_partial=True)
    assert not partial.complete and len(partial.matched) == 199 and partial.classes == A
    before = dict(zip(whole.images.ids, labels_in(whole.images, A)))
    after = dict(zip(partial.images.ids, labels_in(partial.images, A)))
    assert set(before) - set(after) == {f"{victim}/{victim}_0000.JPEG"} and all(
        before[k] == v for k, v in after.items()
    )


@pytest.mark.parametrize("victim", [0, 1, 99, 198, 199])
def test_no_class_folder_matters_to_the_labels_of_the_others(tmp_path, tree_a, model, victim):
    """Labels by position would all shift behind the missing folder; a swapped pair of names would pass any count."""
    root = shutil.copytree(tree_a, tmp_path / "a")
    shutil.rmtree(root / A[victim])
    opened = open_set("imagenet-a", str(root), model, allow_partial=True)
    restrict = class_indices(model, opened.classes)
    labels = labels_in(opened.images, opened.classes)
    assert restrict.tolist() == [IMAGENET.index(w) for w in A] and len(labels) == 199
    assert all(IMAGENET[restrict[label]] == sample.split("/")[0] for sample, label in zip(opened.images.ids, labels))


def test_another_sets_folder_is_refused(tmp_path, model):
    other = write_tree(tmp_path / "o", {O[0]: 1}, side=8)
    assert O[0] not in A
    with pytest.raises(EvalkitError, match=f"folder '{O[0]}' in .* is none of the 200 classes"):
        open_set("imagenet-a", str(other), model, allow_partial=True)


def test_in_distribution_images_are_those_of_the_named_classes(tmp_path, model, miniature):
    val = write_tree(tmp_path / "val", dict.fromkeys(IMAGENET[:60], 1), side=8)
    opened = open_set("val", str(tmp_path), model, allow_partial=False, only=IMAGENET[5:9])
    assert opened.complete and opened.published and opened.matched == IMAGENET[5:9]
    assert [sample.split("/")[0] for sample in opened.images.ids] == IMAGENET[5:9]
    assert labels_in(opened.images, IMAGENET[5:9]).tolist() == [0, 1, 2, 3]
    shutil.copy(next((val / IMAGENET[6]).iterdir()), val / IMAGENET[6] / "again.JPEG")
    with pytest.raises(EvalkitError, match=f"1 classes without exactly 1 images \\({IMAGENET[6]} has 2\\)"):
        open_set("val", str(val), model, allow_partial=False, only=IMAGENET[5:9])
    with pytest.raises(EvalkitError, match="940 of 1000 class folders are missing or empty"):
        open_set("val", str(val), model, allow_partial=False)


def test_folders_of_a_models_own_classes_are_matched_by_name(tmp_path):
    own = loaded(vit(4), ["dog", "cat", "bird", "fish"])
    root = write_tree(tmp_path / "hard", {"cat": 2, "dog": 3}, side=8)
    opened = open_set("imagenet-a", str(root), own, allow_partial=False)
    assert opened.complete and not opened.published and opened.classes == ["dog", "cat"]
    assert opened.notes == [f"{root} is a folder of the model's own classes, not a benchmark"]
    assert Counter(labels_in(opened.images, opened.classes).tolist()) == {0: 3, 1: 2}
    assert class_indices(own, opened.classes).tolist() == [0, 1]
    write_tree(root, {"catt": 1}, side=8)
    with pytest.raises(EvalkitError, match="'catt'.*Did you mean 'cat'"):
        open_set("imagenet-a", str(root), own, allow_partial=False)


# ---- clear lines


def test_folders_that_are_not_there_or_empty(tmp_path, model):
    with pytest.raises(EvalkitError, match="no such folder: /nowhere/at-all"):
        open_set("imagenet-a", "/nowhere/at-all", model, allow_partial=False)
    with pytest.raises(EvalkitError, match="unknown data 'digits-b'. Did you mean 'digits-"):
        open_set("imagenet-a", "digits-b", model, allow_partial=False)
    with pytest.raises(EvalkitError, match="holds no class folders"):
        open_set("imagenet-a", str(tmp_path), model, allow_partial=False)
    (tmp_path / A[0]).mkdir()
    with pytest.raises(EvalkitError, match="holds no images"):
        open_set("imagenet-a", str(tmp_path), model, allow_partial=True)


def test_a_model_of_unknown_classes_is_refused(tree_a):
    with pytest.raises(EvalkitError, match="the class names of fake are not known"):
        open_set("imagenet-a", str(tree_a), loaded(vit(7), None), allow_partial=True)
    with pytest.raises(EvalkitError, match="model fake has no class 'z'; 1 of 2 classes"):
        class_indices(loaded(vit(2), ["a", "b"]), ["a", "z"])


def test_defaults_are_the_stand_ins_for_a_checkpoint_trained_on_digits_photo():
    stand_in, other = loaded(vit(), ["0"], data="digits-photo"), loaded(vit(), ["0"], data="imagenet")
    sets = ("imagenet-a", "imagenet-o", "val")
    assert [choose(kind, None, stand_in) for kind in sets] == ["digits-a", "digits-o", "digits-photo"]
    assert choose("imagenet-a", "mine", other) == "mine"
    assert [choose("val", None, loaded(vit(), ["0"], data=name)) for name in ("digits", "fashion-mnist")] == [
        "digits",
        "fashion-mnist",
    ]
    lines = {
        ("imagenet-a", "--data"): "ImageNet-A folder with --data DIR",
        ("val", "--id"): "ImageNet val folder with --id DIR",
        ("val", "--data"): "ImageNet val folder with --data",
    }
    for (kind, option), line in lines.items():
        with pytest.raises(
            EvalkitError, match=f"not trained on [a-z -]*digits-photo.*, so there is no default data; give the {line}"
        ):
            choose(kind, None, other, option)


# ---- the rest


def test_limit_is_spread_evenly():
    assert spread(10, None).tolist() == spread(10, 10).tolist() == spread(10, 99).tolist() == list(range(10))
    assert spread(10, 4).tolist() == [0, 2, 5, 7] and spread(7500, 1).tolist() == [0]


def test_preprocessing_is_the_published_one_unless_the_set_is_embedded(tree_a, model):
    images = open_set("imagenet-a", str(tree_a), model, allow_partial=True).images
    transform, settings = pipeline(model, images, None)
    assert settings == {"mode": "published", "side": 16} and transform.resize == 16 * 256 // 224
    assert pipeline(model, images, "model")[1]["mode"] == "model"
    assert layouts.is_published({"mode": "published", "side": 224}) and not layouts.is_published(
        {"mode": "published", "side": 384}
    )
    assert transform(images.read(0)).shape == (3, 16, 16)


def test_published_preprocessing_at_224_is_torchvisions():
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    from evalkit.data.transforms import eval_transform

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    expected = Compose([Resize(256), CenterCrop(224), PILToTensor()])(image)
    assert (eval_transform("published", 224)(image) == expected).all()
