"""CIFAR in its distributed layouts: pickles of Python 2 and 3 and the binary version, against torchvision's reader."""

import os
import pickle
import struct

import numpy as np
import pytest

from evalkit import data
from evalkit.data.cifar import NAMES, cifar
from evalkit.errors import EvalkitError

CLASSES = {10: ["airplane", *(f"class{i}" for i in range(9))], 100: [f"fine_{i}" for i in range(100)]}


def python2(value):
    """A pickle of protocol 2 as Python 2 with its NumPy wrote it: texts are byte strings."""

    def text(b):
        return b"T" + struct.pack("<I", len(b)) + b

    def put(v):
        if isinstance(v, bytes):
            return text(v)
        if isinstance(v, int):
            return b"J" + struct.pack("<i", v)
        if isinstance(v, list):
            return b"](" + b"".join(map(put, v)) + b"e"
        if isinstance(v, dict):
            return b"}(" + b"".join(put(k) + put(x) for k, x in v.items()) + b"u"
        dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
        dtype += b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
        shape = b"(" + b"".join(map(put, v.shape)) + b"t"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        return made + b"(K\x01" + shape + dtype + b"\x89" + text(v.tobytes()) + b"tb"

    return b"\x80\x02" + put(value) + b"."


def python3(value):
    """The same as Python 3 writes it: texts are texts, bytes are a call of codecs."""

    def text(v):
        if isinstance(v, dict):
            return {text(k): text(x) for k, x in v.items()}
        return [text(x) for x in v] if isinstance(v, list) else v.decode() if isinstance(v, bytes) else v

    return pickle.dumps(text(value), protocol=2)


def rows(n, classes, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, classes, n).tolist()


def write(root, classes, dump):
    """A miniature of the Python version; returns part -> (pixels, labels)."""
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir(parents=True)
    parts = {"train": [], "test": []}
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if classes == 10 else ["train", "test"]
    for i, file in enumerate(files):
        pixels, labels = rows(3, classes, i)
        content = {
            b"data": pixels,
            b"labels" if classes == 10 else b"fine_labels": labels,
            b"filenames": [b"a.png"] * 3,
        }
        content |= {b"coarse_labels": [0, 1, 2]} if classes == 100 else {b"batch_label": b"batch"}
        (folder / file).write_bytes(dump(content))
        parts["test" if "test" in file else "train"].append((pixels, labels))
    key, meta = (b"label_names", "batches.meta") if classes == 10 else (b"fine_label_names", "meta")
    (folder / meta).write_bytes(dump({key: [c.encode() for c in CLASSES[classes]], b"num_vis": 3072}))
    return folder, {
        k: (np.concatenate([p for p, _ in v]), [label for _, q in v for label in q]) for k, v in parts.items()
    }


@pytest.mark.parametrize("dump", [python2, python3])
@pytest.mark.parametrize("classes", [10, 100])
def test_reads_what_torchvision_reads(tmp_path, monkeypatch, classes, dump):
    from torchvision import datasets

    folder, parts = write(tmp_path, classes, dump)
    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)  # of the real files' checksums
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})
    for split, (pixels, labels) in parts.items():
        theirs = kind(str(tmp_path), train=split == "train")
        for root in (tmp_path, folder):
            ours = data.load(f"cifar{classes}", split, root=root)
            assert np.array_equal(ours.pixels, theirs.data) and ours.labels.tolist() == theirs.targets == labels
            assert ours.classes == theirs.classes == CLASSES[classes] and ours.native_size == 32
        assert np.array_equal(np.asarray(ours.read(0)), pixels[0].reshape(3, 32, 32).transpose(1, 2, 0))
        assert ours.whole is None and f"{len(labels)} images instead of" in ours.remarks[0]
    assert np.array_equal(data.load(f"cifar{classes}", "val", root=tmp_path).labels, parts["test"][1])


@pytest.mark.parametrize("classes", [10, 100])
def test_the_binary_version_holds_the_same(tmp_path, classes):
    _, parts = write(tmp_path / "python", classes, python3)
    folder = tmp_path / "binary" / ("cifar-10-batches-bin" if classes == 10 else "cifar-100-binary")
    folder.mkdir(parents=True)
    (folder / ("batches.meta.txt" if classes == 10 else "fine_label_names.txt")).write_text("\n".join(CLASSES[classes]))
    for split, (pixels, labels) in parts.items():
        before = [[label] if classes == 10 else [7, label] for label in labels]
        table = np.concatenate([np.array(before, np.uint8), pixels], axis=1)
        names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}[split]
        names = names if classes == 10 else [split]
        for name, part in zip(names, np.split(table, len(names))):
            (folder / f"{name}.bin").write_bytes(part.tobytes())
        ours = cifar(classes, tmp_path / "binary", split)
        theirs = cifar(classes, tmp_path / "python", split)
        assert np.array_equal(ours.pixels, theirs.pixels) and np.array_equal(ours.labels, theirs.labels)
        assert ours.classes == theirs.classes and ours.fingerprint == theirs.fingerprint
    path = folder / ("test_batch.bin" if classes == 10 else "test.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EvalkitError, match="does not hold whole images"):
        cifar(classes, folder, "test")


class Shell:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = write(tmp_path, 10, python3)
    hostile = {b"data": Shell(), b"labels": [0]}
    (folder / "test_batch").write_bytes(pickle.dumps(hostile, protocol=2))
    with pytest.raises(EvalkitError, match=r"it calls (posix|nt)\.system, which no file of CIFAR does"):
        cifar(10, tmp_path, "test")
    assert not (tmp_path / "executed").exists()
    assert not any(getattr(made, "__module__", "").startswith("numpy") for made in NAMES.values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a pickle", "cannot read"),
        (python3({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}), "2 images and 1 labels"),
        (python3({b"data": np.zeros((2, 3072), np.int64), b"labels": [0, 1]}), "does not hold CIFAR images"),
        (python3({b"data": np.zeros((2, 10), np.uint8), b"labels": [0, 1]}), "does not hold CIFAR images"),
        (python3({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), "none of the 10 classes"),
        (python3({b"labels": [0]}), "does not hold CIFAR images"),
        (python3([1]), "is no file of CIFAR"),
    ],
)
def test_a_wrong_file_gives_one_line(tmp_path, content, says):
    folder, _ = write(tmp_path, 10, python3)
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(EvalkitError, match=says) as e:
        cifar(10, tmp_path, "test")
    assert "\n" not in str(e.value) and "unpack the archive again" in str(e.value)
    (folder / "test_batch").unlink()
    with pytest.raises(EvalkitError, match="No such file"):
        cifar(10, tmp_path, "test")
    with pytest.raises(EvalkitError, match="does not hold CIFAR-100"):
        data.load("cifar100", "test", root=tmp_path)
