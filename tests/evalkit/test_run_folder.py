"""Run folders: one process at a time, nothing left behind, links and leftovers."""

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from evalkit import checkpoint, cli, run_folder
from evalkit.errors import EvalkitError

from .test_streams import TRAIN

HOLD = """
import sys, time
from pathlib import Path
from evalkit import run_folder
with run_folder.claimed(Path(sys.argv[1]), "train", new=False):
    print("held", flush=True)
    time.sleep(3600)
"""


def hold(run: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_works_there_until_a_kill_frees_the_folder(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(EvalkitError) as e, run_folder.claimed(tmp_path, "train", new=True):
            pass
        assert str(e.value) == (
            f"{tmp_path} is in use by `evalkit train`, process {process.pid} on {platform.node()}; wait until that has"
            " ended, or stop it, then try again"
        )
    finally:
        process.kill()
        process.communicate()
    with run_folder.claimed(tmp_path, "transfer seg", new=False):  # the lock died with its holder
        assert (tmp_path / run_folder.LOCK).read_text() == f"{platform.node()} {os.getpid()} transfer seg\n"
    assert not list(tmp_path.iterdir())


def test_another_host_may_still_work_there(tmp_path):
    lock = tmp_path / run_folder.LOCK
    lock.write_text("node7 4242 train\n")
    with pytest.raises(EvalkitError) as e, run_folder.claimed(tmp_path, "train", new=False):
        pass
    assert str(e.value) == (
        f"{tmp_path} is in use by `evalkit train`, process 4242 on node7, or was when that machine stopped; if nothing"
        f" works in it there any more, remove {lock} and try again"
    )
    assert lock.read_text() == "node7 4242 train\n"
    lock.write_bytes(b"\xff\x00")
    with (
        pytest.raises(EvalkitError, match="in use by another process"),
        run_folder.claimed(tmp_path, "train", new=False),
    ):
        pass


def test_a_full_disk_leaves_no_lock_and_no_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with (
            pytest.raises(EvalkitError, match="cannot write .*run.lock: .*; free some space or choose another --out"),
            run_folder.claimed(tmp_path / "a" / "run", "train", new=True),
        ):
            raise AssertionError("not reached")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_that_a_library_meets_is_that_of_the_run(tmp_path, monkeypatch):
    """A file without a name: what a library's buffer could not write."""
    full, error = shutil._ntuple_diskusage(9, 9, 0), OSError(28, "No space left on device")
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError) as e, run_folder.claimed(tmp_path / "run", "train", new=True):
        raise error
    assert e.value.filename == str(tmp_path / "run") and not list(tmp_path.iterdir())
    monkeypatch.undo()  # there is space: it was another disk
    with pytest.raises(OSError) as e, run_folder.claimed(tmp_path / "run", "train", new=True):
        raise error
    assert e.value is error and e.value.filename is None


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_never_began_leaves_no_folder(tmp_path, there):
    run = tmp_path / "a" / "b"
    if there:
        run.mkdir(parents=True)
        (run / "mine.txt").write_text("mine")
    for error in (EvalkitError("no such data"), KeyboardInterrupt()):
        with pytest.raises(type(error)), run_folder.claimed(run, "train", new=True):
            (run / "config.yaml").write_text("x")
            (run / "tensorboard").mkdir()
            raise error
    assert sorted(p.name for p in tmp_path.rglob("*")) == (["a", "b", "mine.txt"] if there else [])


@pytest.mark.parametrize("saved", ["checkpoints/step-1/meta.json", "crash/step-1.npz", "results.jsonl", "log.jsonl"])
def test_what_a_run_saved_stays_after_an_error(tmp_path, saved):
    with pytest.raises(EvalkitError), run_folder.claimed(tmp_path / "run", "train", new=True):
        (tmp_path / "run" / saved).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / saved).write_text("x")
        raise EvalkitError("the disk is full")
    assert (tmp_path / "run" / saved).exists() and not (tmp_path / "run" / run_folder.LOCK).exists()


# ---- what a resume mends


def saved(run: Path, step: int, best: int) -> Path:
    meta = {"model": "x", "best": {"top1": 0.5, "step": best}}
    return checkpoint.save(run, step, {"w": torch.full((2,), float(step))}, None, {"step": step}, meta)


def test_a_kill_between_saving_and_linking_is_mended(tmp_path):
    first = saved(tmp_path, 1, 1)
    checkpoint.link(tmp_path, "best", first)
    second = saved(tmp_path, 2, 2)  # and here the process died: `best` still points at step 1
    with pytest.warns(UserWarning, match="best points at step-000000001, but the best checkpoint is step-000000002"):
        assert checkpoint.read_weights(tmp_path / "best")[0]["w"][0] == 2
    for name in (".last.77.tmp", ".best.77.tmp", ".log.jsonl.77.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints" / ".step-000000003.77.tmp").mkdir()
    checkpoint.link(tmp_path, "last", first)
    checkpoint.tidy(tmp_path, second, 2, keep=1)
    assert (tmp_path / "best").resolve() == (tmp_path / "last").resolve() == second
    assert sorted(p.name for p in tmp_path.rglob("*") if p.name.startswith((".", "step"))) == ["step-000000002"]


def test_a_best_checkpoint_that_is_gone_is_said(tmp_path):
    checkpoint.link(tmp_path, "best", saved(tmp_path, 5, 5))
    with pytest.warns(UserWarning, match="step-000000002, the best checkpoint so far, is gone"):
        checkpoint.tidy(tmp_path, saved(tmp_path, 3, 2), 2, keep=2)
    assert not (tmp_path / "best").is_symlink()


def test_equal_states_make_equal_files_whatever_was_shared(tmp_path):
    word, pair, t = "exp_avg", (0.9, 0.999), torch.arange(4.0)
    shared = {"a": [word, word, pair, pair, t, t[:2]], "b": {word: t}}
    apart = {
        "a": ["".join(["exp", "_avg"]), "exp" + "_avg"[:4], tuple([0.9, 0.999]), (0.9, 0.999), t.clone(), t[:2].clone()]
    }
    apart |= {"b": {json.loads('"exp_avg"'): t.clone()}}
    for name, state in (("one", shared), ("two", apart)):
        checkpoint.save(tmp_path / name, 1, {"w": t}, None, state, {})
    one, two = ((tmp_path / n / "last" / "train_state.pt").read_bytes() for n in ("one", "two"))
    assert one == two


# ---- nobody outlives a kill

WORKER = """
import os, sys, time
import numpy as np
from evalkit.data.workers import shield, checked
from torch.utils.data import DataLoader, Dataset

class Big(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, i): return {"pid": os.getpid(), "large": np.zeros(4_000_000)}  # pickled into a pipe

loader = DataLoader(Big(), batch_size=None, num_workers=2, worker_init_fn=shield, collate_fn=lambda x: x)
pids = set()
for item in checked(loader):
    pids.add(item["pid"])
    if len(pids) == 2:
        print(*pids, flush=True)
        time.sleep(3600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_data_workers_end_with_their_parent(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    process = subprocess.Popen([sys.executable, str(tmp_path / "worker.py")], stdout=subprocess.PIPE, text=True)
    pids = [int(p) for p in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # which they have too
    end = time.monotonic() + 120
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_a_disk_without_links_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    run_folder.check_links(tmp_path)
    assert not list(tmp_path.iterdir())

    def none(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", none)
    code, line = cli.invoke([*TRAIN, "--out", str(tmp_path / "run")])
    assert code == 1 and "cannot hold a symbolic link (Operation not permitted)" in line
    assert not (tmp_path / "run").exists()
