"""What every robustness protocol must keep, one matrix: the same bytes for any batch size, worker count and number of
processes, and honest records."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit import models, results
from evalkit.cli import invoke
from evalkit.robustness import CONFIGS, PROTOCOLS, run
from evalkit.runtime import leave_processes

from .. import ports
from ..robustness.fakes import records, save_checkpoint, write_corruptions, write_tree

CLASSES = ["bird", "cat", "dog", "eel", "fox", "gnu"]
EXTRA = {
    "occlusion": {"levels": [0.0, 0.3, 0.6, 1.0], "repeats": 2, "grid": 4, "saliency": "self", "shuffle": [2]},
    "imagenet-c": {"corruptions": ["fog", "snow"], "severities": [2, 5], "preprocess": "published"},
    "fgsm": {"eps": [0.0, 4.0]},
    "pgd": {"eps": [2.0, 8.0], "steps": 2},
}
FOLDERS = {"imagenet-c": "corrupted", "imagenet-v2": "numbered"}
COLUMNS = ("mode", "level", "repeat", "restrict", "corruption", "severity", "eps")  # of the records, not per image
EXECUTION = ("out", "batch_size", "workers")
pytestmark = pytest.mark.parametrize("protocol", sorted(PROTOCOLS))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with a checkpoint and two image trees, one file of them unreadable."""
    root = tmp_path_factory.mktemp("world")
    write_tree(root / "data", dict.fromkeys(CLASSES, 3))
    write_tree(root / "id", dict.fromkeys(CLASSES, 2), seed=1)
    write_corruptions(root / "corrupted", dict.fromkeys(CLASSES, 3), ("fog", "snow"), (2, 5))
    write_tree(root / "numbered", {str(i): 3 for i in range(len(CLASSES))})
    for broken in ("data/cat/cat_0001.JPEG", "corrupted/snow/2/cat/cat_0001.JPEG", "numbered/1/1_0001.JPEG"):
        (root / broken).write_bytes(b"no image")
    save_checkpoint(root / "run", CLASSES)
    return root


def keys(protocol, world, out, **more):
    own = EXTRA.get(protocol, {}) | ({"id_data": str(world / "id")} if protocol == "imagenet-o" else {})
    return (
        {"data": str(world / FOLDERS.get(protocol, "data")), "out": str(out), "workers": 0, "forward_batch": 8}
        | own
        | more
    )


def evaluate(protocol, world, out, **more):
    """(record, bytes of the per-sample records) of one run."""
    assert run(protocol, [str(world / "run")], CONFIGS[protocol](**keys(protocol, world, out, **more))) == 2
    (record,) = records(Path(out))
    return record, (Path(out) / record["records"]).read_bytes()


def measured(record):
    """What a run measured, without how long it took and on what."""
    config = {k: v for k, v in record["config"].items() if k not in EXECUTION}
    return json.dumps(
        {k: v for k, v in record.items() if k not in ("seconds", "environment")} | {"config": config}, sort_keys=True
    )


@pytest.fixture(scope="module")
def reference(world, tmp_path_factory):
    made = {}

    def get(protocol):
        if protocol not in made:
            made[protocol] = evaluate(protocol, world, tmp_path_factory.mktemp("reference"))
        return made[protocol]

    return get


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (7, 2), (64, 2)])
def test_batch_size_and_workers_change_no_byte(protocol, world, reference, tmp_path, batch_size, workers):
    record, content = evaluate(protocol, world, tmp_path, batch_size=batch_size, workers=workers)
    assert content == reference(protocol)[1] and measured(record) == measured(reference(protocol)[0])


def _process(number, port, protocol, options, checkpoint):
    os.environ |= {
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    append = results.append

    def noted(folder, record):
        with open(Path(folder) / "appended", "a", encoding="utf-8") as f:
            f.write(str(number))
        return append(folder, record)

    results.append = noted
    for _ in range(2):
        assert run(protocol, [checkpoint], CONFIGS[protocol](**options)) == 2
    leave_processes()


def test_two_processes_write_the_same_bytes_once(protocol, world, reference, tmp_path):
    args = (ports.free(), protocol, keys(protocol, world, tmp_path, device="cpu"), str(world / "run"))
    torch.multiprocessing.start_processes(_process, args=args, nprocs=2, start_method="fork")
    expected, content = reference(protocol)
    (record,) = records(tmp_path)
    assert (tmp_path / "appended").read_text() == "00"  # by one process in each of two runs
    assert measured(record | {"config": record["config"] | {"device": None}}) == measured(expected)
    assert (tmp_path / record["records"]).read_bytes() == content
    assert record["environment"]["processes"] == 2


def test_the_number_of_threads_changes_no_byte(protocol, world, reference, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(before, 2))
        assert evaluate(protocol, world, tmp_path)[1] == reference(protocol)[1]
    finally:
        torch.set_num_threads(before)


def test_the_record_is_complete_and_honest(protocol, reference):
    record = reference(protocol)[0]
    results.check(record)
    assert record["protocol"] == protocol and record["version"] == PROTOCOLS[protocol].version
    assert not record["complete"] and not record["published"] and record["data"]["n_skipped"] == 1
    assert set(record["standard_errors"]) | set(record["undefined"]) <= set(record["metrics"])
    assert all(v is not None or k in record["undefined"] for k, v in record["metrics"].items())
    assert set(record["config"]) == set(keys(protocol, Path(), "")) | {
        f for f in CONFIGS[protocol].__dataclass_fields__
    }


def test_the_numbers_are_a_function_of_the_records_alone(protocol, world, tmp_path):
    record, _ = evaluate(protocol, world, tmp_path)
    with np.load(tmp_path / record["records"], allow_pickle=False) as content:
        arrays = dict(content)
    before = {k: v.copy() for k, v in arrays.items()}
    outcome = PROTOCOLS[protocol].load().evaluate(arrays)
    assert all((before[k] == v).all() for k, v in arrays.items())
    assert {k: None if np.isnan(v) else v for k, v in outcome.metrics.items()} == record[
        "metrics"
    ] and outcome.series == record["series"]
    p = np.random.default_rng(0).permutation(len(arrays["ids"]))
    shuffled = {k: v[p] if len(v) == len(p) and k not in COLUMNS else v for k, v in arrays.items()}
    for name, value in PROTOCOLS[protocol].load().evaluate(shuffled).metrics.items():
        assert value == pytest.approx(outcome.metrics[name], abs=1e-12, nan_ok=True), name


def test_the_command_line_offers_it(protocol, capsys):
    assert invoke(["robustness", "--help"])[0] == 0
    assert f"  {protocol} " in capsys.readouterr().out


def test_what_is_read_is_known_without_a_network(protocol, world, tmp_path, monkeypatch):
    """What a study compares is what `prepare` opens."""
    cfg, measurement = CONFIGS[protocol](**keys(protocol, world, tmp_path)), PROTOCOLS[protocol].load()
    if protocol == "occlusion":  # maps of another model are data too
        cfg = replace(cfg, saliency=str(world / "run"))
    loaded = models.load(str(world / "run"))
    read = measurement.prepare(loaded, cfg, torch.device("cpu")).reads()
    assert read == measurement.reads(loaded, cfg)
    monkeypatch.setattr(models.Network, "__init__", None)
    facts = models.stated(str(world / "run"))
    assert read == measurement.reads(facts, cfg) and all(value.startswith("content-full:") for value in read.values())
    assert facts.sha256 == loaded.sha256 and ("saliency" in read) == (protocol == "occlusion")
