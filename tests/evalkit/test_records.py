"""evalkit.records: the one builder, the schema, and records of the schema before."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from evalkit import records, results
from evalkit.keys import Keys, key
from evalkit.protocols import Metric, Protocol
from evalkit.records import DataUsed, Made, Numbers, Subject, check, make_record, settings, upgraded

from .fake_records import record

PROTOCOL = Protocol(
    name="toy",
    kind="robustness",
    version=3,
    title="Toy",
    short="toy",
    sentence="A toy.",
    metrics=(
        Metric("top1", "top-1", "high", "share right", column=True),
        Metric("rms", "RMS", "low", "gap"),
        Metric("f32", "f32", "neither", "a number"),
    ),
)


@dataclass(frozen=True)
class Config(Keys):
    levels: tuple = key((np.float64(0.1), 2), "levels")
    a: Any = key(None, "anything")
    workers: int = key(2, "workers", role="execution")
    out: str = key("x", "a folder", role="place")


def build(numbers, **changes):
    made = Made(changes.pop("config", Config()), {"python": "3"}, 1.5, changes.pop("complete", True), **changes)
    subject = Subject("vit", "mixpro", "mine", "a" * 64, recipe="digits")
    data = DataUsed("set", "f" * 64, "val", demonstration=False, more={"n_ood": 2})
    return make_record("robustness", PROTOCOL, subject, data, numbers, made, published=True, assumed=["x: y"])


def test_numpy_values_become_plain_json_with_every_bit():
    third = np.float64(1) / 3
    numbers = Numbers(np.int64(3), {"top1": third, "f32": np.float32(0.1)}, standard_errors={"top1": None, "f32": 0.5})
    made = build(replace(numbers, intervals={"top1": (np.float64(0.4), 0.6)}), config=Config(a=np.arange(2)))
    back = json.loads(json.dumps(made))
    assert back == made
    assert back["metrics"] == {"top1": 1 / 3, "f32": float(np.float32(0.1))} and back["n"] == 3
    assert back["config"] == {"levels": [0.1, 2], "a": [0, 1], "workers": 2, "out": "x"}
    assert back["standard_errors"] == {"f32": 0.5} and back["intervals"] == {"top1": [0.4, 0.6]}


def test_every_fact_goes_where_the_schema_says():
    made = build(Numbers(3, {"top1": 0.5}), resolved={"a": 7}, seed=4, records="r.npz", notes=["n"])
    assert made["schema"] == 2 and (made["task"], made["protocol"], made["version"]) == ("robustness", "toy", 3)
    assert made["data"] == {"name": "set", "fingerprint": "f" * 64, "split": "val", "n_ood": 2}
    assert (made["model"], made["method"], made["label"], made["recipe"]) == ("vit", "mixpro", "mine", "digits")
    assert (made["demonstration"], made["published"], made["assumed"]) == (False, True, ["x: y"])
    assert made["config"]["a"] == 7 and (made["seed"], made["records"], made["notes"]) == (4, "r.npz", ["n"])
    assert made["idle_keys"] == ["out", "workers"] and settings(made) == {"levels": [0.1, 2], "a": 7}


@pytest.mark.parametrize(
    ("value", "given", "reason"),
    [
        (math.nan, {"rms": "fewer than 200 samples"}, "fewer than 200 samples"),
        (math.nan, {}, "the computed value was nan"),
        (-math.inf, {}, "the computed value was -inf"),
        (None, {}, "not defined for these data"),
    ],
)
def test_a_metric_that_is_not_finite_is_null_with_a_reason(value, given, reason):
    made = build(Numbers(3, {"top1": 0.5, "rms": value}, given, {"rms": math.nan}))
    assert made["metrics"] == {"top1": 0.5, "rms": None} and made["undefined"] == {"rms": reason}
    assert made["standard_errors"] == {}


def test_a_metric_that_nobody_described_cannot_be_recorded():
    with pytest.raises(ValueError, match="protocol 'toy' does not describe its metric 'top5'"):
        build(Numbers(3, {"top1": 0.5, "top5": 0.9}))


def test_what_is_incomplete_or_a_demonstration_cannot_be_published():
    with pytest.raises(ValueError, match="cannot be `published`"):
        build(Numbers(3, {"top1": 0.5}), complete=False)
    with pytest.raises(ValueError, match="cannot be `published`"):
        record(published=True, demonstration=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1.5}, "field `n`"),
        ({"complete": 1}, "field `complete`"),
        ({"demonstration": None}, "field `demonstration`"),
        ({"published": "yes"}, "field `published`"),
        ({"version": True}, "field `version`"),
        ({"seed": "0"}, "field `seed`"),
        ({"label": None}, "field `label` of a results record to be str, but got None"),
        ({"data": {"name": "x", "split": "val"}}, "fingerprint is None"),
        ({"metrics": {"top1": "0.9"}}, "metric `top1`"),
        ({"metrics": {"top1": True}}, "metric `top1`"),
        ({"standard_errors": {"top2": 0.1}}, "names 'top2', which is not a metric. Did you mean 'top1'?"),
        ({"undefined": {"aurra": "x"}}, "names 'aurra'"),
        ({"intervals": {"top2": (0, 1)}}, "`intervals` names 'top2', which is not a metric"),
        ({"published_protocol": True}, "unknown field 'published_protocol'"),
    ],
)
def test_wrong_fields_are_refused(change, message):
    with pytest.raises(ValueError, match="^" + ".*" + message.replace("?", r"\?")):
        record(**change)


def test_unknown_and_missing_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown field 'metrik' .* Did you mean 'metrics'"):
        results.append(tmp_path, record() | {"metrik": {}})
    incomplete = record()
    del incomplete["seed"]
    with pytest.raises(ValueError, match="needs the field 'seed'"):
        results.append(tmp_path, incomplete)
    assert not (tmp_path / "results.jsonl").exists()


# ---- schema 1


def schema_1(**changes):
    made = {k: v for k, v in record(**changes).items() if k not in records._SINCE_2}
    return made | {"schema": 1, "published_protocol": True}


def test_a_record_of_schema_1_is_read_and_nothing_is_guessed(tmp_path):
    old = schema_1()
    for line in (old, {k: v for k, v in old.items() if k != "intervals"}):  # as records were before intervals
        check(line)
        (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
        (got,) = results.read([tmp_path])
        assert (got["schema"], got["published"], got["demonstration"], got["recipe"]) == (1, None, None, None)
        assert got["assumed"] == [] and got["intervals"] == {} and "published_protocol" not in got
        assert settings(got) == {"lr": 0.001, "mixup": "mixpro", "seed": 0}
        assert got["metrics"] == old["metrics"]


def test_what_moved_no_number_in_schema_1_does_not_now():
    config = {"grid": 8, "workers": 1, "out": "a", "data": "b", "model": None, "on_error": "fail"}
    assert settings(upgraded(schema_1(task="robustness", protocol="occlusion", config=config))) == {"grid": 8}
    assert settings(upgraded(schema_1(task="transfer", config=config))).keys() == config.keys() - {"workers"}


def test_a_field_of_another_schema_is_unknown():
    with pytest.raises(ValueError, match="unknown field 'demonstration'"):
        check(schema_1() | {"demonstration": True})
