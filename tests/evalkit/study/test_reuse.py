import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from evalkit.errors import EvalkitError
from evalkit.study import job, plan, reuse
from tests.evalkit import fake_records

from .fakes import interpreter
from .test_spec import load

PRINT = "content-full:" + "1" * 64, "content-full:" + "2" * 64  # of training and validation images
SETS = dict(zip(("train", "val"), PRINT))
WANTED = reuse.Identity({"lr": 0.001, "mixup": "mixpro", "seed": 0, "augment_device": "auto"}, SETS, version=2)


def trained(run, **changes):
    """A finished training as its folder shows it."""
    config = WANTED.settings | {"augment_device": "cpu", "workers": 8}
    data = {"name": "digits", "fingerprint": PRINT[1], "split": "val"}
    record = fake_records.record(**({"config": config, "version": 2, "data": data} | changes))
    (run / "last").mkdir(parents=True)
    (run / "results.jsonl").write_text(json.dumps(record) + "\n")
    images = {"fingerprint": PRINT[0], "val_fingerprint": PRINT[1]}
    (run / "last" / "meta.json").write_text(json.dumps({"data": images}))
    (run / "last" / "model.safetensors").touch()
    return run


@pytest.fixture
def planned(tmp_path, record):
    """A study's folder with a plan of two cells."""
    study, folder = load(tmp_path), tmp_path / "out"
    cells = [c for c in study.cells if c.values["seed"] == "0" and not c.excluded][:2]
    made = replace(plan.make(study, cells), python=interpreter(tmp_path, json.dumps(record)))
    plan.start(folder, made, study)
    return folder, made


def test_a_training_made_before_is_used_and_named(planned, tmp_path):
    folder, made = planned
    first = made.jobs[0]
    other = replace(WANTED, settings=WANTED.settings | {"seed": 1})
    run = trained(tmp_path / "runs" / "before")
    said = reuse.take(folder, made, [tmp_path / "runs"], lambda job: WANTED if job.id == first.id else other)
    assert said == [f"used: {first.id}: {run}"] and plan.finished(folder, first)
    assert [j.id for j in made.jobs if (folder / j.out).exists()] == [first.id]
    assert reuse.used(folder, made) == [f"Used, not made by this study: {first.id}: {run}."]
    state = run / "checkpoints" / "step-1" / "train_state.pt"
    state.parent.mkdir(parents=True)
    state.touch()
    for one in made.of_cell(first.cell):
        assert job.run(folder, one.id) == 0
    assert state.exists()  # of somebody's run: not this study's to prune
    assert reuse.take(folder, made, [tmp_path / "runs"], lambda job: WANTED) != []  # the other cell
    with pytest.raises(EvalkitError, match="does not exist"):
        reuse.take(folder, made, [tmp_path / "nowhere"], lambda job: WANTED)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": WANTED.settings | {"lr": 0.002}},
        {"config": WANTED.settings | {"seed": 1}},
        {"version": 1},
        {"data": {"name": "digits", "fingerprint": "content-full:" + "3" * 64, "split": "val"}},
        {"complete": False},
        {"weights": "ema"},
    ],
)
def test_another_training_is_not_used(planned, tmp_path, changes):
    folder, made = planned
    trained(tmp_path / "runs" / "before", **changes)
    known = int(not changes.keys() & {"complete", "weights"})
    (said,) = reuse.take(folder, made, [tmp_path / "runs"], lambda job: WANTED)
    assert said.startswith(f"nothing is used of {tmp_path / 'runs'}: none of its {known} finished trainings has")


def test_other_training_images_and_missing_weights_are_not_used(planned, tmp_path):
    folder, made = planned
    run = trained(tmp_path / "runs" / "before")
    another = replace(WANTED, sets=SETS | {"train": "content-full:" + "4" * 64})
    for wanted in (another, WANTED):
        (said,) = reuse.take(folder, made, [tmp_path / "runs"], lambda job, wanted=wanted: wanted)
        assert said.startswith("nothing is used of")
        (run / "last" / "model.safetensors").unlink(missing_ok=True)


def test_the_evaluations_of_another_study_come_with_its_training(planned, tmp_path, record):
    folder, made = planned
    first, occlusion, linear = made.of_cell(made.jobs[0].cell)
    before = tmp_path / "before"
    plan.start(before, made, load(tmp_path))
    trained(before / first.out)
    (before / occlusion.out).mkdir()
    data = record["data"] | {"sets": {"data": {"name": "digits", "fingerprint": PRINT[1]}}}
    content = record | {"task": "robustness", "protocol": "occlusion", "version": 3, "data": data}
    (before / occlusion.out / "results.jsonl").write_text(json.dumps(content) + "\n")
    evaluation = reuse.Identity({}, {"data": PRINT[1]}, 3)
    wanted = {first.id: WANTED, occlusion.id: evaluation}
    said = reuse.take(folder, made, [before], lambda job: wanted.get(job.id, replace(WANTED, version=9)))
    assert len(said) == 2 and plan.finished(folder, occlusion) and not (folder / linear.out).exists()


def test_what_another_study_has_taken_itself_is_taken_with_what_it_measured_of_it(planned, tmp_path, record):
    """A third study's training, linked by a second one, which measured it: the first is given the second alone."""
    folder, made = planned
    first, occlusion, _ = made.of_cell(made.jobs[0].cell)
    third = trained(tmp_path / "third")
    second = tmp_path / "second"
    plan.start(second, made, load(tmp_path))
    (second / first.out).parent.mkdir(parents=True)
    (second / first.out).symlink_to(third, target_is_directory=True)
    wanted = {first.id: WANTED, occlusion.id: reuse.Identity({}, {"data": PRINT[1]}, 3)}
    identity = lambda job: wanted.get(job.id, replace(WANTED, version=9))  # noqa: E731
    assert reuse.take(folder, made, [second], identity) == [f"used: {first.id}: {second / first.out}"]
    assert (folder / first.out).readlink() == third
    (folder / first.out).unlink()
    (second / occlusion.out).mkdir()
    data = record["data"] | {"sets": {"data": {"name": "digits", "fingerprint": PRINT[1]}}}
    content = record | {"task": "robustness", "protocol": "occlusion", "version": 3, "data": data}
    (second / occlusion.out / "results.jsonl").write_text(json.dumps(content) + "\n")
    assert len(reuse.take(folder, made, [third, second], identity)) == 2  # wherever the training itself was found
    assert (folder / occlusion.out).readlink() == second / occlusion.out


def test_labels_that_a_shell_would_obey_arrive_as_they_are(tmp_path, record):
    words = ["it's $(touch owned) `id`", 'two "lines"\nof; text & more', "; exit 1", "-n", "ä {x}"]
    axes = {"label": {word: {"label": word} for word in words}}
    study, folder = load(tmp_path, axes=axes, where=None, **{"except": None}, report=None), tmp_path / "out"
    plan.start(folder, replace(plan.make(study, study.cells), python=interpreter(tmp_path, json.dumps(record))), study)
    for one in plan.read(folder).jobs:
        assert job.run(folder, one.id) == 0
    calls = [json.loads(line)["argv"] for line in (folder / "calls.jsonl").read_text().splitlines()]
    from evalkit import config
    from evalkit.train.config import TrainConfig

    labels = [config.load(TrainConfig, call[1], call[2:-2]).label for call in calls if call[0] == "train"]
    assert labels == words and not list(tmp_path.rglob("owned"))


@pytest.mark.slow
def test_two_runs_of_a_study_at_once(planned, tmp_path):
    folder, _ = planned
    hold = (
        "import sys; from pathlib import Path; from evalkit import run_folder\n"
        "with run_folder.claimed(Path(sys.argv[1]), 'study run mine', new=False):\n"
        "    print('held', flush=True); input()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    start = lambda *words: subprocess.Popen(  # noqa: E731
        [sys.executable, *words],
        env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    holder = start("-c", hold, str(folder))
    try:
        assert holder.stdout.readline() == "held\n"
        second = start("-m", "evalkit", "study", "run", str(tmp_path / "mine.yaml"), "--out", str(folder))
        _, said = second.communicate()
        assert second.returncode == 1 and said.count("\n") == 1 and "is in use by `evalkit study run mine`" in said
    finally:
        holder.communicate("\n")
