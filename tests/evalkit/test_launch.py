"""Several processes from one command: words, errors, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from evalkit import cli, launch
from evalkit.errors import GONE
from evalkit.runtime import leave_processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "argv, left",
    [
        (["train", "x", "--gpus", "2", "a=1"], ["train", "x", "a=1"]),
        (["train", "x", "--gpus=2"], ["train", "x"]),
        (["train", "--gpus", "2", "--nodes", "3", "--rendezvous=a:1"], ["train"]),
        (["train", "x", "gpus=2", "--out", "--gpus2"], ["train", "x", "gpus=2", "--out", "--gpus2"]),
    ],
)
def test_without_options(argv, left):
    assert launch.without_options(argv, "--gpus", "--nodes", "--rendezvous") == left


@pytest.mark.parametrize("code, status", [(0, 0), (1, 1), (2, 0), (130, 0)])
def test_only_an_error_is_a_failure_to_torchrun(monkeypatch, tmp_path, code, status):
    monkeypatch.setenv(launch.FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    assert launch.leave(code, "message") == status
    assert json.loads((tmp_path / "3").read_text()) == {"rank": 3, "code": code, "message": "message"}


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("code, member", [(0, False), (2, False), (1, True)])
def test_who_is_done_leaves_the_process_group(monkeypatch, tmp_path, code, member, ours):
    """Threads of a group that outlived the interpreter aborted a process now and then, and torchrun killed the one that
    was still writing results; in a launch of ours and in a user's own torchrun."""
    monkeypatch.setattr(sys, "argv", ["evalkit"])
    monkeypatch.setattr(cli, "invoke", lambda argv: (code, ""))
    monkeypatch.setattr(launch, "watch_parent", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    if ours:
        monkeypatch.setenv(launch.FOLDER, str(tmp_path))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(SystemExit):
            cli.main()
        assert dist.is_initialized() is member
    finally:
        leave_processes()


# A stand-in for the package's command in a folder of its own: each process does what its rank is told to, at once, or
# when the other has written how it ended, or is dead. Nobody is gone before both have started, nor one with an error
# before the other has written its own: however long a busy machine takes, torchrun never ends one too early.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
from real import launch
rank, todo = int(os.environ["RANK"]), json.loads(sys.argv[1])
assert os.environ["WORLD_SIZE"] == "2"
(code, message, when), other = todo[rank], todo[1 - rank]
written = Path(os.environ[launch.FOLDER], str(1 - rank))

def wait(for_it):
    while not for_it():
        time.sleep(0.01)

def dead():
    stat = Path("/proc", Path(f"started-{1 - rank}").read_text(), "stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"

if code == "hang" or when == "dead":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if code == "stop":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(launch.leave(2, "")))
Path(f"starting-{rank}").write_text(str(os.getpid()))
Path(f"starting-{rank}").rename(f"started-{rank}")
wait(Path(f"started-{1 - rank}").exists)
if when == "written":
    wait(lambda: written.exists() and written.stat().st_size)
    time.sleep(0.1)  # more than a tick of the clock that dates files
elif when == "dead":
    wait(dead)
elif when == "ended":
    time.sleep(3600)
if code in ("kill", "abort"):
    os.kill(os.getpid(), {"kill": 9, "abort": 6}[code])
status = launch.leave(code, message)
if code == other[0] == 1:
    wait(written.exists)
sys.exit(status)
"""
# torchrun waits for half a minute before it kills what hangs; here it does not.
PARENT = """
import inspect, os, sys
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from real import launch
launch.COMMAND = ["fake.py"]
from real.errors import EvalkitError
def close(*args, close=SubprocessContext._close, **named):
    given = inspect.signature(close).bind(*args, **named)
    given.apply_defaults()
    first = launch.AFTER_FAILURE != 1  # the others are of its own end
    assert not first or given.arguments["timeout"] == launch.AFTER_FAILURE
    launch.AFTER_FAILURE = given.arguments["timeout"] = 1
    close(*given.args, **given.kwargs)
if '"hang"' in sys.argv[1]:
    SubprocessContext._close = close
try:
    print("code", launch.spawn(2, sys.argv[1:]))
except EvalkitError as e:
    print("error", e)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "todo, printed",
    [
        ([(0, "", None), (0, "", None)], "code 0"),
        ([(2, "", "written"), (2, "", None)], "code 2"),
        ([(0, "", "ended"), (1, "no such folder", None)], "error no such folder"),
        ([(1, "connection lost", "written"), (1, "the cause", None)], "error the cause"),
        ([(0, "", "ended"), ("kill", "", None)], "error process 1 of 2 ended with SIGKILL without an error of its own"),
        ([(1, f"{GONE}, and so on", None), (1, "the cause", "written")], "error the cause"),
        ([("hang", "", "ended"), (1, "the cause", None)], "error the cause"),  # torchrun kills it
        ([(0, "", "ended"), ("abort", "", None)], "error process 1 of 2 was aborted by a library"),
        (
            [(1, "connection closed by peer", "dead"), ("kill", "", None)],
            "error process 1 of 2 ended with SIGKILL without an error of its own",
        ),
    ],
)
def test_spawn(tmp_path, todo, printed):
    done = subprocess.run(
        _command(tmp_path, todo), cwd=tmp_path, capture_output=True, text=True, env=_env(), timeout=600
    )
    assert done.stdout.startswith(printed), done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def _command(folder, todo):
    """`spawn` of two processes that do what `todo` says, to be run in `folder`."""
    (folder / "real").symlink_to(ROOT / "evalkit")
    (folder / "fake.py").write_text(FAKE)
    return [sys.executable, "-c", PARENT, json.dumps(todo)]


def _env():
    return {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_warning_lets_all_processes_save(tmp_path, number):
    """torchrun itself dies of a SIGUSR1, which Slurm sends before a job's time limit."""
    words = _command(tmp_path, [("stop", "", "ended"), ("stop", "", "ended")])
    parent = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=_env())
    while len(list(tmp_path.glob("started-*"))) < 2:
        assert parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(number)
    assert parent.communicate(timeout=600)[0] == "code 2\n"


@pytest.mark.slow
def test_files_of_the_working_directory_are_not_taken_for_packages(tmp_path):
    """Several processes in a folder that holds a torch.py, a numpy.py and a json.py of the user's own."""
    for name in ("torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the user')")
    words = ["robustness", "occlusion", "nothing", "--data", "digits", "--gpus", "2", "device=cpu", "--out", "out"]
    env = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "evalkit", *words], cwd=tmp_path, capture_output=True, text=True, env=env
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: unknown model or checkpoint 'nothing'")
