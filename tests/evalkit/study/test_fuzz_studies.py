"""Whatever stands in a study's file, and in what lies in its folder: it works, or one line says what is wrong. An error
that nobody thought of, which the command line ends with EVALKIT_DEBUG=1, is a fault."""

import contextlib
import io
import json
import random
import warnings
from pathlib import Path

import pytest
import yaml

from evalkit import results
from evalkit.cli import invoke
from evalkit.study import engine, plan, spec
from tests.bad_inputs.make import run_folder
from tests.evalkit import fake_records
from tests.evalkit.test_fuzz import ODD, YAML, fuzzed, garbled

STUDY = {
    "title": "A study",
    "recipe": "digits",
    "set": {"epochs": 1, "mixup.alpha": 0.1},
    "axes": {
        "method": {"vanilla": {"mixup": "vanilla"}, "mixup": {"mixup": {"name": "mixup", "alpha": 0.8}}},
        "lr": [0.001, 0.002],
        "seed": [0, 1],
    },
    "where": [{"method": ["mixup"], "lr": 0.001, "set": {"mixup.alpha": 0.2, "recipe": "digits-photo"}}],
    "except": [{"method": "mixup", "lr": 0.002, "why": "nobody asked"}],
    "cells": "all",
    "evaluate": [{"robustness": "occlusion", "set": {"limit": 5}}, {"transfer": "seg", "name": "linear"}],
    "report": {"form": "last", "rows": ["method"], "columns": "lr", "baseline": "vanilla"},
    "published": {
        "source": "AutoMix paper, appendix",
        "table": "Table 11",
        "names": {"method": {"mixup": "Mixup + CutMix"}},
    },
}
FEW, MANY = range(5), range(100, 150)


def heard(*words: str) -> str | None:
    """Why a command is at fault; None if it is not."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code, line = invoke([*words])
        except Exception as e:
            return f"{words[:2]}: {type(e).__name__}: {e}"
    if "EVALKIT_DEBUG" in line or "\n" in line or (code == 1) == (line == ""):
        return f"{words[:2]}: {code}: {line}"
    return None


def damaged(text: str, rng: random.Random) -> bytes:
    """A text with odd parts of YAML or JSON in it, or garbled."""
    if rng.random() < 0.5:
        return garbled(text.encode(), rng)
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = lines[at].partition(":")[0] + ": " + rng.choice(YAML)
    return "\n".join(lines).encode()


def odd_study(rng: random.Random) -> bytes:
    """The file of a study with a few places that are others, by what it means or by its letters."""
    text = yaml.safe_dump(fuzzed(STUDY, rng, rng.randint(1, 3)), sort_keys=False, allow_unicode=True)
    return damaged(text, rng) if rng.random() < 0.3 else text.encode()


def meet_studies(folder: Path, seeds: range, *more: str) -> None:
    file = folder / "mine.yaml"
    faults = []
    for seed in seeds:
        file.write_bytes(odd_study(random.Random(seed)))
        faults += [
            f"{seed}: {why}"
            for words in (("show", str(file)), ("run", str(file), *more))
            if (why := heard("study", *words))
        ]
    assert not faults, "\n".join(faults)


@pytest.fixture
def unrun(monkeypatch):
    """Jobs are planned, compared with what lies there, and not run."""
    monkeypatch.setattr(engine, "run", lambda *_, **__: 0)


def test_a_few_odd_studies(tmp_path, unrun):
    meet_studies(tmp_path, FEW, "--dry-run", "--only", "seed=0")


@pytest.mark.slow
def test_odd_studies(tmp_path, unrun):
    meet_studies(tmp_path, MANY, "--dry-run")


# ---- what lies in a study's folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a study's file and its folder, in which each kind of file lies that a study reads."""
    root = tmp_path_factory.mktemp("made")
    content = {"recipe": "digits", "axes": {"method": {"vanilla": {}, "mixup": {"mixup": "mixup"}}, "seed": [0, 1]}}
    content |= {"evaluate": [{"robustness": "imagenet-a", "name": "natural"}]}
    content |= {"report": {"rows": "method", "baseline": "vanilla"}}
    (root / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    study, out = spec.load(root / "mine.yaml"), root / "out"
    plan.start(out, plan.make(study, study.cells), study)
    (out / "jobs").mkdir()
    for number, cell in enumerate(study.cells):
        own = {"label": cell.values["method"], "checkpoint_sha256": f"{number:064x}", "seed": int(cell.values["seed"])}
        run = run_folder(out / "cells" / cell.name / "train")
        results.append(run, fake_records.record(metrics={"top1": 0.7 + 0.01 * number}, **own))
        (run / "config.yaml").write_text("model: vit_nano_patch4_32\nepochs: 2\nmixup: {name: mixup, alpha: 0.5}\n")
        (run / "log.jsonl").write_text(
            "".join(
                json.dumps({"step": i, "loss": 2.0 / i, "images_per_second": 100.0, "val_top1": 0.5}) + "\n"
                for i in (1, 2)
            )
        )
        fake_records.write_mixed(run)
        at = run.parent / "natural"
        at.mkdir()
        results.append(at, fake_records.imagenet_a(at, **own))
    for job, facts in zip(
        plan.read(out).jobs, ({"state": "failed", "message": "x", "exit": 1, "idle": 0}, {"state": "running", "pid": 1})
    ):
        (out / "jobs" / f"{job.id}.json").write_text(json.dumps(facts))
    return root


def odd_file(path: Path, rng: random.Random) -> bytes:
    """A file's content with a few places that are others."""
    data = path.read_bytes()
    if rng.random() < 0.3 or path.suffix in (".npz", ".safetensors", ".pt"):
        return garbled(data, rng)
    if path.suffix == ".yaml":
        return damaged(data.decode(), rng)
    lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
    values = [json.loads(line) for line in lines]
    at = rng.randrange(len(values))
    values[at] = rng.choice(ODD) if rng.random() < 0.1 else fuzzed(values[at], rng, rng.randint(1, 3))
    return "\n".join(map(json.dumps, values)).encode()


COMMANDS = {
    "status": ("status", "OUT"),
    "report": ("report", "FILE", "--folder", "OUT"),
    "run": ("run", "FILE", "--out", "OUT"),
    "use": ("run", "FILE", "--out", "ELSEWHERE", "--use", "OUT"),
}


def meet_folders(made: Path, tmp_path: Path, commands: list[str], seeds: range, names: str) -> None:
    out, faults = made / "out", []
    places = {"OUT": str(out), "FILE": str(made / "mine.yaml")}
    kinds = sorted({path.name for path in out.rglob(names) if path.is_file() and "report" not in path.parts})
    for seed in seeds:
        rng = random.Random(seed)
        kind = rng.choice(kinds)
        path = rng.choice(sorted(p for p in out.rglob(kind) if p.is_file() and not p.parent.is_symlink()))
        whole, before = path.read_bytes(), (out / "plan.json").read_bytes()
        path.write_bytes(odd_file(path, rng))
        try:
            for name in commands:
                places["ELSEWHERE"] = str(tmp_path / f"{seed}")
                why = heard("study", *(places.get(word, word) for word in COMMANDS[name]))
                faults += [f"{seed} {path.relative_to(out)}: {why}"] if why else []
        finally:
            (out / "plan.json").write_bytes(before)
            path.write_bytes(whole)
    assert not faults, "\n".join(faults)


def test_a_few_odd_plans(made, tmp_path, unrun):
    meet_folders(made, tmp_path, ["status", "run"], FEW, "plan.json")


def test_a_few_odd_files_of_a_study(made, tmp_path, unrun):
    meet_folders(made, tmp_path, ["status", "run"], FEW, "*.*")


@pytest.mark.slow
def test_odd_files_of_a_study(made, tmp_path, unrun):
    meet_folders(made, tmp_path, ["status", "run", "use"], MANY[:20], "*.*")
    meet_folders(made, tmp_path, ["status", "run"], MANY[:40], "plan.json")
    meet_folders(made, tmp_path, ["report"], MANY[:4], "*.*")  # each draws figures
