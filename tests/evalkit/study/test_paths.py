"""Relative paths, in a study's file and on the command line alike, are of the directory that `study run` starts in."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from evalkit.cli import identities, invoke
from evalkit.errors import EvalkitError
from evalkit.study import job, plan, reuse, spec
from tests.bad_inputs.make import ARGS, run_folder, splits

from .fakes import interpreter
from .made import made_study
from .test_spec import load

QUICK = {"workers": 0, "device": "cpu", "batch_size": 8, "forward_batch": 8}


def begun(tmp_path, record, monkeypatch, out):
    """A study that was started in tmp_path/here: (its folder, its plan)."""
    (tmp_path / "here").mkdir()
    study = load(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    made = plan.make(study, spec.select(study, "model=small,method=CutMix,seed=0"))
    plan.start(tmp_path / out, replace(made, python=interpreter(tmp_path, json.dumps(record))), study)
    return tmp_path / out, made


def calls(folder):
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("out, shown", [("here/studies/mine", "studies/mine"), ("elsewhere", None)])
def test_commands_run_where_the_study_was_started(tmp_path, record, monkeypatch, out, shown):
    """And name its folder from there, where it lies there: a record holds no path of somebody's home."""
    folder, made = begun(tmp_path, record, monkeypatch, out)
    monkeypatch.chdir(tmp_path)  # as Snakemake, or a node
    for one in made.jobs:
        assert job.run(folder, one.id) == 0
    shown = shown or str(folder)
    train, occlusion, _ = calls(folder)
    assert train["cwd"] == occlusion["cwd"] == str(tmp_path / "here")
    assert train["argv"][-1] == f"{shown}/{made.jobs[0].out}"
    assert occlusion["argv"][:3] == ["robustness", "occlusion", f"{shown}/{made.jobs[0].out}"]


def test_a_directory_that_is_gone_is_named(tmp_path, record, monkeypatch):
    folder, made = begun(tmp_path, record, monkeypatch, "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rmdir()
    assert job.run(folder, made.jobs[0].id) == 1
    state = plan.state(folder, made.jobs[0])
    assert (
        state["state"] == "failed" and "where the study was started, is gone; run the study again" in state["message"]
    )


def test_started_elsewhere_the_next_time_is_said(tmp_path, record, monkeypatch):
    folder, _ = begun(tmp_path, record, monkeypatch, "out")
    monkeypatch.chdir(tmp_path)
    study = spec.load(tmp_path / "mine.yaml")
    again = plan.make(study, spec.select(study, "model=small,method=CutMix,seed=0"))
    assert plan.start(folder, again, study) == [
        f"relative paths are of {tmp_path} now; they were of {tmp_path / 'here'}"
    ]
    assert plan.start(folder, again, study) == [] and plan.read(folder).cwd == str(tmp_path)
    values = json.loads((folder / "plan.json").read_text())
    del values["cwd"]  # as an earlier evalkit wrote it: the commands ran in the study's folder
    (folder / "plan.json").write_text(json.dumps(values))
    assert plan.start(folder, again, study) == [f"relative paths are of {tmp_path} now; they were of {folder}"]


def here(tmp_path, monkeypatch):
    """Everything that a study may name by a path, relative to the working directory: data, weights that a training
    begins with, a teacher, a recipe, a class, the data and maps of evaluations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    splits(tmp_path / "data")
    run_folder(tmp_path / "weights")
    keys = {"base": "digits", "data": "folder", "data_dir": "data", "epochs": 1, "batch_size": 4, "micro_batch": 4}
    keys |= {"threads": 1, "workers": 0, "device": "cpu", "init": "weights", "model_args": ARGS}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(keys))
    (tmp_path / "ownmethod.py").write_text(
        "import torch\nfrom evalkit.train.mixups import MixMethod, Mixed\n"
        "class Own(MixMethod):\n    def mix(self, ctx, x, y, net):\n        return Mixed(x, torch.eye(len(x)))\n"
    )
    clean = {**QUICK, "data": "data/val", "eps": [1]}
    axes = {"method": {"own": {"mixup": "ownmethod:Own"}}}
    return {"recipe": "./recipe.yaml", "axes": axes, "evaluate": [{"robustness": "fgsm", "set": clean}]}


def test_every_kind_of_path_is_of_the_working_directory(tmp_path, monkeypatch):
    content = here(tmp_path, monkeypatch)
    _, out, made = made_study(tmp_path, content)
    assert reuse.changed(out, made, identities.of_jobs(out)) == []
    # the folder moves, and goes on: nothing in it says where it lay
    moved = tmp_path / "deep" / "er"
    shutil.move(out, moved)
    assert reuse.changed(moved, plan.read(moved), identities.of_jobs(moved)) == []
    # a recipe that was edited since: what is made anew would stand beside what it made before
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "weight_decay: 0.3\n")
    with pytest.raises(EvalkitError, match="train is finished, but with another weight_decay than the recipe has now"):
        reuse.changed(moved, made, identities.of_jobs(moved))
    (moved / made.jobs[0].out / "results.jsonl").unlink()
    (moved / made.jobs[1].out / "results.jsonl").unlink()
    with pytest.raises(EvalkitError, match="train was begun, but with another weight_decay than the recipe has now"):
        reuse.changed(moved, made, identities.of_jobs(moved))


def test_the_commands_of_a_dry_run_can_be_typed_where_they_are_printed(tmp_path, monkeypatch, capsys):
    content = here(tmp_path, monkeypatch)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert invoke(["study", "run", "mine.yaml", "--dry-run"])[0] == 0
    said = capsys.readouterr().out
    run = "studies/mine/cells/own/train"
    assert f"--out {run}\n" in said.replace("  #", "\n") and f"evalkit robustness fgsm {run} " in said


def test_a_dry_run_names_a_size_that_the_network_does_not_take(tmp_path, monkeypatch, capsys):
    content = here(tmp_path, monkeypatch)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert invoke(["study", "run", "mine.yaml", "image_size=16", "--dry-run"]) == (0, "")
    assert "no cost for vit_nano_patch4_32: " in (said := capsys.readouterr().out) and "16 x 16 pixels" in said
