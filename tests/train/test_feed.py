"""Waiting for images becomes advice."""

from types import SimpleNamespace

import pytest
import torch

from evalkit.train import feed as feeds
from evalkit.train.feed import Feed

from .test_resolve import config


def fed(waited, reading, preparing, images=1000):
    return Feed(iter(()), waited, reading, preparing, images, turns=1)


SLOW = {"data": "folder", "decode": "exact", "workers": 4}


@pytest.mark.parametrize(
    "feed, changes, expected, absent",
    [
        # 1000 images in 10 s, 6.1 of them waited: 256/s wanted, 40 ms of CPU each -> 12 workers (10 % to spare)
        (fed(6.1, 1, 39), {}, ["61 %", "workers=12", "decode=fast", "augment_device=device", "1.0 ms of reading"], []),
        (fed(6.1, 1, 39), {"decode": "fast"}, ["workers=12", "evalkit pack --short-side"], ["decode=fast"]),
        (fed(6.1, 1, 39), {"workers": 16, "augment_device": "device"}, ["decode=fast"], ["workers=", "augment_device"]),
        (fed(6.1, 39, 1), {}, ["workers=12", "evalkit pack, or a faster disk"], ["decode=fast", "--short-side"]),
        (fed(6.1, 39, 1), {"data": "packed", "workers": 16}, ["a faster disk"], ["evalkit pack"]),
        (fed(8.0, 1, 390), {"workers": 2}, ["workers=16", "216 would keep up, 16 cores"], []),
        (fed(5.0, 0, 39), {"data": "digits", "decode": "fast", "auto_augment": None}, ["workers=9"], ["pack"]),
    ],
)
def test_the_advice_fits(feed, changes, expected, absent):
    cfg = config(**(SLOW | {"augment_device": "cpu"} | changes))
    said = feed.advice(cfg, 10.0, "the GPU", cores=16)
    assert said is not None and said.startswith("the GPU waits")
    assert all(word in said for word in expected) and not any(word in said.split("there): ")[1] for word in absent), (
        said
    )


def test_little_waiting_is_not_worth_a_word():
    cfg = config(**SLOW)
    assert fed(0.9, 1, 39).advice(cfg, 10.0, "the GPU", cores=16) is None
    nothing_left = config(data="digits", workers=16, auto_augment=None)
    assert fed(5.0, 0, 39).advice(nothing_left, 10.0, "the GPU", cores=16) is None


def test_counts_by_stretch_and_speaks_once(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(feeds.time, "monotonic", lambda: next(clock))
    batch = SimpleNamespace(y=torch.zeros(8), reading=0.5, preparing=2.0)
    feed, cfg = Feed(iter([batch] * 20)), config(**SLOW)
    said = []
    for _ in range(4):
        for _ in range(5):
            assert next(feed) is batch
        assert (feed.waited, feed.reading, feed.preparing, feed.images) == (5, 2.5, 10.0, 40)
        said.append(feed.turn(cfg, 8.0, "the GPU", 1))
    assert [line is not None for line in said] == [False, True, False, False]
    with pytest.raises(StopIteration):
        next(feed)
