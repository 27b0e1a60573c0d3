import json

import pytest

from evalkit.errors import EvalkitError
from evalkit.study import plan, spec

from .test_spec import load


def test_a_plan_has_a_training_and_its_evaluations_per_cell(tmp_path):
    study = load(tmp_path)
    made = plan.make(study, study.cells, given=["data_dir=/x"], gpus=2)
    assert made.left_out == {f"small-Mixup-seed{s}": "nobody asked" for s in (0, 1)}
    assert len(made.jobs) == 6 * 3
    train, occlusion, linear = made.of_cell("large-CutMix-seed0")
    assert train.argv[:2] == ["train", "digits-photo"] and train.argv[-1] == "data_dir=/x" and train.gpus == 2
    assert occlusion.argv == ["robustness", "occlusion", train.out, "limit=5"] and occlusion.needs == [train.id]
    assert linear.argv == ["transfer", "seg", train.out] and linear.out.endswith("/linear")


def test_cells_that_cannot_be_trained_are_named(tmp_path):
    study = load(tmp_path)
    made = plan.make(
        study, study.cells, check=lambda recipe, words: "no class attention" if "model=pvt_nano" in words else None
    )
    assert set(made.left_out.values()) == {"nobody asked", "no class attention"} and len(made.jobs) == 2 * 3
    with pytest.raises(EvalkitError, match="no cell"):
        plan.make(study, study.cells, check=lambda *_: "never")


def test_a_folder_keeps_its_study_and_its_commands(tmp_path):
    study, folder = load(tmp_path), tmp_path / "out"
    first = plan.make(study, spec.select(study, "seed=0"))
    plan.start(folder, first, study)
    plan.start(folder, plan.make(study, spec.select(study, "seed=1")), study)
    both = plan.read(folder)
    assert {job.cell for job in both.jobs} == {c.name for c in study.cells if c.excluded is None}
    (folder / first.jobs[0].out).mkdir(parents=True)
    with pytest.raises(EvalkitError, match="epochs=3 is different"):
        plan.start(folder, plan.make(study, spec.select(study, "seed=0"), given=["epochs=3"]), study)
    (folder / "plan.json").write_text(json.dumps({"study": "other"}))
    with pytest.raises(EvalkitError, match="damaged"):
        plan.read(folder)
    with pytest.raises(EvalkitError, match="no plan.json"):
        plan.read(tmp_path / "nowhere")


def test_a_job_counts_by_its_record(tmp_path, record):
    study = load(tmp_path)
    job = plan.make(study, study.cells).jobs[0]
    assert not plan.finished(tmp_path, job) and plan.state(tmp_path, job) == {"state": "waiting"}
    results = tmp_path / job.out / "results.jsonl"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps(record | {"complete": False}) + "\n")
    assert not plan.finished(tmp_path, job)
    results.write_text(json.dumps(record) + "\n")
    assert plan.finished(tmp_path, job) and plan.state(tmp_path, job)["state"] == "done"


def test_a_folder_of_another_person_brings_no_commands(tmp_path):
    study, folder = load(tmp_path), tmp_path / "out"
    first, second = (plan.make(study, spec.select(study, f"seed={n}")) for n in (0, 1))
    plan.start(folder, first, study)
    values = json.loads((folder / "plan.json").read_text())
    own, code, elsewhere = values["jobs"][:3]
    own["argv"].append("epochs=3")  # as `study run mine.yaml epochs=3` would have left it
    code["argv"].append("mixup=evil:Method")
    elsewhere |= {"out": "../../elsewhere", "needs": ["../x"]}
    evil = {"id": "../evil", "cell": "x", "argv": ["train", "evil.yaml"], "needs": [], "out": "../evil"}
    other = values["jobs"][3] | {"argv": ["train", "evil.yaml"]}
    values["jobs"] = [own, code, elsewhere, other, evil]
    (folder / "plan.json").write_text(json.dumps(values))
    said = plan.start(folder, second, study)
    assert len(said) == 3 and "add mixup=evil:Method" in said[0] and "../evil" in said[1]
    assert "no such job" in said[1] and other["id"] in said[2] and "another command for it now" in said[2]
    jobs = {job.id: job for job in plan.read(folder).jobs}
    assert "evil" not in str(jobs) and jobs[own["id"]].argv == own["argv"]
    assert jobs[elsewhere["id"]].out == next(job.out for job in first.jobs if job.id == elsewhere["id"])
    asked = plan.make(study, spec.select(study, "seed=1,method=CutMix"), given=["mixup=evil:Method"])
    (folder / "plan.json").write_text(json.dumps(values))
    assert not any("adds code" in line for line in plan.start(folder, asked, study))  # named here: it is the user's
    (folder / "plan.json").write_text(json.dumps(values | {"jobs": [own | {"gpus": "2"}]}))
    with pytest.raises(EvalkitError, match="damaged"):
        plan.start(folder, second, study)
