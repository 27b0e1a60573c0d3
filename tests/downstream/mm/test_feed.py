"""An order of samples, and draws for each of them, that depend on the step alone."""

import importlib
import random

import numpy as np
import torch
from torch.utils.data import DataLoader

from evalkit.downstream.mm import require
from evalkit.runtime import seed_torch

require("mmseg")
feed = importlib.import_module("evalkit.downstream.mm.feed")


def test_large_arrays_come_from_workers_in_shared_memory_as_they_were():
    made = np.arange(300_000)
    read_only = made.astype(np.float32)
    read_only.flags.writeable = False
    arrays = [made, made[::-3], made.reshape(500, 600).T, made % 2 == 0, read_only, made.astype(np.uint16), made[:9]]
    arrays += [made.astype("datetime64[s]"), np.array(["x" * 99_999]), np.array([{"a": made}])]
    arrays += [made + 1j, np.zeros((0, 4))]
    loader = DataLoader(arrays, batch_size=None, num_workers=1, worker_init_fn=feed.begin, collate_fn=lambda x: x)
    for got, array in zip(loader, arrays, strict=True):
        assert got.dtype == array.dtype and got.shape == array.shape and str(got) == str(array)
        assert array.dtype.kind == "O" or (got == array).all()
        shared = isinstance(got.base, torch.Tensor)
        assert shared is (array.nbytes > feed.LARGE and array.dtype in (int, bool, np.float32, np.uint16))


class Draws:
    """A data set that draws from every generator there is."""

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def stream(start, stop, rank=0, world=1, batch=4, monkeypatch=None):
    """The samples of steps start to stop of one process, as its loader would make them; every image 10 times over."""
    monkeypatch.setattr(feed, "rank", lambda: rank)
    monkeypatch.setattr(feed, "world_size", lambda: world)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(10), 20))[rank::world].tolist()
    size = batch // world
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    data = feed.Seeded(Draws(), seed=5)
    taken = []
    for step, batch_ in enumerate(feed.Places(batches, start), start):
        if step == stop:
            return taken
        taken.append([data[key] for key in batch_])


def test_a_resumed_run_sees_what_the_whole_run_saw(monkeypatch):
    whole = stream(0, 12, monkeypatch=monkeypatch)
    torch.rand(7), np.random.rand(7), random.random()  # whatever was drawn before must not matter
    assert stream(5, 12, monkeypatch=monkeypatch) == whole[5:] and len(whole) == 12


def test_processes_share_the_samples_of_one(monkeypatch):
    whole = stream(0, 6, monkeypatch=monkeypatch)
    halves = [stream(0, 6, rank, 2, monkeypatch=monkeypatch) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves)] == [sorted(batch) for batch in whole]


def test_every_sample_draws_for_itself(monkeypatch):
    drawn = [sample[1:] for batch in stream(0, 12, monkeypatch=monkeypatch) for sample in batch]
    assert len(set(drawn)) == len(drawn) == 48


def test_seed_reaches_every_generator():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    feed.seed_everything(1, "x")
    first = draw()
    seed_torch(9)
    feed.seed_everything(1, "x")
    assert draw() == first
    feed.seed_everything(2, "x")
    assert all(a != b for a, b in zip(draw(), first))
