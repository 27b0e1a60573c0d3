"""Batches: the same bytes whatever the workers, the processes and the step a run starts from."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import TensorDataset

from evalkit.data import loading
from evalkit.data.decode import as_image
from evalkit.data.folders import folder
from evalkit.data.images import ArrayImages, BadImage
from evalkit.data.loading import Order, eval_batches, steps_per_epoch, train_batches
from evalkit.data.transforms import EvalTransform, Sample
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng


class Marking:
    """In place of TrainTransform: the image's first pixel, then three draws of its generator."""

    on_device = False

    def sample(self, image, rng):
        pixels = torch.tensor([image.getpixel((0, 0))[0], *rng.integers(0, 256, 2)], dtype=torch.uint8).view(3, 1, 1)
        return Sample(pixels, "all of it", (0, 0, 1, int(rng.integers(0, 9))), [(3, rng.random())])

    def decoded(self, data, id):
        return as_image(data, id)


class Extra:
    """The first value of the image as the batch holds it, and a draw."""

    def __call__(self, image, rng):
        assert image.info == {"id": str(np.asarray(image)[0, 0, 0]), "view": "all of it"}
        return torch.tensor([float(np.asarray(image)[0, 0, 0]), rng.random()], dtype=torch.float64)


def numbered(n):
    pixels = np.zeros((n, 1, 1, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(n)
    return ArrayImages("numbered", [str(i) for i in range(n)], np.arange(n) % 3, ["x", "y", "z"], pixels)


def batches(images=None, **changes):
    order = {"seed": 5, "batch_size": 12, "micro_batch": 3, "epochs": 2, "repeats": 1}
    order = Order(**{key: changes.pop(key, value) for key, value in order.items()})
    return list(train_batches(numbered(41) if images is None else images, Marking(), order, **changes))


def digest(batch):
    tensors = (batch.x, batch.y, batch.index, batch.erase, batch.noise, batch.operations, batch.values)
    return batch.step, batch.group, *(t.numpy().tobytes() for t in tensors)


def test_batches_are_what_their_keys_say():
    """Against the definition: order and generators derived from the seed, groups taking turns."""
    out = batches()
    assert [(b.step, b.group) for b in out] == [(s, g) for s in range(6) for g in range(4)]
    for b in out:
        epoch, within = divmod(b.step, 3)
        order = derive_rng(5, "order", epoch).permutation(41)
        for j in range(3):
            position = within * 12 + b.group + 4 * j
            row = order[position]
            rng = derive_rng(5, "sample", epoch, position)
            assert b.index[j] == row and b.y[j] == row % 3
            assert b.x[j].flatten().tolist() == [row, *rng.integers(0, 256, 2)] and b.erase[j].tolist() == [
                0,
                0,
                1,
                rng.integers(0, 9),
            ]
    assert out[0].x.dtype == torch.uint8 and out[0].y.dtype == out[0].index.dtype == out[0].erase.dtype == torch.int64


def test_an_epoch_shows_every_image_at_most_once_and_epochs_differ():
    first, second = ([i for b in batches() if b.step // 3 == e for i in b.index.tolist()] for e in range(2))
    assert len(set(first)) == len(first) == 36 and len(set(second)) == 36 and first != second
    assert first != [i for b in batches(seed=6, epochs=1) for i in b.index.tolist()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("repeats", [1, 3])
def test_start_workers_and_processes_change_no_byte(workers, repeats):
    whole = [digest(b) for b in batches(repeats=repeats)]
    for start in (0, 1, 3, 5, 6):
        resumed = [digest(b) for b in batches(repeats=repeats, start_step=start, workers=workers)]
        assert resumed == [d for d in whole if d[0] >= start]
    for world in (2, 4):
        parts = [
            [digest(b) for b in batches(repeats=repeats, rank=r, world=world, start_step=2, workers=workers)]
            for r in range(world)
        ]
        assert sorted(d for part in parts for d in part) == [d for d in whole if d[0] >= 2]
        per_rank = 4 // world
        assert all(
            [d[1] for d in part[:per_rank]] == list(range(r * per_rank, (r + 1) * per_rank))
            for r, part in enumerate(parts)
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_extras_follow_the_samples_generator_and_change_no_other_byte(workers):
    plain = batches(epochs=1)
    with_extras = batches(epochs=1, workers=workers, extras={"views": Extra()})
    assert [digest(b) for b in with_extras] == [digest(b) for b in plain] and all(b.extras == {} for b in plain)
    for b in with_extras:
        assert b.extras["views"].shape == (3, 2)
        for j in range(3):
            rng = derive_rng(5, "sample", 0, b.step * 12 + b.group + 4 * j)
            # those of the image, of its erase box and of what is left to the device come first
            rng.integers(0, 256, 2), rng.integers(0, 9), rng.random()
            assert b.extras["views"][j].tolist() == [b.x[j, 0, 0, 0], rng.random()]


def test_repeated_augmentation_is_the_published_sampler(monkeypatch):
    """Group g of a step holds what DeiT's sampler gives process g; timm's version of it, unshuffled, is the
    reference."""
    monkeypatch.setattr(loading, "_shuffled", lambda n, seed, epoch: np.arange(n))
    out = batches(repeats=3, epochs=1)
    for g in range(4):
        sampler = RepeatAugSampler(
            TensorDataset(torch.zeros(41)), num_replicas=4, rank=g, shuffle=False, num_repeats=3, selected_round=12
        )
        assert [i for b in out if b.group == g for i in b.index.tolist()] == list(sampler)


def test_repeats_of_an_image_are_augmented_differently():
    out = batches(repeats=3, epochs=1)
    views = {}
    for b in out:
        for i, x in zip(b.index.tolist(), b.x):
            views.setdefault(i, []).append(x.numpy().tobytes())
    assert len(views) == 12 and all(len(set(v)) == 3 for v in views.values())


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    batches(workers=2), list(eval_batches(numbered(3), EvalTransform(1, 1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(
        EvalkitError, match="micro_batch=5 does not divide batch_size=12; give one of 1, 2, 3, 4, 6, 12"
    ):
        batches(micro_batch=5)
    with pytest.raises(
        EvalkitError, match="3 processes cannot share the 4 micro-batches of a step; start 1, 2, 4 processes"
    ):
        batches(world=3)
    with pytest.raises(
        EvalkitError, match="batch_size=12 is more than the 7 training images; give batch_size=7 or less"
    ):
        batches(numbered(7))
    assert steps_per_epoch(41, 12) == 3 and steps_per_epoch(12, 12) == 1


# ---- unreadable images and dying workers


@pytest.fixture
def files(tmp_path):
    for i in range(9):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.new("RGBA" if i % 2 else "RGB", (6, 5), (i, 0, 0)).save(tmp_path / "cat" / f"{i}.png")
    for i in (2, 5, 6):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"")
    return folder(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_training_image_is_one_line_with_its_name(files, workers):
    with pytest.raises(BadImage, match=r"cat/\d.png: empty file") as e:
        batches(files, batch_size=9, micro_batch=3, workers=workers)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_lists_unreadable_images_and_goes_on(files, workers):
    for batch_size in (1, 2, 4, 64):
        index, values, bad = [], [], []
        for x, rows, broken in eval_batches(files, EvalTransform(4, 4), batch_size=batch_size, workers=workers):
            assert len(x) == len(rows)
            index += rows.tolist()
            values += x[:, 0, 0, 0].tolist() if len(x) else []
            bad += [(b.id, b.reason) for b in broken]
        assert index == values == [0, 1, 3, 4, 7, 8]
        assert bad == [(f"cat/{i}.png", "empty file") for i in (2, 5, 6)]
        assert files.notes == {"alpha_dropped": 3}


def test_evaluation_of_chosen_rows():
    got = [
        (x.shape, rows.tolist(), bad)
        for x, rows, bad in eval_batches(numbered(20), EvalTransform(1, 1), batch_size=2, indices=[7, 3, 11])
    ]
    assert got == [((2, 3, 1, 1), [7, 3], []), ((1, 3, 1, 1), [11], [])]


@pytest.mark.parametrize("workers", [0, 2])
def test_transform_errors_are_one_line_that_names_the_image(workers):
    images = numbered(4)
    with pytest.raises(
        EvalkitError, match=f"^{images.ids[0]}: images of this set are used as they are, 1 x 1, but 2 x 2 is asked for$"
    ):
        list(eval_batches(images, EvalTransform(2, 2, native=True), workers=workers))


def children():
    return psutil.Process().children()


def test_workers_outlive_a_signal_to_the_whole_group():
    others = set(children())  # of other tests
    iterator = train_batches(numbered(41), Marking(), Order(5, 12, 3, epochs=20), workers=2)
    first = [digest(next(iterator)), digest(next(iterator))]  # one from each worker: both are past their start
    workers = [child for child in children() if child not in others]
    assert len(workers) == 2
    for child in workers:
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
    rest = [digest(b) for b in iterator]
    assert first + rest == [digest(b) for b in batches(epochs=20)]


KILLED_WORKER = """
import os, signal, threading
import psutil
from evalkit.errors import EvalkitError
from tests.evalkit.test_loading import Marking, Order, numbered, train_batches

iterator = train_batches(numbered(41), Marking(), Order(5, 12, 3, epochs=10**6), workers=1)
next(iterator)
threading.Timer(0.3, lambda: os.kill(psutil.Process().children()[0].pid, signal.SIGKILL)).start()
try:
    for _ in iterator:
        pass
except EvalkitError as e:
    print(e)
"""


def test_a_killed_worker_is_one_line():
    """In a process of its own: torch reports the death to whatever the main thread is doing."""
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", KILLED_WORKER], cwd=root, capture_output=True, text=True, timeout=600)
    lines = out.stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("a data worker died (") and "workers=0" in lines[0], out.stderr


class Broken(Marking):
    def sample(self, image, rng):
        raise RuntimeError("a mistake in the code")


def test_mistakes_in_code_keep_their_traceback():
    iterator = train_batches(numbered(41), Broken(), Order(5, 12, 3, epochs=1), workers=1)
    with pytest.raises(RuntimeError, match="(?s)Original Traceback.*a mistake in the code"):
        next(iterator)
