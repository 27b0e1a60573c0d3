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


class Broken:
    """A tracker whose server goes away after its first values."""

    name = "Broken"

    def __init__(self):
        self.seen = []

    def log(self, step, values):
        self.seen.append(step)
        if step > 5:
            raise ConnectionError("no route to\nhost")

    def close(self):
        raise AssertionError("a tracker that failed is not asked again")


def test_a_tracker_that_fails_ends_no_training(tmp_path, monkeypatch):
    broken = Broken()
    monkeypatch.setattr("evalkit.logger.trackers", lambda run, start, *_: [broken, tracking._TensorBoard(run, start)])
    with pytest.warns(
        UserWarning, match=r"Broken shows nothing from here on \(no route to host\); log.jsonl has it all"
    ):
        logged(tmp_path, None, [(0, (5, 10, 15))])
    assert broken.seen == [5, 10]
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [5, 10, 15]


@pytest.mark.parametrize("limit", [30, 100, 200])  # of a file: its first event, one of the first step, a later one
def test_a_full_disk_silences_tensorboard_alone(tmp_path, limit):
    """Its thread would print a traceback."""
    code = (
        "import resource, sys; from pathlib import Path; from evalkit.logger import Logger\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "log = Logger(Path(sys.argv[1]), 0, 9); log.file.close(); log.file = open('/dev/null', 'wb', 0)\n"
        "for step in range(1, 9):\n    log.log(step, {'loss': 0.5}, '')\n"
        "log.close()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.count("step ") == 8, done.stderr
    assert "TensorBoard shows nothing from here on (" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_the_same_names_for_the_same_values_in_a_run(tmp_path, monkeypatch):
    """log.jsonl, TensorBoard and MLflow hold the same numbers at the same steps under the same names; W&B its names."""
    mlflow = pytest.importorskip("mlflow", reason="the extra track")
    pytest.importorskip("wandb", reason="the extra track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from evalkit.cli import invoke

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    monkeypatch.setenv("WANDB_MODE", "offline")
    small = ["model_args={depth: 1}", "epochs=1", "limit=100", "batch_size=20", "micro_batch=20", "log_steps=2"]
    for track in tracking.TRACKERS:
        run = ["--out", str(tmp_path / track), f"track={track}", "workers=0", "device=cpu"]
        assert invoke(["train", "digits", *small, *run]) == (0, "")
    logs = {
        t: [json.loads(line) for line in (tmp_path / t / "log.jsonl").read_text("utf-8").splitlines()]
        for t in tracking.TRACKERS
    }
    wanted = {
        (name, line["step"], float(value))
        for line in logs["mlflow"]
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float)
    }
    assert {name for name, *_ in wanted} >= {"loss", "lr", "epoch", "val_top1_raw", "images_per_second"}
    board = EventAccumulator(str(tmp_path / "mlflow" / "tensorboard")).Reload()
    shown = {(tag, e.step, e.value) for tag in board.Tags()["scalars"] for e in board.Scalars(tag)}
    assert {(n, s) for n, s, _ in shown} == {(n, s) for n, s, _ in wanted}
    assert {(n, s): v for n, s, v in shown} == pytest.approx({(n, s): v for n, s, v in wanted}, rel=1e-6)  # float32
    client = mlflow.MlflowClient()
    id = json.loads((tmp_path / "mlflow" / tracking.FILE).read_text())["mlflow"]
    names = client.get_run(id).data.metrics
    assert {(n, m.step, m.value) for n in names for m in client.get_metric_history(id, n)} == wanted
    (file,) = (tmp_path / "wandb" / "wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert all(name.encode() in content for line in logs["wandb"] for name in line)
