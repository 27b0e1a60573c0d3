"""evalkit.results: the schema, the file under crashes and concurrent writers, and which record wins."""

import json
import math
import multiprocessing
import os
import warnings

import numpy as np
import pytest

from evalkit import results
from evalkit.errors import EvalkitError

from .fake_records import record


def lines(folder):
    return (folder / "results.jsonl").read_bytes().split(b"\n")


# ---- make_record


def test_numpy_values_become_plain_json_with_every_bit():
    third = np.float64(1) / 3
    config = {"levels": (np.float64(0.1), 2), "a": np.arange(2)}
    made = record(
        metrics={"top1": third, "f32": np.float32(0.1)}, standard_errors={"top1": None}, n=np.int64(3), config=config
    )
    back = json.loads(json.dumps(made))
    assert back == made
    assert back["metrics"] == {"top1": 1 / 3, "f32": float(np.float32(0.1))}
    assert back["config"] == {"levels": [0.1, 2], "a": [0, 1]} and back["n"] == 3 and back["standard_errors"] == {}


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
    made = record(metrics={"top1": 0.5, "rms": value}, undefined=given)
    assert made["metrics"] == {"top1": 0.5, "rms": None} and made["undefined"] == {"rms": reason}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1.5}, "field `n`"),
        ({"complete": 1}, "field `complete`"),
        ({"version": True}, "field `version`"),
        ({"seed": "0"}, "field `seed`"),
        ({"label": None}, "field `label` of a results record to be str, but got None"),
        ({"data": {"name": "x", "split": "val"}}, "fingerprint is None"),
        ({"metrics": {"top1": "0.9"}}, "metric `top1`"),
        ({"metrics": {"top1": True}}, "metric `top1`"),
        ({"standard_errors": {"top2": 0.1}}, "names 'top2', which is not a metric. Did you mean 'top1'?"),
        ({"undefined": {"aurra": "x"}}, "names 'aurra'"),
    ],
)
def test_wrong_fields_are_refused(change, message):
    with pytest.raises(ValueError, match="^" + ".*" + message.replace("?", r"\?")):
        record(**change)


def test_unknown_and_missing_fields_are_refused(tmp_path):
    with pytest.raises(TypeError):
        record(metric={})
    with pytest.raises(ValueError, match="unknown field 'metrik' .* Did you mean 'metrics'"):
        results.append(tmp_path, record() | {"metrik": {}})
    incomplete = record()
    del incomplete["seed"]
    with pytest.raises(ValueError, match="needs the field 'seed'"):
        results.append(tmp_path, incomplete)
    assert not (tmp_path / "results.jsonl").exists()


# ---- append and read


def test_round_trip_one_sorted_line_each(tmp_path):
    first, second = record(), record(label="ä \n \ud800", notes=["x"])
    results.append(tmp_path / "a" / "b", first)
    results.append(tmp_path / "a" / "b", second)
    raw = lines(tmp_path / "a" / "b")
    assert len(raw) == 3 and raw[2] == b""
    for line in raw[:2]:
        keys = list(json.loads(line))
        assert keys == sorted(keys)
    assert results.read([tmp_path]) == [r | {"_dir": str(tmp_path / "a" / "b")} for r in (first, second)]


def test_half_a_line_is_skipped_with_a_warning_and_the_next_record_stands_alone(tmp_path):
    results.append(tmp_path, record(label="one"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole), 97):  # a crash may leave any number of bytes
        path.write_bytes(whole + whole[:cut])
        with pytest.warns(UserWarning, match="line 2 was skipped: not valid JSON"):
            assert [r["label"] for r in results.read([tmp_path])] == ["one"]
        results.append(tmp_path, record(label="two"))
        with pytest.warns(UserWarning, match="line 2"):
            assert [r["label"] for r in results.read([tmp_path])] == ["one", "two"]


def test_a_line_that_only_lacks_its_end_is_whole(tmp_path):
    results.append(tmp_path, record(label="one"))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    results.append(tmp_path, record(label="two"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r["label"] for r in results.read([tmp_path])] == ["one", "two"]


@pytest.mark.parametrize("line", [b"\x00\xff garbage", b"[1, 2]", b"3", b'{"schema": 1}', b'{"a": NaN'])
def test_any_other_bad_line_is_skipped_with_its_place(tmp_path, line):
    results.append(tmp_path, record(label="one"))
    with open(tmp_path / "results.jsonl", "ab") as f:
        f.write(line + b"\n")
    results.append(tmp_path, record(label="two"))
    with pytest.warns(UserWarning, match=r"results\.jsonl, line 2 was skipped"):
        assert [r["label"] for r in results.read([tmp_path])] == ["one", "two"]


def test_a_newer_schema_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps(record() | {"schema": 2}) + "\n")
    with pytest.warns(UserWarning, match="schema 2 is not 1"):
        assert results.read([tmp_path]) == []


def test_missing_folders_and_folders_without_results(tmp_path):
    with pytest.raises(EvalkitError, match="does not exist"):
        results.read([tmp_path / "no"])
    with pytest.raises(EvalkitError, match="no results.jsonl below .*; run `evalkit train`"):
        results.read([tmp_path])


def test_overlapping_folders_count_once(tmp_path):
    results.append(tmp_path / "run", record())
    assert len(results.read([tmp_path, tmp_path / "run", tmp_path / "run" / "results.jsonl"])) == 1


def write_many(folder, name, start):
    start.wait()
    for i in range(40):
        results.append(folder, record(label=f"{name}-{i}", notes=["x" * 20_000]))


def test_processes_that_append_at_once_do_not_interleave(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=write_many, args=(tmp_path, name, start)) for name in "abc"]
    for w in workers:
        w.start()
    start.set()
    for w in workers:
        w.join(60)
    labels = [r["label"] for r in results.read([tmp_path])]
    assert sorted(labels) == sorted(f"{name}-{i}" for name in "abc" for i in range(40))
    assert [label for label in labels if label.startswith("a")] == [f"a-{i}" for i in range(40)]


def test_unwritable_folder_and_full_disk_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="cannot write .*--out"):
        results.append(tmp_path / "file", record())
    results.append(tmp_path, record(label="one"))
    real = os.write
    with monkeypatch.context() as m:
        m.setattr(results.os, "write", lambda fd, data: real(fd, data[:100]))  # what a disk does that fills up
        with pytest.raises(EvalkitError, match="no space left"):
            results.append(tmp_path, record(label="lost"))
    results.append(tmp_path, record(label="two"))
    with pytest.warns(UserWarning, match="line 2"):
        assert [r["label"] for r in results.read([tmp_path])] == ["one", "two"]


# ---- latest


def test_a_later_record_of_the_same_measurement_supersedes():
    evaluation = {"task": "robustness", "protocol": "occlusion", "config": {"grid": 8, "workers": 0, "out": "a"}}
    first = record(
        **evaluation,
        metrics={"top1": 0.1},
        complete=False,
        data={"name": "d", "fingerprint": "f", "split": "val", "n_skipped": 3},
    )
    other = record(**evaluation | {"config": {"grid": 7}})
    again = record(
        **evaluation | {"config": {"grid": 8, "workers": 4, "out": "b"}},
        data={"name": "d", "fingerprint": "f", "split": "val"},
    )
    elsewhere = record(**evaluation, checkpoint_sha256="b" * 64)
    assert results.latest([first, other, again, elsewhere]) == [again, other, elsewhere]


def test_a_training_run_that_went_on_supersedes_its_earlier_record():
    stopped, done = record(complete=False), record(checkpoint_sha256="b" * 64)
    other_seed = record(seed=1, config={"lr": 0.001, "mixup": "mixpro", "seed": 1})
    averaged = record(weights="ema")
    assert results.latest([stopped, other_seed, averaged, done]) == [done, other_seed, averaged]


def test_intervals_are_optional_and_of_known_metrics():
    made = record(metrics={"top1": 0.5}, intervals={"top1": (np.float64(0.4), 0.6)})
    assert made["intervals"] == {"top1": [0.4, 0.6]} and record()["intervals"] == {}
    del made["intervals"]
    results.check(made)  # as records were before they had intervals
    with pytest.raises(ValueError, match="`intervals` names 'top2', which is not a metric"):
        record(intervals={"top2": (0, 1)})
