"""Packed images against the files they were made of, and against timm's reader and tar."""

import json
import os
import signal
import tarfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from evalkit import data
from evalkit.cli import invoke
from evalkit.data import pack as packing
from evalkit.data.folders import folder
from evalkit.data.images import BadImage
from evalkit.data.loading import Order, train_batches
from evalkit.data.packed import packed
from evalkit.data.transforms import TrainTransform
from evalkit.errors import EvalkitError

from .test_loading import digest
from .test_transforms import keys


def write(root: Path, splits=("train", "val"), per_class=5) -> Path:
    for split in splits:
        for c, name in enumerate(("cat", "größe", "zebra")):
            for i in range(per_class):
                rng = np.random.default_rng([c, i, len(split)])
                size = (60 + 7 * i, 48 + 9 * c)
                coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size)
                path = root / split / name / ("deep" if i == 3 else "") / f"{i}.{'png' if i == 2 else 'jpg'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse.save(path)
    return root


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_IMAGES", 4)
    return write(tmp_path / "files")


def test_bytes_ids_and_classes_are_those_of_the_files(files, tmp_path):
    lines = list(packing.pack(files, tmp_path / "out"))
    assert sum(".tar: 4 images" in line for line in lines) == 6 and "15 images in 4 shards" in lines[-1]
    for split in ("train", "val"):
        plain, got = folder(files / split), data.load("packed", split, root=tmp_path / "out")
        assert got.ids == plain.ids and got.classes == plain.classes and got.name == "files" and got.remarks == []
        assert np.array_equal(got.labels, plain.labels)
        for i in np.random.default_rng(0).permutation(len(plain)).tolist():
            assert got.encoded(i) == (files / split / plain.ids[i]).read_bytes()
            assert np.array_equal(np.asarray(got.read(i)), np.asarray(plain.read(i)))
    assert packed(tmp_path / "out/val", "train").ids == got.ids  # a split by itself


def test_others_read_it_too(files, tmp_path):
    list(packing.pack(files, tmp_path / "out"))
    timms = ReaderImageInTar(str(tmp_path / "out/train"))
    got = packed(tmp_path / "out", "train")
    assert len(timms) == 15 and len(got) == 15
    by_bytes = {got.encoded(i): got.ids[i] for i in range(15)}
    for i in range(15):
        file, _ = timms[i]
        assert by_bytes[file.read()] == timms.filename(i)
    flat = [i for i in range(15) if "deep" not in timms.filename(i)]  # timm takes the innermost folder for the class
    names = {
        timms.class_to_idx[c] if hasattr(timms, "class_to_idx") else k: c for k, c in timms.class_idx_to_name.items()
    }
    assert all(names[int(timms.targets[i])] == timms.filename(i).split("/")[0] for i in flat)
    with tarfile.open(tmp_path / "out/train/shard-00000.tar") as tar:
        assert tar.getnames() == list(got.ids)[:4]


def test_re_encoding_is_of_training_images_and_said(files, tmp_path):
    lines = list(packing.pack(files, tmp_path / "out", packing.Encoding(50, 85)))
    assert any(line.startswith("val: the original bytes") for line in lines)
    got, plain = packed(tmp_path / "out", "train"), folder(files / "train")
    assert "shorter side 50 pixels where it was longer, JPEG quality 85" in got.remarks[0]
    for i in range(len(plain)):
        before, after = plain.read(i), got.read(i)
        short = min(before.size)
        if short <= 50:
            assert got.encoded(i) == (files / "train" / plain.ids[i]).read_bytes()
        else:
            assert min(after.size) == 50 and max(after.size) == round(max(before.size) * 50 / short)
            expected = BytesIO()
            before.resize(after.size, Image.Resampling.BICUBIC).save(expected, "JPEG", quality=85)
            assert got.encoded(i) == expected.getvalue()
    assert got.fingerprint != packed(tmp_path / "out", "val").fingerprint


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pack_goes_on_verifies_and_mends(files, tmp_path, workers):
    list(packing.pack(files, tmp_path / "whole"))
    out = tmp_path / "out"
    going = packing.pack(files, out)
    next(going), next(going)  # then it is killed
    del going
    with pytest.raises(EvalkitError, match="its packing has not ended"):
        packed(out, "train")
    (out / "train/.shard-00002.tar.77.tmp").write_bytes(b"half")
    lines = list(packing.pack(files, out, workers=workers))
    assert sum("was there and is whole" in line for line in lines) == 2
    same = lambda: [  # noqa: E731
        p.read_bytes() == (tmp_path / "whole" / p.relative_to(out)).read_bytes() for p in sorted(out.rglob("*.tar"))
    ]
    assert same() == [True] * 8 and not list(out.rglob("*.tmp"))
    assert sum("was there" in line for line in packing.pack(files, out, workers=workers)) == 8
    shard = out / "val/shard-00001.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[700] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(BadImage, match="shard-00001.tar is damaged there; run evalkit pack again"):
        images = packed(out, "val")
        [images.encoded(i) for i in range(15)]
    (out / "train/shard-00000.npz").write_bytes(b"not zip")
    with pytest.raises(EvalkitError, match="cannot read .*shard-00000.npz"):
        packed(out, "train")
    (out / "val/shard-00003.tar").unlink()
    with pytest.raises(EvalkitError, match="shard-00003.tar is missing; run evalkit pack again"):
        packed(out, "val")
    assert sum("was there" in line for line in packing.pack(files, out)) == 5
    assert same() == [True] * 8 and len(packed(out, "val")) == 15


def test_other_images_or_settings_need_another_folder(files, tmp_path):
    list(packing.pack(files, tmp_path / "out"))
    with pytest.raises(EvalkitError, match="other images or settings"):
        list(packing.pack(files, tmp_path / "out", packing.Encoding(50)))
    (files / "train/cat/new.jpg").write_bytes((files / "train/cat/0.jpg").read_bytes())
    with pytest.raises(EvalkitError, match="other images or settings"):
        list(packing.pack(files, tmp_path / "out"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(EvalkitError, match="other images or settings"):
        list(packing.pack(files / "train", tmp_path / "mine"))


def test_the_command(files, tmp_path, capsys):
    assert invoke(["pack", str(files), str(tmp_path / "out"), "--short-side", "40", "--workers", "1"]) == (0, "")
    assert "JPEG quality 90" in capsys.readouterr().out
    for words, message in (
        (["pack", str(files), str(tmp_path / "other"), "--quality", "80"], "--quality belongs to --short-side"),
        (["pack", str(files), str(files / "packed")], "lies in the folder that is packed"),
        (["pack", str(tmp_path / "nowhere"), str(tmp_path / "other")], "nowhere"),
        (["pack", str(files), str(tmp_path / "other"), "--short-side", "0"], "short-side"),
    ):
        code, said = invoke(words)
        assert code == 1 and message in said and not (tmp_path / "other").exists(), words
    (files / "train/cat/0.jpg").write_bytes(b"no image")
    code, said = invoke(["pack", str(files), str(tmp_path / "third"), "--short-side", "40", "--workers", "2"])
    assert code == 1 and "cannot read image cat/0.jpg" in said
    about = json.loads((tmp_path / "out/train/pack.json").read_text())
    (tmp_path / "out/train/pack.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(EvalkitError, match="another version"):
        packed(tmp_path / "out", "train")
    with pytest.raises(EvalkitError, match=r"holds no pack.json: give the folder"):
        packed(files / "train", "train")


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_batches_are_those_of_the_files(files, tmp_path, decode):
    """Any number of workers, any start: the bytes that single files give."""
    list(packing.pack(files, tmp_path / "out"))
    order = Order(seed=3, batch_size=6, micro_batch=3, epochs=3)
    more = {"augment_device": "device"} if decode == "fast" else {}
    transform = TrainTransform(
        keys(augment="rrc", auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5, decode=decode, **more)
    )
    expected = [digest(b) for b in train_batches(folder(files / "train"), transform, order)]
    images = packed(tmp_path / "out", "train")
    for start, workers in ((0, 0), (0, 3), (3, 1)):
        got = train_batches(images, transform, order, start_step=start, workers=workers)
        assert [digest(b) for b in got] == expected[2 * start :]


def test_killed_while_packing(tmp_path, monkeypatch):
    """SIGKILL at any time leaves whole shards or none of theirs."""
    monkeypatch.setattr(packing, "SHARD_IMAGES", 6)
    files, out = write(tmp_path / "files", ("train",), per_class=40), tmp_path / "out"
    if not (child := os.fork()):
        list(packing.pack(files, out))
        os._exit(0)
    while not (out / "train/shard-00003.tar").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert sum("was there and is whole" in line for line in packing.pack(files, out)) >= 3
    got, plain = packed(out, "train"), folder(files / "train")
    assert [got.encoded(i) for i in range(120)] == [(files / "train" / id).read_bytes() for id in plain.ids]
