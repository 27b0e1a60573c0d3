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


# A stand-in for the package's command in a folder of its own: each process says or does what its rank is told to, in
# the order of the waits, however long a busy machine takes to start them or torchrun to end one when the other is gone.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
from real import launch
rank, todo = int(os.environ["RANK"]), json.loads(sys.argv[1])
assert os.environ["WORLD_SIZE"] == "2"
code, message, wait = todo[rank]
Path(f"started-{rank}").touch()
while not Path(f"started-{1 - rank}").exists():
    time.sleep(0.01)
if code == "stop":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(launch.leave(2, "")))
    open(f"ready-{rank}", "w").close()
if code == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(wait)
if code in ("kill", "abort"):
    os.kill(os.getpid(), {"kill": 9, "abort": 6}[code])
status = launch.leave(code, message)
if code == todo[1 - rank][0] == 1:
    while not Path(os.environ[launch.FOLDER], str(1 - rank)).exists():
        time.sleep(0.01)
sys.exit(status)
"""
PARENT = """
import sys
from real import launch
launch.COMMAND = ["fake.py"]
from real.errors import EvalkitError
try:
    print("code", launch.spawn(2, sys.argv[1:]))
except EvalkitError as e:
    print("error", e)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "todo, printed",
    [
        ([(0, "", 0), (0, "", 0)], "code 0"),
        ([(2, "", 1), (2, "", 0)], "code 2"),
        ([(0, "", 20), (1, "no such folder", 0)], "error no such folder"),
        ([(1, "connection lost", 0.5), (1, "the cause", 0)], "error the cause"),
        ([(0, "", 20), ("kill", "", 0)], "error process 1 of 2 ended with SIGKILL without an error of its own"),
        ([(1, f"{GONE}, and so on", 0), (1, "the cause", 0.5)], "error the cause"),
        ([("hang", "", 90), (1, "the cause", 0)], "error the cause"),  # torchrun kills it after half a minute
        ([(0, "", 20), ("abort", "", 0)], "error process 1 of 2 was aborted by a library"),
        (
            [(1, "connection closed by peer", 0.5), ("kill", "", 0)],
            "error process 1 of 2 ended with SIGKILL without an error of its own",
        ),
    ],
)
def test_spawn(tmp_path, todo, printed):
    done = subprocess.run(
        _command(tmp_path, todo), cwd=tmp_path, capture_output=True, text=True, env=_env(), timeout=100
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
    words = _command(tmp_path, [("stop", "", 60), ("stop", "", 60)])
    parent = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=_env())
    end = time.monotonic() + 100
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert parent.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    parent.send_signal(number)
    assert parent.communicate(timeout=100)[0] == "code 2\n"


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
