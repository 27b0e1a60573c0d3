"""Run folders that somebody else, a full disk or an earlier version left: one line says what to do, nothing is lost."""

import atexit
import functools
import io
import json
import shutil
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from evalkit import checkpoint, results
from evalkit.cli import invoke
from evalkit.runtime import sha256_file
from tests.evalkit import fake_records

from .cases import Case
from .make import splits, training

KIND = "Damaged run folders: checkpoints, training states, logs, records"


@functools.cache
def trained() -> Path:
    """A run of four steps with a checkpoint after each, from the second of which it goes on."""
    root = Path(tempfile.mkdtemp(prefix="evalkit-run-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    keys = ["epochs=2", "checkpoint_steps=1", "keep=9", "log_steps=1", "ema=0.9"]
    code, line = invoke(training(splits(root / "data"), *keys))
    assert code == 0, line
    for step in (3, 4):
        shutil.rmtree(root / "run" / "checkpoints" / f"step-{step:09}")
    (root / "run" / results.FILE).unlink()
    return root


def run_in(folder: Path) -> Path:
    shutil.copytree(trained() / "run", folder / "run", symlinks=True)
    return folder / "run"


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def said(words: list[str]) -> tuple[int, str]:
    """Exit code, and the error or else all that was printed."""
    out = io.StringIO()
    with redirect_stdout(out), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        code, line = invoke(words)
    return code, line or " ".join([out.getvalue(), *(str(w.message) for w in heard)])


def resumed(folder: Path, damage) -> tuple[int, str]:
    run = run_in(folder)
    damage(run)
    before = {p for p in run.rglob("*") if p.is_file()}
    code, line = said(["train", "--resume", str(run)])
    if code:
        assert all(p.is_file() for p in before), "something was lost"
    return code, line


def evaluated(folder: Path, damage) -> tuple[int, str]:
    run = run_in(folder)
    damage(run)
    words = ["eval", str(run), "--data", str(trained() / "data" / "val"), "device=cpu", "workers=0"]
    return said([*words, "--out", str(folder / "out")])


def measured_alone(folder: Path, change) -> tuple[int, str]:
    """What `evalkit eval` says of a run whose one checkpoint has another meta.json."""
    run = run_in(folder)
    shutil.rmtree(min((run / "checkpoints").glob("step-*")))
    meta(change)(run)
    words = ["eval", str(run), "--data", str(trained() / "data" / "val"), "device=cpu", "workers=0"]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        code, line = invoke([*words, "--out", str(folder / "out")])
    return code, "; ".join([*(str(w.message) for w in heard), line])


def reported(folder: Path, lines) -> tuple[int, str]:
    """A report of one good record and these lines, which are named and left out."""
    results.append(folder, fake_records.occlusion(label="good"))
    with (folder / results.FILE).open("ab") as f:
        f.write(lines if isinstance(lines, bytes) else json.dumps(lines).encode())
        f.write(b"\n")
    code, line = said(["report", str(folder), "--out", str(folder / "out")])
    assert code == 0 and "good" in (folder / "out" / "report.md").read_text()
    return code, line + (folder / "out" / "report.md").read_text()


def transferred(folder: Path, files) -> tuple[int, str]:
    """A transfer's folder with these files is gone on with."""
    run = folder / "transfer"
    run.mkdir()
    config = "data: digits-scenes\nsteps: 2\nbatch_size: 2\nopt: adamw\nlr: 0.001\nmin_lr: 0.0\nweight_decay: 0.0\n"
    config += "crop: 32\nstride: 16\n"
    for name, text in ({"config.yaml": config} | files).items():
        if text is not None:
            (run / name).write_text(text)
    return said(["transfer", "seg", "--resume", str(run)])


def cut(name):
    def damage(run):
        path = newest(run) / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def gone(name):
    return lambda run: (newest(run) / name).unlink()


def flipped(name):
    def damage(run):
        path = newest(run) / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)

    return damage


def meta(change):
    """meta.json of the newest checkpoint, changed; or other text in its place."""

    def damage(run):
        path = newest(run) / "meta.json"
        if isinstance(change, str):
            path.write_text(change)
        else:
            path.write_text(
                json.dumps({k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not ...})
            )

    return damage


def state(change):
    """The training state of the newest checkpoint, changed, with its sum in meta.json as if it had been written so."""

    def damage(run):
        folder = newest(run)
        whole = checkpoint.load_state(folder)
        torch.save(change(whole), folder / "train_state.pt")
        content = json.loads((folder / "meta.json").read_text())
        content["sha256"]["train_state.pt"] = sha256_file(folder / "train_state.pt")
        (folder / "meta.json").write_text(json.dumps(content))

    return damage


def put(**changes):
    return state(lambda whole: whole | changes)


def all_cut(run):
    for folder in (run / "checkpoints").glob("step-*"):
        (folder / "model.safetensors").write_bytes(b"")


def text(name, content):
    return lambda run: (run / name).write_bytes(content)


def series(**changes):
    """A record of occlusion with a point of its curve changed."""
    return fake_records.occlusion() | {"series": [{"mode": "random", "level": 0.5, "top1": 0.5} | changes]}


def other(field, **changes):
    record = fake_records.occlusion()
    return record | {field: record[field] | changes}


PASSED = (
    "passed over: .*step-000000002.* "
    "(is missing or damaged|is not a complete checkpoint|another version|holds no train_state)"
)
FILES = {
    "weights cut short": cut("model.safetensors"),
    "weights with a flipped byte": flipped("model.safetensors"),
    "no weights": gone("model.safetensors"),
    "averaged weights cut short": cut("model_ema.safetensors"),
    "a training state cut short": cut("train_state.pt"),
    "no training state": gone("train_state.pt"),
    "no meta.json": gone("meta.json"),
    "meta.json that is no JSON": meta("{"),
    "meta.json that is a list": meta("[1]"),
    "meta.json without sums": meta({"sha256": ...}),
    "meta.json of classes that are a number": meta({"classes": 3}),
    "meta.json of 100,000 brackets": meta("[" * 100_000),
    "meta.json whose sums lack the weights": meta({"sha256": {}}),
    "meta.json with the sum of a file elsewhere": meta({"sha256": {"model.safetensors": "", "../../config.yaml": ""}}),
    "meta.json with a file name of 5,000 letters": meta({"sha256": {"model.safetensors": "", "x" * 5000: ""}}),
    "meta.json of a later evalkit": meta({"schema": 99}),
}
# meta.json with a value that no evalkit wrote: evaluating it measures nothing
METAS = {
    "classes that are lists": ({"classes": [["a"], ["b"]]}, "passed over"),
    "a class that stands there twice": ({"classes": ["a", "a"]}, "passed over"),
    "a negative number of classes": ({"num_classes": -1}, "passed over"),
    "a label that is a number": ({"label": 5}, "passed over"),
    "a method that is a list": ({"method": [1]}, "passed over"),
    "an image size that the network does not take": ({"image_size": 33}, "33 pixels a side, which its network of 32"),
    "a model that would be fetched": ({"model": "hf-hub:timm/x"}, "unknown model 'hf-hub"),
}
STATE = "train_state|training state|does not fit this recipe"
STATES = {
    "a training state that is a list": (state(lambda whole: [1]), STATE),
    "a training state without a step": (state(lambda w: {k: v for k, v in w.items() if k != "step"}), "lacks 'step'"),
    "a step that is text": (put(step="two"), STATE),
    "a step beyond the run": (put(step=999), "its step 999 is none of the run's 4"),
    "a step below 0": (put(step=-1), "step|" + STATE),
    "a step that is a fraction": (put(step=1.5), STATE),
    "a step that is a truth value": (put(step=True), STATE),
    "a history of texts": (put(history=["x"]), STATE),
    "an optimizer that is a number": (put(optimizer=3), STATE),
    "an optimizer of no groups": (put(optimizer={"state": {}, "param_groups": []}), STATE),
    "scores that are text": (put(scores="x"), STATE),
    "a history that is text": (put(history="x"), STATE),
}
RUNS = {
    "config.yaml that is no YAML": (text("config.yaml", b"{"), "config.yaml"),
    "config.yaml with an unknown key": (text("config.yaml", b"epohcs: 3\n"), "epochs"),
    "config.yaml that is empty": (text("config.yaml", b""), "config.yaml"),
    "config.yaml that is a list": (text("config.yaml", b"[1]"), "config.yaml"),
    "config.yaml of another network": (text("config.yaml", b"base: digits\nmodel: 3\n"), "model|config.yaml"),
    "config.yaml of bytes": (text("config.yaml", b"\xff\xfe\x00"), "config.yaml"),
}
LINES = {
    "half a line": (b'{"schema": 2, "task"', r"results.jsonl.*(line|:) ?2"),
    "bytes that are no text": (b"\xff\xfe\x00\x80", "results.jsonl"),
    "100,000 brackets": (b"[" * 100_000, "results.jsonl"),
    "a list": ([1, 2], "results.jsonl"),
    "a number": (3, "results.jsonl"),
    "an empty mapping": ({}, "results.jsonl"),
    "a schema of the future": (fake_records.occlusion() | {"schema": 99}, "results.jsonl"),
    "metrics that are text": (fake_records.occlusion() | {"metrics": "x"}, "results.jsonl"),
    "an n of 400 digits": (fake_records.occlusion() | {"n": 10**400}, "results.jsonl"),
    "a point at a level that is text": (series(level="0.5"), "results.jsonl"),
    "a point without a level": (series(level=None), "results.jsonl"),
    "a point whose value is text": (series(top1="x"), "results.jsonl"),
    "a point whose spread is text": (series(sd="x"), "results.jsonl"),
    "a point of a curve that is a list": (series(mode=["a"]), "results.jsonl"),
    "images prepared in a list of ways": (other("data", prepared=[1]), "results.jsonl"),
    "100,000 brackets in a value": (b'{"schema": ' + b"[" * 100_000, "results.jsonl"),
}
SOURCE = {"source.json": "{}"}
TRANSFERS = {
    "no source.json": ({}, "source.json"),
    "an empty source.json": (SOURCE, "source.json"),
    "source.json that is no JSON": ({"source.json": "{"}, "source.json"),
    "source.json that is a list": ({"source.json": "[]"}, "source.json"),
    "no config.yaml": ({"config.yaml": None}, "config.yaml|not the folder"),
    "config.yaml of a detection": ({"config.yaml": "anchor_scale: 8\n"}, "unknown key 'anchor_scale'"),
}

CASES = [
    *(Case(f"{name}, train --resume", resumed, says=says, argument=how) for name, (how, says) in STATES.items()),
    *(Case(f"{name}, train --resume", resumed, says=says, argument=how) for name, (how, says) in RUNS.items()),
    *(Case(f"{name}, the newest of two, train --resume", resumed, PASSED, "said", how) for name, how in FILES.items()),
    *(
        Case(f"{name}, the newest of two, eval", evaluated, PASSED, "said", how)
        for name, how in FILES.items()
        if "state" not in name
    ),
    Case("no whole checkpoint, train --resume", resumed, "has no whole checkpoint yet; starting at", "said", all_cut),
    Case("no whole checkpoint, eval", evaluated, "checkpoint|model.safetensors", argument=all_cut),
    Case("meta.json without a model, eval", evaluated, "meta.json|model", argument=meta({"model": ...})),
    *(
        Case(f"meta.json with {name}, eval", measured_alone, says=says, argument=change)
        for name, (change, says) in METAS.items()
    ),
    *(Case(f"results.jsonl: {name}", reported, says, "said", lines) for name, (lines, says) in LINES.items()),
    *(
        Case(f"{name}, transfer --resume", transferred, says=says, argument=files)
        for name, (files, says) in TRANSFERS.items()
    ),
    Case(
        "log.jsonl of other bytes", resumed, "lines that are no log lines", "said", text("log.jsonl", b"\xff\n[\n{}\n")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
