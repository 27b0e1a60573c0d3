"""Studies that are too large, and folders of studies that were edited, moved or damaged, or are another person's."""

import contextlib
import io
import json
import shutil

import pytest
import yaml

from evalkit import results
from evalkit.cli import identities, invoke
from evalkit.study import engine, identity, job, plan, reuse, spec
from tests.evalkit import fake_records
from tests.evalkit.study.made import made_study

from .cases import Case
from .make import put, run_folder, splits, training

KIND = "Folders of studies: too large, edited, moved, damaged, another person's"


def heard(command):
    """(the exit code, the error or what was said)."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code, line = invoke(command)
    return code, line or said.getvalue()


# ---- too large


def large(folder, axes):
    file = folder / "mine.yaml"
    file.write_text(f"recipe: digits\naxes: {axes}\n")
    return invoke(["study", "run", str(file), "--out", str(folder / "out"), "--dry-run"])


# ---- edited


def recipe_edited(folder):
    """Between two runs of a study, the file of the recipe that its cells train by."""
    words = [word.split("=", 1) for word in training(splits(folder / "data"))[2:-2]]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": "digits"} | {key: yaml.safe_load(value) for key, value in words}))
    file, out, made = made_study(folder, {"recipe": str(recipe), "axes": {"seed": [0]}})
    assert reuse.changed(out, made, identities.of_jobs(out)) == []
    recipe.write_text(f"{recipe.read_text()}label_smoothing: 0.25\n")
    return invoke(["study", "run", str(file), "--out", str(out)])


def in_the_middle(folder):
    """Images that change while a study runs, between two of its evaluations."""
    weights = run_folder(folder / "run")
    for meta in weights.glob("checkpoints/*/meta.json"):
        meta.write_text(meta.read_text().replace('"label"', '"image_size": 32, "label"'))
    keys = {"data": str(splits(folder / "data") / "val"), "eps": [1], "workers": 0, "device": "cpu", "weights": "raw"}
    axes = {"network": {name: {"weights": str(weights)} for name in ("one", "two")}}
    content = {"axes": axes, "evaluate": [{"robustness": "fgsm", "set": keys}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))

    def run(out, **_):
        for one in plan.read(out).jobs:
            assert heard([*plan.words(out, one), "--out", str(out / one.out)])[0] == 0
            put(folder / "data" / "val" / "a" / "0.png", 77)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", run)
        return heard(["study", "run", str(folder / "mine.yaml"), "--out", str(folder / "out")])


MINE = {
    "recipe": "digits",
    "set": {"epochs": 1, "lr": 0.001},
    "axes": {"method": {"one": {}, "two": {"mixup": "mixup"}}, "seed": [0]},
    "evaluate": [{"robustness": "fgsm", "set": {"eps": [1]}}],
}


def finished(folder):
    """A study that was run, with records that were made up: (its file, its folder, its plan)."""
    file, out = folder / "mine.yaml", folder / "out"
    file.write_text(yaml.safe_dump(MINE, sort_keys=False))
    study = spec.load(file)
    made = plan.make(study, study.cells)
    plan.start(out, made, study)
    for k, one in enumerate(made.jobs):
        own = {"checkpoint_sha256": f"{k:064x}", "label": one.cell}
        fields = {} if one.argv[0] == "train" else {"task": "robustness", "protocol": "fgsm"}
        results.append(out / one.out, fake_records.record(**own, **fields))
        (out / "jobs").mkdir(exist_ok=True)
        (out / "jobs" / f"{one.id}.json").write_text(json.dumps({"state": "done"}))
    return file, out, made


def edited(folder, change):
    """The study's file between two runs; what is finished stays as it is."""
    file, out, made = finished(folder)
    content = json.loads(json.dumps(MINE))
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", lambda *_, **__: 0)
        patch.setattr(reuse, "changed", lambda *_: [])  # its images are made up
        code, said = heard(["study", "run", str(file), "--out", str(out)])
    assert all(plan.finished(out, job) for job in made.jobs)
    assert code == 1 or report_of(file, out)
    return (code, said) if code == 1 else said


def report_of(file, out):
    assert heard(["study", "report", str(file), "--folder", str(out)])[0] == 0
    return (out / "report" / "report.md").read_text()


def taken_out(folder):
    """Of a cell that the study has no more, the report says that it lies there."""
    file, out, _ = finished(folder)
    content = json.loads(json.dumps(MINE))
    del content["axes"]["method"]["two"]
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return report_of(file, out)


def elsewhere(folder, target):
    """A training that was linked from a folder that is not there any more."""
    _, out, made = finished(folder)
    run = out / made.jobs[0].out
    shutil.move(run, folder / "kept")
    run.symlink_to(folder / target, target_is_directory=True)
    assert job.run(out, made.jobs[0].id) == 1
    return heard(["study", "status", str(out)])[1]


def linked_anew(folder):
    """--use puts another link in the place of one that leads nowhere."""
    _, out, made = finished(folder)
    for one in made.jobs:
        shutil.rmtree(out / one.out)
    run = out / made.jobs[0].out
    run.symlink_to(folder / "gone", target_is_directory=True)
    before = folder / "before" / "cells" / "x" / "train"
    before.mkdir(parents=True)
    results.append(before, fake_records.record())
    reuse._link(out, made.jobs[0], before)
    assert plan.finished(out, made.jobs[0])


def damaged(folder, text):
    """The record of a training whose evaluations are there: it is neither trained anew nor called done."""
    file, out, made = finished(folder)
    (out / made.jobs[0].out / results.FILE).write_text(text)
    _, said = heard(["study", "status", str(out)])
    assert "1 failed" in said and "3 done" in said and f"{made.jobs[0].out}/results.jsonl, is gone or damaged" in said
    return heard(["study", "run", str(file), "--out", str(out)])


def line_of(folder):
    """A line beside the record, as a crash leaves it."""
    file, out, made = finished(folder)
    path = out / made.jobs[0].out / results.FILE
    path.write_bytes(b'{"task": "tra\n' + path.read_bytes())
    assert heard(["study", "status", str(out)])[0] == 0
    return report_of(file, out)


def planned(folder, change):
    """plan.json with other content."""
    file, out, _ = finished(folder)
    path = out / plan.FILE
    content = change(json.loads(path.read_text()))
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    code, line = heard(["study", "status", str(out)])
    assert code == 1 and heard(["study", "run", str(file), "--out", str(out)]) == (1, line)
    path.unlink()  # as it says
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", lambda *_, **__: 0)
        patch.setattr(reuse, "changed", lambda *_: [])
        assert heard(["study", "run", str(file), "--out", str(out)])[0] == 0
    return code, line


def used_in_vain(folder):
    """--use of trainings of which none is one of the study's."""
    _, out, made = finished(folder)
    new = folder / "new"
    return "; ".join(reuse.take(new, made, [out], lambda job: identity.Identity({"lr": 7.0}, {}, 1)))


PLANS = {
    "cut short": lambda content: json.dumps(content)[:100],
    "that is a list": lambda content: [content],
    "nested 100,000 deep": lambda content: "[" * 100_000,
    "with a title that is a number": lambda content: content | {"title": 3},
    "with cells left out that are a list": lambda content: content | {"left_out": []},
    "with values that are text": lambda content: content | {"values": "x"},
    "with a directory that is a number": lambda content: content | {"cwd": 3},
    "of a newer evalkit": lambda content: content | {"more": 1},
    "with a job of numbers": lambda content: content | {"jobs": [content["jobs"][0] | {"argv": [1, 2]}]},
    "without jobs": lambda content: {key: value for key, value in content.items() if key != "jobs"},
}


def typed(folder, words):
    """Settings that are given to a study, or an evaluation in its file, before anything runs."""
    content, words = (words, []) if isinstance(words, dict) else ({}, words)
    if words == ["lr=0.1"]:
        content = {"recipe": None, "set": None, "axes": {"network": {"one": {"weights": "x"}}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(MINE | content, sort_keys=False))
    code, line = heard(["study", "run", str(folder / "mine.yaml"), *words, "--out", str(folder / "out")])
    assert not (folder / "out").exists()
    return code, line


def numbers(count):
    return f"[{', '.join(map(str, range(count)))}]"


TYPED = {
    "a seed for all cells of a study of seeds": (["seed=5"], "'seed' is an axis, and cell 'one-seed0' would not be"),
    "a method for all cells of a study of methods": (["mixup=cutmix"], "make one training of the cells 'one-seed0'"),
    "a key of no evaluation of a study": (["fgms.eps=[2]"], "unknown key 'fgms.eps'"),
    "a key that an evaluation has not": (["fgsm.esp=[2]"], "evaluation fgsm: unknown key 'esp'. Did you mean 'eps'"),
    "a protocol that there is not": ({"evaluate": [{"robustness": "fgms"}]}, "unknown protocol 'fgms'. Did you mean"),
    "a task that there is not": ({"evaluate": [{"transfer": "sge"}]}, "evaluation sge: unknown task 'sge'"),
    "a misspelt key of an evaluation": ({"evaluate": [{"robustness": "fgsm", "set": {"esp": 1}}]}, "unknown key 'esp'"),
    "settings of trainings for a study that has none": (
        ["lr=0.1"], "lr=0.1: nothing is trained here; give it to an evaluation as NAME.lr=0.1"
    ),
}  # fmt: skip
CASES = [
    *(Case(name, typed, says, argument=words) for name, (words, says) in TYPED.items()),
    Case(
        "10^9 cells of three axes",
        large,
        "1,000,000,000 cells .*10,000 at most",
        argument=f"{{x: {numbers(1000)}, y: {numbers(1000)}, seed: {numbers(1000)}}}",
    ),
    Case(
        "10^6 seeds",
        large,
        "has 7.5 MiB, and a recipe or study has 1 MiB at most",
        argument=f"{{seed: {numbers(10**6)}}}",
    ),
    Case("12,000 seeds in one list", large, "holds more than 10,000 values", argument=f"{{seed: {numbers(12_000)}}}"),
    Case("a recipe edited between two runs", recipe_edited, "another label_smoothing than the recipe has now"),
    Case(
        "a key of a study edited",
        edited,
        "begun with another command .epochs=2 is",
        argument=lambda c: c["set"].update(epochs=2),
    ),
    Case(
        "a method of a study that means another now",
        edited,
        "begun with another command .mixup=cutmix is",
        argument=lambda c: c["axes"]["method"]["two"].update(mixup="cutmix"),
    ),
    Case(
        "an evaluation of a study edited",
        edited,
        r"fgsm was begun with another command .eps=\[2\] is",
        argument=lambda c: c["evaluate"][0]["set"].update(eps=[2]),
    ),
    Case(
        "a method taken out of a study",
        edited,
        "'two-seed0.train' and 1 more: .* the study has no such job",
        "said",
        lambda c: c["axes"]["method"].pop("two"),
    ),
    Case(
        "an evaluation taken out of a study",
        edited,
        "'one-seed0.fgsm' and 1 more: .* the study has no such job",
        "said",
        lambda c: c.update(evaluate=[]),
    ),
    Case(
        "a finished cell that a study excepts now",
        edited,
        "left out: two-seed0: too slow",
        "said",
        lambda c: c.update({"except": [{"method": "two", "why": "too slow"}]}),
    ),
    Case(
        "a method taken out of a study, in its report",
        taken_out,
        "In the folder, and no cell of this study: two-seed0",
        "said",
    ),
    Case(
        "keys of a study in another order",
        edited,
        "4 done",
        "said",
        lambda c: c.update(set=dict(reversed(c["set"].items()))),
    ),
    Case(
        "a linked training that is gone",
        elsewhere,
        "failed: one-seed0.train: .* links to .*gone, which is gone; remove the link",
        "said",
        "gone",
    ),
    Case("a link to a training that is gone, under --use", linked_anew, fate="mended"),
    Case(
        "a training's record cut short, its evaluation there",
        damaged,
        "record of that training, .*results.jsonl, is damaged; give it back",
        argument='{"task": "tr',
    ),
    Case(
        "a training's record emptied, its evaluation there",
        damaged,
        "record of that training, .*results.jsonl, is damaged; give it back",
        argument="",
    ),
    Case(
        "a line of a cell's results cut short",
        line_of,
        "train/results.jsonl, line 1 was skipped: not valid JSON",
        "said",
    ),
    Case("images that change in the middle of a study", in_the_middle, "one/fgsm is finished, but the images are not"),
    *(
        Case(f"plan.json {name}", planned, "plan.json is damaged, or a newer evalkit's; remove it", argument=change)
        for name, change in PLANS.items()
    ),
    Case(
        "--use of trainings that are others",
        used_in_vain,
        "nothing is used of .*none of its 2 finished trainings",
        "said",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
