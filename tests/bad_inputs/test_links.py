"""Run folders that were copied, renamed or tidied by hand, and locks that something else left."""

import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from .cases import Case
from .test_reliability import resumed, run_in, said

KIND = "Run folders copied or tidied by hand, links and locks"


def gone_on(folder, damage):
    """The run goes on; its links are links, and nothing of the user's is lost."""
    run = run_in(folder)
    users = damage(run)
    code, line = said(["train", "--resume", str(run), "keep=1"])
    assert code == 0, line
    assert (run / "last").is_symlink() and (run / "last").resolve().name == "step-000000004"
    assert (run / "best").is_symlink() and (run / "best").resolve().is_dir()
    assert all(path.exists() for path in users or []), "something was lost"
    return code, line


def as_copies(*names):
    def damage(run):
        for name in names:
            target = (run / name).resolve()
            if not target.is_dir():
                target = run / "checkpoints" / "step-000000002"
            (run / name).unlink(missing_ok=True)
            shutil.copytree(target, run / name)

    return damage


def alone(run):
    """The one copy of the newest checkpoint is that in the place of the link."""
    as_copies("last")(run)
    shutil.rmtree(run / "checkpoints" / "step-000000002")
    shutil.copytree(run / "checkpoints" / "step-000000001", run / "checkpoints" / "step-000000001.bak")


def of_another_run(folder):
    """What stands in the place of a link is another run's checkpoint of the same step: it stays where it is."""
    run = run_in(folder)
    as_copies("last")(run)
    meta = json.loads((run / "last" / "meta.json").read_text())
    (run / "last" / "meta.json").write_text(json.dumps(meta | {"label": "another run"}))
    code, line = said(["train", "--resume", str(run)])
    assert (run / "last" / "model.safetensors").is_file() and "another run" in (run / "last" / "meta.json").read_text()
    return code, line


def foreign(name):
    def damage(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
        (run / name / "notes.txt").write_text("mine")

    return damage


def points(name, target):
    def damage(run):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return damage


def kept(name):
    """A folder of the user's beside the checkpoints."""

    def damage(run):
        shutil.copytree(run / "checkpoints" / "step-000000001", run / "checkpoints" / name)
        return [run / "checkpoints" / name / "model.safetensors"]

    return damage


def left(run):
    for place in (run / ".last.99.tmp", run / "checkpoints" / ".step-000000003.99.tmp"):
        place.mkdir()
        (place / "model.safetensors").write_text("half")


def lock(content):
    def damage(run):
        (run / "run.lock").write_text(content)

    return damage


def lock_folder(run):
    (run / "run.lock").mkdir()


COPY = "was a copy of step-000000002 rather than a link; it is a link again"
NO_LINK = "where evalkit keeps a link.*move it away"
MENDED = {
    "best as a link to itself": points("best", "best"),
    "best as a link to another folder": points("best", "/etc"),
    "best as a link to a checkpoint that is gone": points("best", "checkpoints/step-000000099"),
    "last as a link to the folder above": points("last", ".."),
    "a checkpoint that the user keeps as step-000000001.bak": kept("step-000000001.bak"),
    "a checkpoint that the user keeps as step-best": kept("step-best"),
    "folders that a killed write left": left,
    "the lock of a process that is gone": lock(f"{platform.node()} 999999 train\n"),
}
REFUSED = {
    "last as a folder of something else": (foreign("last"), NO_LINK),
    "best as a folder of something else": (foreign("best"), NO_LINK),
    "the lock of another machine": (lock("other 77 train\n"), "in use by `evalkit train`, process 77 on other.*remove"),
    "a lock of escapes": (lock("\x1b[31mother 77 train\n"), r"\\x1b\[31mother"),
    "a lock of bytes that are none": (lock("\x00" * 5000), "in use by another process.*remove"),
    "a lock that is a folder": (lock_folder, "remove .*run.lock"),
    "a lock that is a link to nothing": (points("run.lock", "nowhere/x"), "remove .*run.lock"),
    "a lock that is a pipe": (lambda run: os.mkfifo(run / "run.lock"), "remove .*run.lock"),
    "results.jsonl that is a folder": (lambda run: (run / "results.jsonl").mkdir(), "results.jsonl"),
}
CASES = [
    Case("last as a copied folder", gone_on, COPY, "said", as_copies("last")),
    Case("last and best as copied folders", gone_on, COPY, "said", as_copies("last", "best")),
    Case("last as the one copy of its step", resumed, "it is a link again", "said", alone),
    Case("last as another run's checkpoint of the same step", of_another_run, NO_LINK),
    *(Case(name, resumed, says, argument=damage) for name, (damage, says) in REFUSED.items()),
    *(Case(name, gone_on, fate="mended", argument=damage) for name, damage in MENDED.items()),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_a_copy_on_another_path_goes_on(tmp_path):
    run = run_in(tmp_path)
    shutil.move(run, tmp_path / "moved")
    assert said(["train", "--resume", str(tmp_path / "moved")])[0] == 0
    assert Path(tmp_path / "moved" / "last").resolve().name == "step-000000004"
