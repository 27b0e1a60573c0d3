"""Whatever stands in the files that data sets and results consist of: it works, or one line says what is wrong. As in
tests/evalkit/test_fuzz.py, an error that nobody thought of is a fault."""

import contextlib
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from evalkit import checkpoint, results, zoo
from evalkit.cli import invoke
from evalkit.downstream import begun
from evalkit.downstream.mm.loop import _line
from evalkit.downstream.readers import detection, segmentation
from evalkit.logger import Logger
from evalkit.runtime import sha256_file
from tests.bad_inputs import test_coco, test_maps
from tests.bad_inputs.make import ARGS, NAME, folders, run_folder
from tests.evalkit import fake_records
from tests.evalkit.test_fuzz import ODD, fuzzed, garbled, seeds, survives

HUGE = [10**400, -(10**400), 1e308, -1e308, 2**63 - 1, float("nan"), float("-inf"), "\ud800", "a/b\x00c", "../x"]


def edits(path: Path, count: int, odd: int = 3) -> Iterator[None]:
    """The JSON file with a few places changed, or its bytes damaged; whole again in the end.

    Args:
        path: The file.
        count: How often.
        odd: Places at most.
    """
    whole = path.read_text(encoding="utf-8")
    for rng in seeds(count):
        ODD.extend(HUGE)
        value = fuzzed(json.loads(whole), rng, rng.randint(1, odd))
        del ODD[-len(HUGE) :]
        text = json.dumps(value).encode()
        path.write_bytes(garbled(text, rng) if rng.random() < 0.15 else text)
        yield
    path.write_text(whole, encoding="utf-8")


def met(words: list[str]) -> None:
    """A command works or says one line."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, line = invoke(words)
    assert code in (0, 1, 2) and "EVALKIT_DEBUG" not in line and (code == 1) == bool(line), line


# ---- data sets


@pytest.mark.parametrize("alone", [False, True], ids=["masks", "boxes alone"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_annotation_files(tmp_path, split, alone):
    path = test_coco.whole(tmp_path) / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    entry = content["annotations"][1]
    content["annotations"][2] = entry | {"id": 3, "segmentation": {"counts": "PPo0", "size": [64, 64]}}
    content["annotations"].append(entry | {"id": 4, "segmentation": {"counts": [2000, 96, 2000], "size": [64, 64]}})
    if alone:
        for entry in content["annotations"]:
            del entry["segmentation"]
    path.write_text(json.dumps(content))
    for _ in edits(path, 150):
        survives(lambda: detection(str(tmp_path), tmp_path))


@pytest.mark.parametrize("part", ["masks/train/0.png", "images/val/1.png", "classes.txt"])
def test_label_maps(tmp_path, part):
    path = test_maps.whole(tmp_path) / part
    whole = path.read_bytes()
    for rng in seeds(60):
        path.write_bytes(garbled(whole, rng))
        survives(lambda: segmentation(str(tmp_path), tmp_path))


# ---- results


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """A tiny run, its data, and what eval, fgsm and nearest neighbours measured."""
    root: Path = tmp_path_factory.mktemp("measured")
    run_folder(root / "run")
    folders(root / "data")
    (root / "split").mkdir()
    for split in ("train", "val"):
        (root / "split" / split).symlink_to(root / "data") if split == "val" else folders(
            root / "split" / split, seed=9
        )
    met(evaluated(root, root / "run"))
    met(attacked(root))
    assert len(results.read([root / "out"])) == 2
    return root


def evaluated(root: Path, weights: Path) -> list[str]:
    return ["eval", str(weights), "--data", str(root / "data"), "device=cpu", "workers=0", "--out", str(root / "out")]


def attacked(root: Path) -> list[str]:
    words = ["robustness", "fgsm", str(root / "run"), "--data", str(root / "data"), "eps=[1]", "workers=0"]
    return [*words, "device=cpu", "--out", str(root / "out")]


@pytest.fixture
def results_in(measured, tmp_path, monkeypatch) -> Path:
    shutil.copytree(measured, tmp_path / "m", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "m"


@pytest.mark.slow
def test_side_files_of_records(results_in):
    (path,) = (results_in / "out" / "records").glob("*.json")
    for _ in edits(path, 10):
        met(attacked(results_in))
        met(["compare", str(results_in / "out"), str(results_in / "out"), "--protocol", "fgsm"])


@pytest.mark.slow
def test_per_sample_records(results_in):
    """Arrays of other shapes, types and names, with a side file that vouches for them."""
    (path,) = (results_in / "out" / "records").glob("*.npz")
    about, whole = json.loads(path.with_suffix(".json").read_text()), dict(np.load(path))
    for rng in seeds(12):
        arrays = dict(whole)
        name = rng.choice(list(arrays))
        change: Callable[[Any], Any] = rng.choice(
            [
                lambda a: a[:-1],
                lambda a: a[None],
                lambda a: a.astype(str),
                lambda a: a[:0],
                lambda a: np.array(3),
                lambda a: np.full(a.shape, np.nan),
                lambda a: np.full(a.shape, 10**6),
                lambda a: np.repeat(a[:1], len(a), 0),
            ]
        )
        arrays[name] = change(arrays[name])
        if rng.random() < 0.2:
            del arrays[name]
        np.savez(path, **arrays)
        if rng.random() < 0.2:
            path.write_bytes(garbled(path.read_bytes(), rng))
        path.with_suffix(".json").write_text(json.dumps(about | {"sha256": sha256_file(path)}))
        met(["compare", str(results_in / "out"), str(results_in / "out"), "--protocol", "fgsm"])
        met(attacked(results_in))


@pytest.mark.slow
def test_predictions(results_in):
    path = results_in / "out" / "predictions.csv"
    whole = path.read_bytes()
    for rng in seeds(40):
        path.write_bytes(garbled(whole, rng))
        met(["compare", str(results_in / "out"), str(results_in / "out"), "--protocol", "accuracy"])


@pytest.mark.slow
def test_logs(results_in, tmp_path):
    run = results_in / "run"
    lines = [{"step": i, "loss": 1.0, "lr": 0.1, "val_top1_raw": 0.5, "epoch": i / 2} for i in range(1, 9)]
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    results.append(run, fake_records.record())
    for rng in seeds(25):
        content = [json.dumps(fuzzed(line, rng, 1)).encode() + b"\n" if rng.random() < 0.3 else b"" for line in lines]
        (run / "log.jsonl").write_bytes(garbled(whole + b"".join(content), rng))
        if rng.random() < 0.2:
            met(["report", str(run), "--out", str(tmp_path / "report")])
        met(["show", str(run)])
        survives(lambda: Logger(run, 4, 8).close())


# ---- folders of transfers, of the zoo, of the Hub


def test_state_of_a_transfer(tmp_path):
    source = begun.Source(NAME, ARGS, "run", "raw", "0", None, "x", [0.5] * 3, [0.5] * 3, [32], [4])
    data: Any = SimpleNamespace(reads=lambda: {"train": "full:1", "val": "full:2"})
    begun.write(tmp_path, source, data)
    for _ in edits(tmp_path / begun.SOURCE, 80, odd=2):
        survives(lambda: begun.source(tmp_path))
    for _ in edits(tmp_path / begun.DATA, 40, odd=1):
        survives(lambda: begun.compare(tmp_path, data))
    for rng in seeds(40):
        assert isinstance(_line(garbled(json.dumps({"step": 3, "miou": 0.5}).encode(), rng)), dict)


@pytest.mark.slow
def test_cards_of_the_zoo(tmp_path, monkeypatch):
    folder = tmp_path / "zoo" / "mine"
    run_folder(tmp_path / "run")
    shutil.copytree((tmp_path / "run" / "last").resolve(), folder)
    (folder / zoo.CARD).write_text(json.dumps({"commands": ["evalkit train digits", "evalkit eval zoo:mine"]}))
    results.append(folder, fake_records.record(task="eval", protocol="accuracy"))
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    for _ in edits(folder / zoo.CARD, 20, odd=2):
        met(["zoo", "list"])
        met(["show", "zoo:mine"])


@pytest.mark.slow
def test_folders_of_the_hub(tmp_path):
    run_folder(tmp_path / "run")
    weights = checkpoint.read_weights(tmp_path / "run")[0]
    (hub := tmp_path / "hub").mkdir()
    save_file(weights, hub / "model.safetensors")
    config = {"architecture": NAME, "num_classes": 2, "num_features": 32, "global_pool": "token", "model_args": ARGS}
    config["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "crop_pct": 0.9}
    config["label_names"] = ["a", "b"]
    (hub / "config.json").write_text(json.dumps(config))
    folders(tmp_path / "data")
    words = ["eval", str(hub), "--data", str(tmp_path / "data"), "device=cpu", "workers=0"]
    for _ in edits(hub / "config.json", 25, odd=2):
        met([*words, "--out", str(tmp_path / "out")])
