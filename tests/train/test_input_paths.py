"""A run's bits with every kind of input: the same for any number of workers and after a kill."""

import sys
import time
from pathlib import Path

import pytest

from evalkit import results
from evalkit.cli import invoke
from evalkit.data import pack as packing
from evalkit.train import loop

from ..evalkit.test_packed import write
from .test_resume import digest, finish_in_fork, in_fork

RECIPE = ["train", "digits", "model_args={depth: 1}", "epochs=4", "batch_size=8", "micro_batch=4", "mixup=mixpro"]
RECIPE += [
    "mixup.scale=2",
    "augment=rrc",
    "auto_augment=rand-m9-mstd0.5-inc1",
    "erasing=0.5",
    "threads=1",
    "device=cpu",
]
RECIPE += ["checkpoint_steps=3", "keep=9", "log_steps=1"]
PATHS = {
    "files": ["data=folder", "decode=exact"],
    "fast": ["data=folder", "decode=fast"],
    "packed, device": ["data=packed", "decode=fast", "augment_device=device"],
    "exact, device": ["data=packed", "decode=exact", "augment_device=device"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    files = write(root / "files", per_class=8)
    list(packing.pack(files, root / "packed", packing.Encoding(50)))
    return root


def words(folders: Path, path: str) -> list[str]:
    where = folders / ("packed" if "data=packed" in PATHS[path] else "files")
    return [*RECIPE, *PATHS[path], f"data_dir={where}"]


SLOW = ("files", "exact, device")  # like the other two, less of what is new


@pytest.mark.parametrize("path", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in PATHS])
def test_workers_and_kills_change_no_bit(folders, tmp_path, path, monkeypatch):
    command = words(folders, path)
    code, message = invoke([*command, "workers=0", "--out", str(tmp_path / "whole")])
    assert code == 0, message
    save = loop.snapshot.save

    def save_then_die(s, run):
        folder = save(s, run)
        if s.step == 3:
            raise KeyboardInterrupt
        return folder

    monkeypatch.setattr(loop.snapshot, "save", save_then_die)
    assert invoke([*command, "workers=2", "--out", str(tmp_path / "run")])[0] == 130
    monkeypatch.undo()
    code, message = invoke(["train", "--resume", str(tmp_path / "run"), "workers=1"])
    assert code == 0, message
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    record = results.read([tmp_path / "run"])[0]
    assert record["config"]["decode"] in PATHS[path][1] and record["config"]["augment_device"] in ("cpu", "device")
    assert ("JPEG quality 90" in str(record["notes"])) == ("data=packed" in PATHS[path])


def embedded(folders: Path) -> list[str]:
    """Images of the size that is wanted, in memory."""
    changed = [w for w in RECIPE if not w.startswith(("augment=", "data"))]
    return [*changed, "augment=pad-crop-flip", "augment_device=device", "limit=48"]


CACHES = {
    "memory": lambda folders: words(folders, "fast"),
    "memory, exact": lambda folders: words(folders, "files"),
    "device": embedded,
}


@pytest.mark.parametrize("cache", [pytest.param(c, marks=[pytest.mark.slow] * ("memory" in c)) for c in CACHES])
def test_a_cache_changes_no_bit(folders, tmp_path, cache, monkeypatch, capsys):
    """Against files read anew in each epoch; killed, and continued with the cache and without."""
    command, kept = CACHES[cache](folders), f"cache={cache.partition(',')[0]}"
    code, message = invoke([*command, "workers=0", "--out", str(tmp_path / "whole")])
    assert code == 0, message
    save, last = loop.snapshot.save, [3]

    def save_then_die(s, run):
        folder = save(s, run)
        if s.step == last[0]:
            raise KeyboardInterrupt
        return folder

    monkeypatch.setattr(loop.snapshot, "save", save_then_die)
    assert invoke([*command, kept, "workers=2", "--out", str(tmp_path / "run")])[0] == 130
    last[0] = 6
    assert invoke(["train", "--resume", str(tmp_path / "run"), "workers=0"])[0] == 130
    monkeypatch.undo()
    code, message = invoke(["train", "--resume", str(tmp_path / "run"), "workers=1", "cache=none"])
    assert code == 0, message
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    assert capsys.readouterr().out.count(f"{kept}: ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("path, kept", [("fast", []), ("packed, device", ["cache=memory"])])
def test_processes_and_kills_change_no_bit(folders, tmp_path, path, kept):
    """Two processes, whose launcher is killed once a checkpoint is there, then one alone; against one alone from the
    start."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    evalkit, command = [sys.executable, "-m", "evalkit"], words(folders, path)
    finish_in_fork(tmp_path, [*evalkit, *command, "workers=0", "--out", str(whole)])
    several = [*evalkit, *command, *kept, "workers=1", "--gpus", "2", "--out", str(run)]
    running = in_fork(tmp_path, several, most=6)
    assert running.until(3, "step "), running.text()
    while not (run / "checkpoints" / "step-000000003").exists():
        assert running.process.exitcode is None, running.text()
        time.sleep(0.02)
    assert running.kill(alone=True), running.text()
    finish_in_fork(tmp_path, [*evalkit, "train", "--resume", str(run), "workers=1"])
    assert digest(run) == digest(whole)
