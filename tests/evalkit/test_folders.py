"""Folders on disk: classes by name, whatever else lies around; timm's readers on tiny real files."""

import io
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from evalkit import data
from evalkit.data.folders import flat_folder, same_files, split_folder
from evalkit.data.images import Subset
from evalkit.errors import EvalkitError


def put(path, colour=(0, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "animals"
    for name, shade in (("cat", 10), ("dog", 20), ("ox", 30)):
        put(root / name / "b.png", (shade, 0, 0))
        put(root / name / "sub folder" / "a 1.JPEG", (shade, 0, 0))
    return root


def test_ids_labels_and_pixels_as_torchvisions_image_folder(tree):
    images = data.folder(tree)
    reference = ImageFolder(tree)
    assert images.classes == reference.classes == ["cat", "dog", "ox"] and images.name == "animals"
    assert [(str(tree / id), label) for id, label in zip(images.ids, images.labels)] == reference.samples
    assert images.ids[0] == "cat/b.png" and images.ids[1] == "cat/sub folder/a 1.JPEG"
    assert images.read(2).getpixel((0, 0)) == (20, 0, 0) and images.native_size is None


def test_a_file_name_that_is_no_text_is_named(tree):
    put(tree / "cat" / "café.png")
    assert "cat/café.png" in data.folder(tree).ids
    put(Path(os.fsdecode(os.fsencode(tree) + b"/dog/caf\xe9.png")))
    with pytest.raises(
        EvalkitError, match=r"animals is not UTF-8, which its records need: b'dog/caf\\xe9.png'; rename it"
    ):
        data.folder(tree)


def test_litter_is_skipped_and_extensions_may_be_capitals(tree):
    before = data.folder(tree).ids
    for litter in (
        "README.txt",
        ".DS_Store",
        "cat/.b.png",
        "cat/notes.txt",
        ".git/x.png",
        "__MACOSX/cat/b.png",
        "dog/__MACOSX/b.png",
        "dog/.cache/b.png",
    ):
        put(tree / "x.png")
        (tree / litter).parent.mkdir(parents=True, exist_ok=True)
        (tree / "x.png").rename(tree / litter)
    assert data.folder(tree).ids == before
    for name in ("c.JPG", "d.Png", "e.webp"):
        put(tree / "ox" / "new.png")
        (tree / "ox" / "new.png").rename(tree / "ox" / name)
    assert len(data.folder(tree)) == len(before) + 3


def test_labels_go_by_name_not_by_position(tree):
    classes = ["zebra", "ox", "cat", "dog"]
    images = data.folder(tree, classes=classes, allow_partial=True)
    assert images.classes == classes
    assert {id.split("/")[0]: classes[label] for id, label in zip(images.ids, images.labels)} == {
        "cat": "cat",
        "dog": "dog",
        "ox": "ox",
    }
    assert images.problems == ["the class folder 'zebra' is missing"]
    labels = dict(zip(images.ids, images.labels))
    for file in sorted((tree / "cat").rglob("*.*")):
        file.unlink()
    fewer = data.folder(tree, classes=classes, allow_partial=True)
    assert all(labels[id] == label for id, label in zip(fewer.ids, fewer.labels)) and len(fewer) == 4
    assert fewer.problems == ["the class folder 'zebra' is missing", "the class folder 'cat' holds no image"]


def test_incomplete_folders_are_listed_in_an_error(tree):
    (tree / "emu").mkdir()
    with pytest.raises(EvalkitError, match="the class folder 'emu' holds no image.*fill or remove it"):
        data.folder(tree)
    with pytest.raises(
        EvalkitError,
        match="'asp' is missing, the class folder 'bat' is missing, the class folder 'cow' is missing and 2 more",
    ):
        data.folder(tree, classes=["asp", "bat", "cow", "gnu", "cat", "dog", "ox", "emu"])
    assert data.folder(tree, allow_partial=True).problems == ["the class folder 'emu' holds no image"]


def test_unknown_folder_is_named_with_the_closest_class(tree):
    with pytest.raises(EvalkitError, match=r"'ox' in .* none of the 3 classes.*Did you mean 'fox'"):
        data.folder(tree, classes=["cat", "dog", "fox"])


def test_missing_empty_and_flat_folders(tmp_path):
    with pytest.raises(EvalkitError, match="cannot read the data folder .*none: No such file"):
        data.folder(tmp_path / "none")
    with pytest.raises(EvalkitError, match="no class folders"):
        data.folder(tmp_path)
    put(tmp_path / "a.png")
    with pytest.raises(EvalkitError, match="1 images but no class folders; expected .*CLASS/image.jpg"):
        data.folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(EvalkitError, match="no images in class folders"):
        data.folder(tmp_path)
    with pytest.raises(EvalkitError, match="data_dir=DIR"):
        data.load("folder")


def test_splits(tmp_path, tree):
    root = tmp_path / "set"
    for split in ("train", "val"):
        put(root / split / "cat" / f"{split}.png")
    for split in ("train", "val"):
        images = data.load("folder", split, root=root)
        assert images.ids == [f"cat/{split}.png"] and images.name == "set"
    with pytest.raises(EvalkitError, match="no folder 'vall'. Did you mean 'val'"):
        data.load("folder", "vall", root=root)
    assert data.load("folder", "val", root=tree).ids == data.folder(tree).ids
    put(tree / "train" / "rail.png")  # a class by that name, as in CIFAR-100
    assert split_folder(tree, "train") == tree and len(data.load("folder", "train", root=tree)) == 7


def test_unreadable_file_is_found_when_read(tree):
    (tree / "cat" / "b.png").write_bytes(b"")
    images = data.folder(tree)
    with pytest.raises(data.BadImage, match="cat/b.png: empty file"):
        images.read(0)


# ---- timm's readers


def test_torchvision_set_through_timm(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):  # only looked for
        (raw / name).touch()
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x0803, 2, 28, 28) + pixels.tobytes())
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x0801, 2) + bytes([9, 6]))
    images = data.load("torch/fashion_mnist", "val", root=tmp_path)
    assert (
        images.labels.tolist() == [9, 6]
        and images.classes[6] == "Shirt"
        and images.ids == ["val/0000000", "val/0000001"]
    )
    assert images.read(1).mode == "RGB" and np.array_equal(np.asarray(images.read(1))[..., 0], pixels[1])


def test_unreadable_file_through_timm(tree):
    images = data.load("torch/image_folder", "val", root=tree)
    assert images.classes == ["cat", "dog", "ox"] and images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    (tree / "cat" / "b.png").write_bytes(b"no image")
    with pytest.raises(data.BadImage, match="val/0000000"):
        images.read(0)


class FakeHub:
    """The part of a Hugging Face data set that timm's reader uses."""

    def __init__(self):
        files = [io.BytesIO(), b"no image"]
        Image.new("L", (3, 2), 77).save(files[0], "PNG")
        self.rows = [{"image": {"bytes": files[0].getvalue()}, "label": 1}, {"image": {"bytes": files[1]}, "label": 0}]
        label = types.SimpleNamespace(names=["no", "yes"])
        self.info = types.SimpleNamespace(features={"label": label}, splits=None)

    def cast_column(self, key, kind):
        return self

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return [row[i] for row in self.rows] if isinstance(i, str) else self.rows[i]


def test_hugging_face_set_through_timm(monkeypatch):
    fake = types.ModuleType("datasets")
    fake.__spec__ = types.SimpleNamespace()
    fake.load_dataset = lambda name, split, cache_dir: FakeHub()
    fake.Image = lambda decode: None
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    images = data.load("hfds/someone/things", "train")
    assert images.classes == ["no", "yes"] and images.labels.tolist() == [1, 0] and images.name == "hfds/someone/things"
    assert images.read(0).getpixel((0, 0)) == (77, 77, 77)
    with pytest.raises(data.BadImage, match="not an image"):  # timm itself would silently give image 0 again
        images.read(1)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("wds/shards", "x", "streamed"),
        ("tfds/mnist", "x", "streamed"),
        ("hfids/some/thing", "x", "streamed"),
        ("torch/cifar10", None, "data_dir=DIR"),
        ("torch/cifar10", "none", "cannot open data 'torch/cifar10', split 'val': Dataset not found or corrupted$"),
        ("torch/nothing", "none", "cannot open data 'torch/nothing'"),
        ("torhc/cifar10", "none", "unknown data 'torhc/cifar10'"),
    ],
)
def test_readers_that_do_not_work_say_so(name, root, message, tmp_path):
    with pytest.raises(EvalkitError, match=message) as e:
        data.load(name, root=root and tmp_path / root)
    assert "\n" not in str(e.value)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EvalkitError, match="pip install datasets"):
        data.load("hfds/some/thing")


# ---- other layouts


def test_renamed_folders_keep_their_own_names_as_ids(tmp_path):
    for i in range(12):
        put(tmp_path / str(i) / "x.png", (i, 0, 0))
    classes = [f"c{i:02d}" for i in range(12)]
    images = data.folder(tmp_path, classes=classes, rename={str(i): c for i, c in enumerate(classes)})
    assert images.ids[:4] == ["0/x.png", "1/x.png", "10/x.png", "11/x.png"]  # sorted as text, but labelled as numbers
    assert images.labels.tolist() == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [images.read(i).getpixel((0, 0))[0] for i in range(12)] == images.labels.tolist()


def test_flat_images_have_the_ids_and_pixels_of_class_folders(tmp_path):
    names = {"v3.JPEG": "ox", "v1.JPEG": "cat", "v2.JPEG": "ox"}
    for shade, (name, label) in enumerate(names.items()):
        put(tmp_path / "flat" / name, (shade * 9, 0, 0))
        put(tmp_path / "folders" / label / name, (shade * 9, 0, 0))
    (tmp_path / "flat" / ".v9.JPEG").write_bytes(b"")
    (tmp_path / "flat" / "notes.txt").write_text("about")
    classes = ["dog", "ox", "cat"]
    flat = flat_folder(tmp_path / "flat", names | {"gone.JPEG": "dog"}, classes=classes, name="v")
    inside = data.folder(tmp_path / "folders", classes=classes, name="v", allow_partial=True)
    assert flat.ids == inside.ids == [
        "cat/v1.JPEG",
        "ox/v2.JPEG",
        "ox/v3.JPEG",
    ] and flat.labels.tolist() == inside.labels.tolist() == [2, 1, 1]
    assert flat.fingerprint == inside.fingerprint
    assert all(np.array_equal(np.asarray(flat.read(i)), np.asarray(inside.read(i))) for i in range(3))
    with pytest.raises(
        EvalkitError, match=r"1 of the 3 images in .*flat have no line in the labels file, e.g. v2.JPEG"
    ):
        flat_folder(tmp_path / "flat", {k: v for k, v in names.items() if k != "v2.JPEG"}, classes=classes, name="v")
    (tmp_path / "flat" / "v2.JPEG").write_bytes(b"")
    with pytest.raises(data.BadImage, match="ox/v2.JPEG: empty file"):
        flat.read(1)


def test_files_of_the_same_content_are_found_by_content(tmp_path):
    for name, content in {"a/x": b"one", "a/y": b"two", "b/u": b"two", "b/v": b"six", "b/w": b"longer"}.items():
        (tmp_path / name[0] / "c").mkdir(parents=True, exist_ok=True)
        (tmp_path / name[0] / "c" / f"{name[2]}.png").write_bytes(content)
    a, b = data.folder(tmp_path / "a"), data.folder(tmp_path / "b")
    assert same_files(a, range(2), b, range(3)) == [("c/y.png", "c/u.png")]
    assert same_files(a, [0], b, range(3)) == [] and same_files(a, range(2), b, [1, 2]) == []
    assert same_files(Subset(a, [1]), [0], Subset(b, [2, 0]), [0, 1]) == [("c/y.png", "c/u.png")]
    assert same_files(data.load("digits"), range(5), a, range(2)) == []
