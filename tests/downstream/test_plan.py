"""Schedules, batches and hand-made changes of stock configs, which no mm package is needed for."""

import pytest

from evalkit.downstream import plan
from evalkit.downstream.config import merge
from evalkit.errors import EvalkitError


def stock(**loop):
    return {
        "train_cfg": loop,
        "train_dataloader": {"batch_size": 2},
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 500},
            {"type": "MultiStepLR", "begin": 0, "end": 12, "by_epoch": True, "milestones": [8, 11]},
        ],
    }


def test_a_schedule_by_epochs_is_counted_in_steps():
    config = stock(max_epochs=12)
    assert plan.schedule(config, images=1000, batch=16, wanted=None, by_steps=False) == (12 * 63, 63)
    assert config == stock(max_epochs=12)


def test_a_longer_run_stretches_all_but_the_warm_up():
    config = stock(max_epochs=12)
    assert plan.schedule(config, images=1000, batch=16, wanted=36, by_steps=False) == (36 * 63, 63)
    warmup, decay = config["param_scheduler"]
    assert (warmup["end"], decay["end"], decay["milestones"]) == (500, 36, [24, 33])
    poly = {"type": "PolyLR", "begin": 1500, "end": 160_000, "by_epoch": False}
    config = stock(max_iters=160_000) | {"param_scheduler": [dict(poly)]}
    assert plan.schedule(config, images=20_210, batch=16, wanted=40_000, by_steps=True)[0] == 40_000
    assert config["param_scheduler"] == [poly | {"begin": 375, "end": 40_000}]


def test_epochs_turned_into_steps():
    cosine = {"type": "CosineAnnealingLR", "begin": 6, "end": 12, "T_max": 6, "convert_to_iter_based": True}
    config = stock(max_epochs=12) | {"param_scheduler": [cosine]}
    plan.schedule(config, images=160, batch=16, wanted=None, by_steps=False)
    assert cosine == {"type": "CosineAnnealingLR", "begin": 60, "end": 120, "T_max": 60, "by_epoch": False}


def test_the_warm_up_stays_whoever_registered_it_and_a_fall_is_none():
    """YOLOX warms up by mmdet's own scheduler; a LinearLR may also lower the rate over the whole run."""
    warmup = {"type": "mmdet.QuadraticWarmupLR", "by_epoch": True, "begin": 0, "end": 5, "convert_to_iter_based": True}
    fall = {"type": "LinearLR", "start_factor": 1.0, "end_factor": 0.0, "by_epoch": False, "begin": 0, "end": 3000}
    config = stock(max_epochs=300) | {"param_scheduler": [warmup, fall]}
    assert plan.schedule(config, images=160, batch=16, wanted=30, by_steps=False) == (300, 10)
    assert (warmup["begin"], warmup["end"], fall["end"]) == (0, 50, 300)


def test_a_run_too_short_for_its_schedule_is_one_line():
    last = {"type": "ConstantLR", "by_epoch": True, "begin": 285, "end": 300}
    config = stock(max_epochs=300) | {"param_scheduler": [last]}
    with pytest.raises(EvalkitError, match="does not fit into 10 steps where it was made for 3000: of its ConstantLR"):
        plan.schedule(config, images=160, batch=16, wanted=1, by_steps=False)


def test_images_that_an_epoch_repeats():
    once = {"type": "CocoDataset"}
    assert plan.repeats(once) == 1
    assert plan.repeats({"type": "RepeatDataset", "times": 3, "dataset": once}) == 3


def test_a_config_that_does_not_say_how_long():
    with pytest.raises(EvalkitError, match="does not say how long it trains"):
        plan.schedule(stock(), 10, 2, None, True)


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("upernet_r50_4xb4-160k_ade20k", {}, 16),
        ("mask-rcnn_r50_fpn", {"auto_scale_lr": {"base_batch_size": 16}}, 16),
        ("mine", {}, 2),
    ],
)
def test_the_batch_that_a_config_was_made_for(name, more, expected):
    class Keys:
        batch_size = None

    assert plan.batch_size(stock(max_iters=1) | more, Keys, name) == (expected, expected)
    Keys.batch_size = 6
    assert plan.batch_size(stock(max_iters=1) | more, Keys, name) == (6, expected)


# ---- changes by hand


def changed(base, **changes):
    merge(base, changes)
    return base


def test_keys_and_places_are_deleted_and_appended():
    base = {"model": {"head": {"a": 1, "b": 2}, "aux": {"c": 3}}, "steps": [{"t": 1}, {"t": 2}, {"t": 3}]}
    found = changed(base, model={"aux": "_delete_", "head": {"_delete_": True, "z": 9}})
    assert found["model"] == {"head": {"z": 9}}
    assert changed(base, steps={"0": "_delete_", "1": {"t": 5}, "2": "_delete_"})["steps"] == [{"t": 5}]
    assert changed(base, steps={"1": {"t": 6}})["steps"] == [{"t": 5}, {"t": 6}]


def test_a_pair_stays_a_pair():
    base = {"steps": [{"scale": (2048, 512), "ratios": [0.5, 2.0]}, ({"t": 1}, {"t": 2})]}
    found = changed(base, steps={"0": {"scale": [64, 32], "ratios": [1.0]}, "1": {"0": {"t": 3}}})
    assert found["steps"] == [{"scale": (64, 32), "ratios": [1.0]}, [{"t": 3}, {"t": 2}]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modle": {}}, "unknown key 'mm.modle'.*'mm.model'"),
        ({"model": {"aux": "_delete_"}}, "unknown key 'mm.model.aux'"),
        ({"steps": {"4": {}}}, "is a list of 1.*steps.1 to append"),
        ({"steps": {"1": "_delete_"}}, "is a list of 1"),
    ],
)
def test_changes_of_what_is_not_there(changes, words):
    with pytest.raises(EvalkitError, match=words):
        merge({"model": {"head": {}}, "steps": [{}]}, changes)
