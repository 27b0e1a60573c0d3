"""A transfer's values stand under the same names in log.jsonl, TensorBoard and a tracker, what was measured among
them; offline, and a resume goes on in the same run of the tracker."""

import importlib.util
import json
import math

import pytest

from evalkit import config, results, tracking
from evalkit.cli import invoke
from evalkit.downstream.about.det import DetConfig
from evalkit.downstream.about.seg import SegConfig
from evalkit.errors import EvalkitError

from .test_seg import TINY

THIN = ["batch_size=4", "image_size=null", "channels=16", "fc_channels=32", "mask_convs=1", "rois=16", "proposals=20"]
THIN += ["device=cpu", "threads=1", "workers=0"]
needs_mm = pytest.mark.skipif(
    importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed"
)


@pytest.mark.parametrize(("kind", "recipe"), [(SegConfig, "digits-scenes"), (DetConfig, "digits-scenes-det")])
def test_the_key_is_that_of_a_training(kind, recipe):
    folder = "det" if kind is DetConfig else "seg"
    assert config.load(kind, recipe, ["track=wandb"], folder=folder).track == "wandb"
    assert config.load(kind, recipe, [], folder=folder).track is None
    with pytest.raises(EvalkitError, match="track"):
        config.load(kind, recipe, ["track=tensorbord"], folder=folder)


@pytest.mark.slow
@needs_mm
def test_the_same_names_for_the_same_values(shapes, weights, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    run = tmp_path / "run"
    words = [f"data={shapes}", *TINY, "val_steps=4", "track=mlflow", "workers=0", "threads=1"]
    assert invoke(["transfer", "seg", str(weights), *words, "--out", str(run)]) == (0, "")
    for file in (*run.glob("checkpoints/step-000000008*"), run / results.FILE):  # as if it had been killed at step 7
        file.unlink()
    assert invoke(["transfer", "seg", "--resume", str(run)]) == (0, "")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    wanted = {(name, line["step"]): float(value) for line in lines for name, value in line.items() if name != "step"}
    (record,) = results.read([run])
    for name, value in record["metrics"].items():
        assert name == "parameters" or wanted[f"val_{name}", 8] == value
    (on_the_way,) = [json.loads(line) for line in (run / "val.jsonl").read_text("utf-8").splitlines()]
    assert wanted["val_miou", 4] == on_the_way["miou"] and all(math.isfinite(v) for v in wanted.values())
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    shown = {(tag, e.step): e.value for tag in board.Tags()["scalars"] for e in board.Scalars(tag)}
    assert shown == pytest.approx(wanted, rel=1e-6)  # float32
    client = mlflow.MlflowClient()
    (experiment,) = (e for e in client.search_experiments() if e.name == "evalkit")
    (found,) = client.search_runs([experiment.experiment_id])  # one, though the transfer had two parts
    assert found.info.run_id == json.loads((run / tracking.FILE).read_text())["mlflow"]
    assert found.info.status == "FINISHED" and found.data.params["head"] == "linear"
    history = {
        (n, m.step): m.value for n in found.data.metrics for m in client.get_metric_history(found.info.run_id, n)
    }
    assert history == wanted


@pytest.mark.slow
@needs_mm
def test_a_detection_in_a_file_of_its_own(tmp_path, monkeypatch):
    """W&B without a network: its file, which holds values as text, has every name of the log."""
    pytest.importorskip("wandb", reason="the extra track")
    from evalkit.downstream.scenes import write_scenes

    monkeypatch.setenv("WANDB_MODE", "offline")
    write_scenes(tmp_path / "scenes", train=6, val=3, size=64)
    words = ["data=" + str(tmp_path / "scenes"), *THIN, "epochs=1", "decay_epochs=[]", "warmup_steps=1", "init=random"]
    run = tmp_path / "run"
    assert invoke(["transfer", "det", "pvt_nano", *words, "track=wandb", "--out", str(run)]) == (0, "")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    names = {name for line in lines for name in line}
    assert {"loss", "lr", "step", "val_box_ap", "val_mask_ap"} <= names
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert all(name.encode() in file.read_bytes() for name in names)
