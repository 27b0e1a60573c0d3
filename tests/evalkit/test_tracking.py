"""Trackers show the values of log.jsonl under the same names, offline, and a resume goes on in the same run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit import tracking
from evalkit.errors import EvalkitError
from evalkit.logger import Logger

ROOT = Path(__file__).parents[2]
PARTS = ((0, (5, 10)), (5, (10, 15)))  # killed after step 10, resumed from the checkpoint at 5


def logged(run, track, parts=PARTS):
    for start, steps in parts:
        log = Logger(run, start, 20, track, {"lr": 0.1, "model": "small"})
        for step in steps:
            log.log(step, {"loss": float(step), "lr": 0.1}, "")
        log.close()


def test_without_a_tracker_nothing_but_tensorboard(tmp_path):
    assert [type(t).__name__ for t in tracking.trackers(tmp_path, 0, None, {})] == ["_TensorBoard"]
    assert not (tmp_path / tracking.FILE).exists()


def test_a_client_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(EvalkitError, match=r"pip install 'evalkit\[track\]'"):
        tracking.trackers(tmp_path, 0, "wandb", {})


def test_mlflow_must_be_told_where(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra track")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(EvalkitError, match="MLFLOW_TRACKING_URI"):
        tracking.trackers(tmp_path, 0, "mlflow", {})


@pytest.mark.slow
def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra track")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    (run := tmp_path / "mixpro").mkdir()
    logged(run, "mlflow")
    client = mlflow.MlflowClient()
    (experiment,) = (e for e in client.search_experiments() if e.name == "evalkit")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "mixpro" and found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.1", "model": "small"}
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(5, 5.0), (10, 10.0), (10, 10.0), (15, 15.0)]


@pytest.mark.slow
def test_wandb_offline(tmp_path):
    """Each part of a run in a process of its own, as they are; a file of W&B holds its values as text."""
    pytest.importorskip("wandb", reason="the extra track")
    (run := tmp_path / "mixpro").mkdir()
    for parts in (PARTS[:1], PARTS[1:]):
        code = f"from pathlib import Path; from {__name__} import logged; logged(Path({str(run)!r}), 'wandb', {parts})"
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"WANDB_MODE": "offline"}, cwd=ROOT)
    files = [path.read_bytes() for path in (run / "wandb").glob("offline-run-*/*.wandb")]
    assert len(files) == 2
    (id,) = {path.stem for path in (run / "wandb").glob("offline-run-*/*.wandb")}
    assert json.loads((run / tracking.FILE).read_text()) == {"wandb": id.removeprefix("run-")}
    for name in (b"loss", b"lr", b"step", b"evalkit", b"mixpro"):
        assert all(name in content for content in files), name
