"""Sets in memory and on the device: the batches are those of the files, bit for bit."""

import ast
import copy
import multiprocessing
import os
import select
import signal
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import data
from evalkit.data import kept
from evalkit.data.crops import crop_batch, pad_crop
from evalkit.data.folders import folder
from evalkit.data.images import BadImage, Subset
from evalkit.data.kept import DeviceImages, KeptImages, keep
from evalkit.data.loading import Order, train_batches
from evalkit.data.transforms import TrainTransform
from evalkit.errors import EvalkitError

from .test_packed import write
from .test_transforms import keys

CPU = torch.device("cpu")
ORDER = Order(3, 6, 3, epochs=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder(write(tmp_path_factory.mktemp("kept")) / "train")


def batches(images, transform, workers=0):
    return list(train_batches(images, transform, ORDER, workers=workers))


@pytest.mark.parametrize("decode, workers", [("exact", 0), ("fast", 2)])
def test_batches_from_memory_are_those_of_files(images, decode, workers, monkeypatch):
    monkeypatch.setattr(kept, "TOGETHER", 4)
    transform = TrainTransform(keys(image_size=24, augment="rrc", decode=decode, color_jitter=0.4))
    held = keep(images, transform, "memory", CPU, threads=workers)
    assert str(held) == "15 images in memory, 0 MiB"
    for ours, plain in zip(batches(held, transform, workers), batches(images, transform), strict=True):
        assert torch.equal(ours.x, plain.x) and torch.equal(ours.y, plain.y) and torch.equal(ours.index, plain.index)
        assert ours.reading == 0 < plain.reading
    for i in range(len(images)):
        assert np.array_equal(np.asarray(held.read(i)), np.asarray(images.read(i)))


def in_a_group(process, processes, root, count, out):
    """What one of several training processes does; 0 is killed once all have the images, and the others go on."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out}/meet", rank=process, world_size=processes, timeout=timedelta(minutes=10)
    )
    images = Subset(folder(root), range(count))
    try:
        held = KeptImages(images, TrainTransform(keys(image_size=24)), 0)
    except BadImage as e:
        (out / str(process)).write_text(str(e), encoding="utf-8")
        os._exit(0)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    files = sorted({tuple(line.split()[3:5]) for line in maps if "memfd:images" in line})  # (device, number)
    if process == 0:
        for part in held.parts:
            part[:] = 0  # no other sees what one writes
    pids = [None] * processes
    torch.distributed.all_gather_object(pids, os.getpid())
    first = os.pidfd_open(pids[0])  # readable once it has ended
    torch.distributed.barrier()
    if process == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    select.select([first], [], [])
    assert all(np.array_equal(held.read(i), images.read(i)) for i in range(len(images)))
    (out / str(process)).write_text(f"{held}|{files}", encoding="utf-8")
    os._exit(0)


def group(processes, root, count, out):
    others = [
        multiprocessing.get_context("fork").Process(target=in_a_group, args=(k, processes, root, count, out))
        for k in range(processes)
    ]
    for process in others:
        process.start()
    for process in others:
        process.join(600)
    return [process.exitcode for process in others]


@pytest.mark.parametrize("processes, count", [(3, 15), (3, 2)])
def test_processes_of_a_machine_share_one_copy(tmp_path, processes, count):
    """Each decodes a part, all see the whole, and it outlives whoever made it; two images leave one without a part."""
    root, before = write(tmp_path / "files") / "train", set(os.listdir("/dev/shm"))
    codes = group(processes, root, count, tmp_path)
    assert codes == [-signal.SIGKILL, 0, 0]
    said = [(tmp_path / str(k)).read_text(encoding="utf-8") for k in range(1, processes)]
    assert said[0] == said[1] and f"{count} images in memory, 0 MiB, shared by 3 processes" in said[0]
    assert len(ast.literal_eval(said[0].partition("|")[2])) == processes
    # what other programs have there at this moment is not there for long
    left = set(os.listdir("/dev/shm")) - before
    for _ in range(600):
        if not left:
            break
        time.sleep(0.1)
        left &= set(os.listdir("/dev/shm"))
    assert not left


def test_an_image_that_one_process_cannot_read_stops_all(tmp_path):
    root = write(tmp_path / "files") / "train"
    (root / "cat" / "1.jpg").write_bytes(b"no image")
    assert group(2, root, 15, tmp_path) == [0, 0]
    assert all("cat/1.jpg" in (tmp_path / str(k)).read_text(encoding="utf-8") for k in range(2))


@pytest.mark.parametrize("augment", ["none", "pad-crop", "pad-crop-flip"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_the_device_are_those_of_a_worker(augment, workers):
    digits = data.load("digits", "train", limit=30)
    own = keys(
        image_size=32, augment=augment, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5, augment_device="device"
    )
    transform = TrainTransform(own)
    held = keep(digits, transform, "device", CPU, threads=2)
    found = batches(held, transform, workers)
    for ours, plain in zip(found, batches(digits, transform), strict=True):
        assert ours.x.numel() == 0 and torch.equal(held.cropped(ours.index, ours.offsets), plain.x)
        assert torch.equal(ours.erase, plain.erase) and torch.equal(ours.noise, plain.noise)
        assert torch.equal(ours.operations, plain.operations) and torch.equal(ours.values, plain.values)
    assert augment == "none" or any(batch.offsets.any() for batch in found)
    assert copy.copy(held).pixels is None  # which is what data workers get


def test_crops_in_batch_are_pillows(images):
    """Every offset there is, mirrored and not, against one image at a time."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    offsets = [(top, left, flip) for top in range(-4, 5) for left in range(-4, 5) for flip in (0, 1)]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).expand(len(offsets), -1, -1, -1)
    for (top, left, flip), ours in zip(offsets, crop_batch(pixels, torch.tensor(offsets)), strict=True):
        expected = np.asarray(pad_crop(picture, top, left))
        assert np.array_equal(ours.permute(1, 2, 0), expected[:, ::-1] if flip else expected)


def test_what_does_not_fit_or_has_no_effect_is_refused(images, tmp_path, monkeypatch):
    digits = data.load("digits", "train", limit=30)
    plain = TrainTransform(keys(image_size=32, augment="pad-crop"))
    for cache, own, changes, message in (
        ("memory", digits, {}, "digits are in memory already"),
        ("device", digits, {"augment": "rrc"}, "use cache=memory"),
        ("device", digits, {"color_jitter": 0.4}, "add augment_device=device"),
        ("device", digits, {"image_size": 28}, "wants images of image_size=28, but .* has 32 x 32 pixels"),
    ):
        with pytest.raises(EvalkitError, match=message):
            keep(own, TrainTransform(keys(**({"image_size": 32, "augment": "pad-crop"} | changes))), cache, CPU, 0)
    monkeypatch.setattr(kept, "available_memory", lambda: 30_000)
    for make, own in ((DeviceImages, digits), (KeptImages, images)):
        with pytest.raises(EvalkitError, match=r"take about 0\.0 GiB, and .* use cache=none, or make them smaller"):
            make(own, plain, CPU, 0) if make is DeviceImages else make(own, plain, 0)
    monkeypatch.undo()
    monkeypatch.setattr(kept.multiprocessing, "get_start_method", lambda: "spawn")
    with pytest.raises(EvalkitError, match="give workers=0"):
        KeptImages(images, plain, 2)


def test_an_image_that_cannot_be_read_stops_the_run_before_it_begins(tmp_path):
    root = write(tmp_path / "files") / "train"
    (root / "cat" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(BadImage, match="cat/0.jpg"):
        KeptImages(folder(root), TrainTransform(keys(image_size=24)), 2)


def test_data_of_augmented_images_need_them_in_the_worker():
    digits = data.load("digits", "train", limit=30)
    transform = TrainTransform(keys(image_size=32, augment="pad-crop"))
    held = DeviceImages(digits, transform, CPU, 0)
    with pytest.raises(EvalkitError, match="use cache=memory"):
        train_batches(held, transform, ORDER, extras={"map": lambda image, rng: torch.zeros(1)})
