"""evalkit.results: the file under crashes and concurrent writers, and which record wins."""

import json
import multiprocessing
import resource
import warnings

import pytest

from evalkit import results
from evalkit.errors import EvalkitError

from .fake_records import record


def lines(folder):
    return (folder / "results.jsonl").read_bytes().split(b"\n")


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


def test_the_same_numbers_again_add_nothing(tmp_path):
    first = record(label="one")
    assert results.append(tmp_path, first)
    assert not results.append(tmp_path, first | {"seconds": 999.0, "environment": {"torch": "another"}})
    assert results.append(tmp_path, first | {"metrics": {name: 0.123 for name in first["metrics"]}})
    assert len(results.read([tmp_path])) == 2


def test_half_a_line_is_skipped_with_a_warning_and_the_next_record_stands_alone(tmp_path):
    results.append(tmp_path, record(label="one"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole), 97):  # a crash may leave any number of bytes
        path.write_bytes(whole + whole[:cut])
        with pytest.warns(UserWarning, match="line 2 was skipped: not valid JSON"):
            assert [r["label"] for r in results.read([tmp_path])] == ["one"]
        assert results.append(tmp_path, record(label="two"))
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


@pytest.mark.parametrize("schema", [3, "2", None, [], 0])
def test_another_schema_is_named(tmp_path, schema):
    (tmp_path / "results.jsonl").write_text(json.dumps(record() | {"schema": schema}) + "\n")
    with pytest.warns(UserWarning, match="schema .* is none that this version of evalkit reads, 1 or 2"):
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
        w.join(600)
    labels = [r["label"] for r in results.read([tmp_path])]
    assert sorted(labels) == sorted(f"{name}-{i}" for name in "abc" for i in range(40))
    assert [label for label in labels if label.startswith("a")] == [f"a-{i}" for i in range(40)]


def write_same(folder, start):
    start.wait()
    for i in range(20):
        results.append(folder, record(label=str(i)))


def test_processes_that_append_the_same_at_once_add_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    workers = [context.Process(target=write_same, args=(tmp_path, start)) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(600)
    assert sorted(r["label"] for r in results.read([tmp_path])) == sorted(map(str, range(20)))


def test_unwritable_folder_and_full_disk_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="cannot write .*--out"):
        results.append(tmp_path / "file", record())
    results.append(tmp_path, record(label="one"))
    whole, limits = (tmp_path / results.FILE).read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))  # as a disk that fills up
    try:
        with pytest.raises(EvalkitError, match="cannot write .*: File too large; free some space"):
            results.append(tmp_path, record(label="lost"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / results.FILE).read_bytes() == whole  # no half line, which every reader would name
    results.append(tmp_path, record(label="two"))
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
