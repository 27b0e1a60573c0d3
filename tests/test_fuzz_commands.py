"""Whatever is typed behind a command: it works, or one line says what is wrong. An error that nobody thought of, which
the command line ends with EVALKIT_DEBUG=1, is a fault."""

import contextlib
import io
import json
import random
import warnings
from pathlib import Path

import pytest

from evalkit import results
from evalkit.cli import invoke
from tests.bad_inputs.make import ARGS, NAME, folders, run_folder, splits
from tests.evalkit import fake_records
from tests.evalkit.test_fuzz import ODD, YAML

TRAIN = [
    *("train", "digits", f"model={NAME}", "limit=40", "epochs=1", "batch_size=20", "micro_batch=20", "workers=0"),
    *("device=cpu", "threads=1", f"model_args={json.dumps(ARGS)}", "eval_epochs=1"),
]
TRANSFER = ["batch_size=2", "threads=1", "device=cpu", "workers=0", "log_steps=1"]
# command -> words of which one or two are replaced, dropped or repeated; RUN, DATA and so on are put in
COMMANDS: dict[str, list[str]] = {
    "train": [*TRAIN, "mixup={name: mixup, alpha: 0.5}", "opt=adamw", "lr=0.001", "augment=rrc", "--out", "OUT"],
    "train resume": ["train", "--resume", "RUN"],
    "eval": ["eval", "RUN", "--data", "DATA", "batch_size=2", "weights=raw", "device=cpu", "workers=0", "--out", "OUT"],
    "occlusion": [
        *("robustness", "occlusion", "RUN", "data=DATA", "modes=[random]", "levels=[0, 0.5]", "grid=8", "repeats=1"),
        *("workers=0", "device=cpu", "--out", "OUT"),
    ],
    "fgsm": [
        *(
            "robustness",
            "fgsm",
            "RUN",
            "--data",
            "DATA",
            "eps=[1]",
            "limit=2",
            "workers=0",
            "device=cpu",
            "--out",
            "OUT",
        ),
    ],
    "imagenet-a": ["robustness", "imagenet-a", "RUN", "--data", "DATA", "on_error=skip", "device=cpu", "--out", "OUT"],
    "imagenet-c": ["robustness", "imagenet-c", "RUN", "--data", "DATA", "severities=[1]", "device=cpu", "--out", "OUT"],
    "robustness all": ["robustness", "all", "RUN", "--data-root", "DATA", "device=cpu", "limit=1", "--out", "OUT"],
    "transfer seg": ["transfer", "seg", "RUN", "steps=1", *TRANSFER, "crop=32", "head=linear", "--out", "OUT"],
    "transfer det": ["transfer", "det", "RUN", "epochs=1", *TRANSFER, "channels=64", "--out", "OUT"],
    "report": ["report", "RESULTS", "--out", "OUT"],
    "compare": ["compare", "RESULTS", "OTHER", "--protocol", "occlusion", "--out", "OUT"],
    "mixup list": ["mixup", "list", "mixpro"],
    "mixup preview": [
        *("mixup", "preview", "IMAGE", "--methods", "cutmix,mixpro", "--lambdas", "0.1,0.5", "--out", "OUT.png"),
    ],
    "mixup bench": ["mixup", "bench", "--methods", "mixup", "--batch", "2", "--size", "32", "--repeats", "1"],
    "recipes show": ["recipes", "show", "digits", "lr=0.1", "seed=3"],
    "recipes diff": ["recipes", "diff", "digits", "RECIPE"],
    "recipes keys": ["recipes", "keys", "lr"],
    "recipes list": ["recipes", "list"],
    "study show": ["study", "show", "STUDY", "--only", "method=vanilla"],
    "study run": ["study", "run", "STUDY", "lr=0.1", "--out", "OUT", "--only", "seed=0", "--jobs", "1", "--dry-run"],
    "study status": ["study", "status", "OUT"],
    "study report": ["study", "report", "STUDY", "--folder", "OUT"],
    "pack": ["pack", "DATA", "OUT", "--short-side", "16", "--quality", "80", "--workers", "1"],
    "export": ["export", "RUN", "OUT", "--to", "timm", "weights=raw", "model_args={depth: 1}"],
    "bench input": ["bench", "input", "digits", "workers=0", "device=cpu", "--batch", "2", "--repeats", "1"],
    "bench step": ["bench", "step", "digits", "device=cpu", "batch_size=4", "micro_batch=4", "--repeats", "1"],
}
WORDS = [
    "--help",
    "--out",
    "--data",
    "-x",
    "=",
    "a=",
    "=b",
    "a=b",
    "--gpus",
    "0",
    "--resume",
    "",
    ".",
    "/",
    "~",
    "--",
    "🙂",
]


def mutated(words: list[str], rng: random.Random) -> list[str]:
    """The words with one or two of them, behind the command's name, changed."""
    out = list(words)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(1, len(out)) if len(out) > 1 else 0
        odd = rng.choice([*ODD, *YAML, *WORDS])
        text = odd if isinstance(odd, str) else json.dumps(odd)
        text = text.replace("\x00", "")  # no command line can hold it
        key, equals, _ = out[at].partition("=")
        how = rng.random()
        if how < 0.15 and len(out) > 2:
            del out[at]
        elif how < 0.3:
            out.insert(at + 1, text)
        else:
            out[at] = f"{key}={text}" if equals else text
    return out


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Word -> the path that it stands for; OUT is made anew for each command."""
    root: Path = tmp_path_factory.mktemp("fuzz")
    run_folder(root / "run")
    folders(root / "data")
    splits(root / "splits")
    results.append(root / "a", fake_records.occlusion(label="a"))
    results.append(root / "b", fake_records.occlusion(label="b"))
    (root / "mine.yaml").write_text("base: digits\nlr: 0.1\n")
    (root / "study.yaml").write_text(
        "title: t\nrecipe: digits\naxes:\n  method: {vanilla: {mixup: vanilla}, mixup: {mixup: mixup}}\n"
        "  seed: [0, 1]\n"
    )
    return {
        **{"RUN": str(root / "run"), "DATA": str(root / "data"), "RESULTS": str(root / "a"), "OTHER": str(root / "b")},
        **{"RECIPE": str(root / "mine.yaml"), "STUDY": str(root / "study.yaml"), "OUT": str(root / "out")},
        "IMAGE": str(root / "data" / "a" / "0.png"),
    }


def meet(words: list[str], places: dict[str, str], folder: Path, monkeypatch) -> str | None:
    """Why a command line is at fault; None if it is not."""
    put = [word for word in words]
    for name, path in places.items():
        put = [word.replace(name, path if name != "OUT" else str(folder / "out")) for word in put]
    monkeypatch.chdir(folder)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            code, line = invoke(put)
        except SystemExit as e:
            return f"SystemExit {e.code}"
    if "EVALKIT_DEBUG" in line or code not in (0, 1, 2) or "\n" in line or (code == 1) == (line == ""):
        return f"{code}: {line}"
    return None


def fuzz(command: str, places: dict[str, str], folder: Path, monkeypatch, seeds: range) -> None:
    faults = []
    for seed in seeds:
        rng = random.Random(f"{command} {seed}")
        (inside := folder / str(seed)).mkdir()
        words = mutated(COMMANDS[command], rng)
        if why := meet(words, places, inside, monkeypatch):
            faults.append(f"{seed} {words}: {why}")
    assert not faults, "\n".join(faults)


QUICK = [name for name in COMMANDS if name.split()[0] in ("report", "compare", "recipes", "study", "eval", "pack")]


@pytest.mark.parametrize("command", QUICK)
def test_a_few_odd_words(command, places, tmp_path, monkeypatch):
    fuzz(command, places, tmp_path, monkeypatch, range(3))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_words(command, places, tmp_path, monkeypatch):
    fuzz(command, places, tmp_path, monkeypatch, range(100, 112))
