"""Studies and comparisons: files that mean something else than what stands there, names that a page would obey, and
results of other images than those of now."""

import contextlib
import csv
import io
import json
import re

import pytest
import yaml

from evalkit import results
from evalkit.arrays import read_npz
from evalkit.cli import identities, invoke
from evalkit.cli.described import outcomes, protocols
from evalkit.robustness import store
from evalkit.study import plan, report, reuse, spec
from tests.evalkit import fake_records
from tests.evalkit.study.made import made_study

from .cases import Case
from .make import folders, put, splits, training

KIND = "Studies and comparisons: their files, their names, and results of other images"


def heard(command):
    """(1, the error), or what was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code, line = invoke(command)
    return (code, line) if code else said.getvalue()


# ---- results of other images


def finished(folder, seeds=(0,), evaluations=()):
    """A study whose trainings and evaluations were made: (its file, its folder, its plan)."""
    keys = dict(word.split("=", 1) for word in training(splits(folder / "data"))[2:-2])
    keys = {key: yaml.safe_load(value) for key, value in keys.items()}
    content = {"recipe": "digits", "set": keys, "axes": {"seed": list(seeds)}, "evaluate": list(evaluations)}
    return made_study(folder, {key: value for key, value in content.items() if value})


def run_again(folder, split):
    """Cells that are finished stand beside those that are trained on what lies there now."""
    file, out, _ = finished(folder)
    put(folder / "data" / split / "b" / "2.png", 999)
    return invoke(["study", "run", str(file), "--out", str(out)])


def attacked(folder):
    """A study with an evaluation of images that no training saw: (its file, its folder, its plan, an image)."""
    folders(folder / "held-out", seed=8000)
    keys = {"data": str(folder / "held-out"), "eps": [1], "workers": 0, "device": "cpu"}
    found = finished(folder, evaluations=[{"robustness": "fgsm", "set": keys}])
    return *found, folder / "held-out" / "a" / "1.png"


def evaluated_again(folder):
    file, out, _, image = attacked(folder)
    put(image, 999)
    return invoke(["study", "run", str(file), "--out", str(out)])


def evaluated_before(folder):
    """Another study takes the training and not what was measured of other images."""
    file, out, made, image = attacked(folder)
    put(image, 999)
    second = folder / "second"
    plan.start(second, made, spec.load(file))
    said = reuse.take(second, made, [out], identities.of_jobs(second))
    assert [(second / job.out).exists() for job in made.jobs] == [True, False]
    return "; ".join(said)


def evaluated_images_gone(folder):
    _, out, made, image = attacked(folder)
    image.parents[1].rename(folder / "away")
    return "; ".join(reuse.changed(out, made, identities.of_jobs(out)))


def other_weights(folder):
    """A training that was made again in its place, and evaluations of the one before."""
    file, out, made, _ = attacked(folder)
    run = out / made.jobs[0].out
    for meta in run.glob("checkpoints/*/meta.json"):
        content = json.loads(meta.read_text())
        content["sha256"]["model.safetensors"] = "0" * 64
        meta.write_text(json.dumps(content))
    return invoke(["study", "run", str(file), "--out", str(out)])


def without_images(folder):
    _, out, made = finished(folder)

    def gone(job):
        raise reuse.EvalkitError("cannot read the data folder")

    return "; ".join(reuse.changed(out, made, gone))


def of_old(folder):
    _, out, made = finished(folder)
    for meta in (out / made.jobs[0].out).glob("checkpoints/*/meta.json"):
        content = json.loads(meta.read_text())
        content["data"] |= {"fingerprint": "0" * 64, "val_fingerprint": "0" * 64}
        meta.write_text(json.dumps(content))
    path = out / made.jobs[0].out / results.FILE
    path.write_text(re.sub(r"content-full:\w+", "0" * 64, path.read_text()))
    full = f"content-full:{'1' * 64}"
    return "; ".join(reuse.changed(out, made, lambda job: reuse.Identity({}, {"train": full, "val": full}, 1)))


def made_up(folder, changes, **more):
    """A study of two methods and three seeds with made-up records, those of `changes` (cell -> fields) changed."""
    file, out = folder / "mine.yaml", folder / "out"
    content = {"recipe": "digits", "axes": {"method": {"one": {}, "two": {}}, "seed": [0, 1, 2]}} | more
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    study = spec.load(file)
    plan.start(out, plan.make(study, study.cells), study)
    for k, cell in enumerate(study.cells):
        own = {"label": cell.values["method"], "checkpoint_sha256": f"{k:064x}", "seed": int(cell.values["seed"])}
        own |= {"metrics": {"top1": 0.7 + 0.001 * k}} | changes.get(cell.name, {})
        results.append(out / "cells" / cell.name / "train", fake_records.record(**own))
    return study, out


def reported(folder, fields):
    """One cell measured something else than the others."""
    study, out = made_up(folder, {"one-seed0": fields})
    report.build(study, out, folder / "report", protocols(), outcomes())
    return (folder / "report" / "report.md").read_text()


def compared(folder, prints):
    """Two models with records of images of these fingerprints, of which they share some."""
    for side, numbers in zip("ab", prints):
        for number in numbers:
            name, at = f"{side}{number}.npz", folder / side
            at.mkdir(exist_ok=True)
            data = {"name": "data", "fingerprint": f"content-full:{number * 64}", "split": ""}
            own = {"label": side, "checkpoint_sha256": side * 64, "data": data}
            record = fake_records.imagenet_a(at, name, seed=ord(side), **own)
            store.write(at / name, read_npz(at / name), {})
            results.append(at, record)
    return heard(["compare", str(folder / "a"), str(folder / "b")])


def over_seeds(folder, fields):
    _, out = made_up(folder, {"one-seed0": fields})
    return heard(["compare", f"{out}:method=one", f"{out}:method=two"])


OTHER = {
    "images": {"data": {"name": "digits-photo", "fingerprint": "e" * 64, "split": "val"}},
    "data": {"data": {"name": "digits", "fingerprint": "e" * 64, "split": "val"}},
    "protocol version": {"version": 9},
}

# ---- files

SURPRISES = (
    "title: yes", "title: 1:30", "title: 2.50", "title: 2026-01-01", "title: [a]", "set: {epochs: 1:30}",
    "set: {epochs: 012}", "set: {epochs: 0o17}", "set: {epochs: 1_000}", "set: {lr: 0.1, lr: 0.2}",
    "set: {label: 2026-01-01}", "set: {label: ${oc.env:HOME}}", "set: {label: &a x, model: *a}",
    "set: {label: !!binary aGk=}", "axes: {seed: [007]}", "axes: {seed: [1:30]}", "axes: {method: {yes: {}, no: {}}}",
    "axes: {on: [1]}", "axes: {seed: [0, 0]}", "axes: {method: {a: {}, a: {}}}", "axes: {seed: [2001-01-01]}",
    "evaluate: [{robustness: occlusion, name: on}]", "evaluate: [{robustness: occlusion, set: {limit: 1_0}}]",
    "except: [{seed: 0, why: no}]", "where: [{seed: 0, set: {lr: 1_0.5}}]", "cells: no", "report: {form: no}",
    "report: {baseline: yes, rows: seed}", "<<: {title: a}", "recipe: yes", "recipe: 1_000", "evaluate: yes",
    "report: yes", "set: yes", "published: yes", "set: {label: ???}", "axes: {label: ['${x}']}",
    "evaluate: [{robustness: 1:30}]", "evaluate: [{robustness: yes}]", "report: {rows: yes}", "report: {columns: 1}",
)  # fmt: skip


def read(folder, text):
    """Whatever `study run` would do: the file, then the plan."""
    key = text.partition(":")[0]
    base = {"recipe": "recipe: digits", "axes": "axes: {seed: [0]}"}
    lines = [line for name, line in base.items() if name != key]
    (folder / "mine.yaml").write_text("\n".join([*lines, text]) + "\n")
    return invoke(["study", "run", str(folder / "mine.yaml"), "--out", str(folder / "out"), "--dry-run"])


# ---- names

ESCAPES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
NAMES = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "a|b", "=1+1", "@SUM(A1)",
    r"\input{/etc/passwd}", "50%", "a_b^c", "#1{", r"$\frac$", "$x$", "\x1b[31mred", "\u202egnp",
    "../../x", "a\nb", '"; x',
)  # fmt: skip


def named(folder, name):
    """A study whose title, axis and value have such a name."""
    content = {"title": name, "axes": {name: {name: {}, "two": {}}, "seed": [0, 1, 2]}}
    file, out = folder / "mine.yaml", folder / "out"
    file.write_text(yaml.safe_dump({"recipe": "digits", **content}, sort_keys=False))
    study = spec.load(file)
    plan.start(out, plan.make(study, study.cells), study)
    for k, cell in enumerate(study.cells):
        own = {"label": cell.values[name], "checkpoint_sha256": f"{k:064x}", "seed": int(cell.values["seed"])}
        at = out / "cells" / cell.name / "train"
        assert at.resolve().is_relative_to((out / "cells").resolve())
        results.append(at, fake_records.record(**own, metrics={"top1": 0.7 + 0.001 * k}))
    commands = (["study", "report", str(file), "--folder", str(out)], ["study", "status", str(out)])
    for command in (*commands, ["study", "show", str(file)]):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code, line = invoke(command)
        assert code in (0, 2), line
        assert said.getvalue() and not ESCAPES.search(said.getvalue().replace("\n", ""))
    made = {path.name: path.read_text() for path in (out / "report").iterdir() if path.is_file()}
    assert {"report.html", "report.md", "report.tex", "results.csv"} <= set(made)
    drawn = [path.read_text() for path in (out / "report" / "figures").glob("*.svg")]
    assert drawn
    for text in (*made.values(), *drawn):
        assert not ESCAPES.search(text.replace("\n", "").replace("\t", ""))
    assert "<script>alert" not in made["report.html"] and "<img src=x" not in made["report.html"]
    assert "<script>" not in made["report.md"] and "<img src=x" not in made["report.md"]
    assert not re.search(r"(?<!\\)\]\(javascript", made["report.md"])
    for start in re.findall(r"^\|.*$", made["report.md"], re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", start)) > 2
    assert r"\input" not in made["report.tex"] and made["report.tex"].count("\\begin") == made["report.tex"].count(
        "\\end"
    )
    assert not re.search(r"(?<!\\)[#^](?!\w*$)", "".join(made["report.tex"].split("%\n")))
    for table in ("results.csv", "differences.csv"):
        for row in csv.reader(io.StringIO(made.get(table, ""))):
            for value in row:
                number = re.fullmatch(r"[-+]?[0-9.e+-]+", value)
                assert number or not value.lstrip().startswith(("=", "+", "@", "-", "%", "|")), value


REFUSED = (
    "may mean several|not for recipes|twice|duplicate|must|stands for|constructor|no meaning|no key|YAML|[Uu]nknown|is"
    " no|needs|which recipe|cannot"
)

CASES = [
    *(
        Case(
            f"{split} images changed after a cell was finished",
            run_again,
            says=f"is finished, but the {what} images are not those",
            argument=split,
        )
        for split, what in (("train", "training"), ("val", "validation"))
    ),
    Case(
        "images changed after an evaluation was finished", evaluated_again, "fgsm is finished, but the images are not"
    ),
    Case(
        "weights changed after an evaluation was finished", other_weights, "fgsm is finished, but the weights are not"
    ),
    Case(
        "--use of an evaluation whose images changed",
        evaluated_before,
        "not used: its images are others than now",
        "said",
    ),
    Case("a finished evaluation whose images are gone", evaluated_images_gone, "is not known: no such folder", "said"),
    Case("a finished cell whose images are gone", without_images, "images are those of now is not known", "said"),
    Case("a finished cell of an earlier evalkit", of_old, "another kind of fingerprint", "said"),
    *(
        Case(
            f"a cell of other {what} than the rest, in a report",
            reported,
            f"not in the tables: train: other {what} than most: one-seed0",
            "said",
            fields,
        )
        for what, fields in OTHER.items()
    ),
    *(
        Case(
            f"a seed of other {what}, under compare",
            over_seeds,
            "not compared: accuracy .* seed 0: the other",
            "said",
            f,
        )
        for what, f in OTHER.items()
    ),
    Case(
        "newer images of A alone, under compare", compared, "not compared: imagenet-a .*22222222", "said", ("12", "1")
    ),
    Case(
        "newer images of B alone, under compare", compared, "not compared: imagenet-a .*22222222", "said", ("1", "12")
    ),
    Case("two states of the images, under compare", compared, r"imagenet-a on data \(22222222\)", "said", ("12", "12")),
    Case("no images in common, under compare", compared, "the data differ", argument=("1", "2")),
    *(Case(f"in a study file: {text}", read, says=REFUSED, argument=text) for text in SURPRISES),
    *(Case(f"title, axis and value called {name!r}", named, fate="mended", argument=name) for name in NAMES),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
