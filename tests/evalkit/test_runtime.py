"""Derived randomness, devices, processes, files that survive a crash."""

import errno
import hashlib
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit import runtime
from evalkit.errors import EvalkitError

ROOT = Path(__file__).resolve().parents[2]


# ---- randomness


def test_key_is_the_hash_of_its_parts():
    expected = hashlib.blake2b(b"int:0\x1fstr:mix\x1fint:7", digest_size=16).digest()
    assert (
        runtime.derive_key(0, "mix", 7) == int.from_bytes(expected, "little") == 126990919500941968241536461514845180409
    )


def test_keys_that_look_alike_differ():
    keys = [(1,), ("1",), (1, ""), ("", 1), (11,), (1, 1), ("11",), ("1", 1), (-1,), ()]
    assert len({runtime.derive_key(*k) for k in keys}) == len(keys)


def test_rng_is_numpys_philox_of_the_key():
    ours = runtime.derive_rng(3, "order", 5).random(100)
    np.testing.assert_array_equal(
        ours, np.random.Generator(np.random.Philox(key=runtime.derive_key(3, "order", 5))).random(100)
    )
    for keys in ((), ("a",), (3, "order", 5)):
        key, again = np.random.Philox(key=runtime.derive_key(*keys)), runtime.derive_rng(*keys)
        assert str(again.bit_generator.state) == str(key.state)
        assert str(pickle.loads(pickle.dumps(again)).bit_generator.state) == str(key.state)
    assert not np.array_equal(ours, runtime.derive_rng(3, "order", 6).random(100))


def test_streams_of_neighbouring_steps_are_uncorrelated():
    draws = np.stack([runtime.derive_rng(0, "mix", step).random(1000) for step in range(20)])
    correlation = np.corrcoef(draws) - np.eye(20)
    assert np.abs(correlation).max() < 0.16  # five standard errors of 1 / sqrt(1000)


def test_global_generators_are_left_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.random(3)
    torch.manual_seed(1)
    np.random.seed(1)
    runtime.derive_rng(0, "x").random(10)
    assert torch.equal(torch.rand(3), expected[0]) and np.array_equal(np.random.random(3), expected[1])


def test_seed_torch_repeats_and_separates():
    def draw(*keys):
        runtime.seed_torch(*keys)
        return torch.rand(8)

    assert torch.equal(draw(0, "model", 1), draw(0, "model", 1)) and not torch.equal(
        draw(0, "model", 1), draw(0, "model", 2)
    )


# ---- device and processes


def test_pick_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.pick_device() == torch.device("cpu") and runtime.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(EvalkitError, match="device 'cuda:1' asked for, but torch sees no GPU; use device=cpu"):
        runtime.pick_device("cuda:1")
    with pytest.raises(EvalkitError, match="unknown device 'gpu'"):
        runtime.pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert runtime.pick_device() == runtime.pick_device("cuda") == torch.device("cuda:3") and runtime.pick_device(
        "cpu"
    ) == torch.device("cpu")


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    runtime.init_processes(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert (runtime.rank(), runtime.world_size(), runtime.is_main()) == (0, 1, True)
    assert runtime.gather_objects({"a": 1}) == [{"a": 1}]


GATHER = """
import pathlib, sys, torch
from evalkit import runtime
runtime.init_processes(torch.device("cpu"))
said = repr((runtime.world_size(), runtime.is_main(), runtime.gather_objects("p" * (runtime.rank() + 1))))
pathlib.Path(sys.argv[1], str(runtime.rank())).write_text(said)
runtime.leave_processes()  # a group that outlives the interpreter aborts the process now and then
"""


@pytest.mark.slow
def test_two_processes_gather_in_rank_order(tmp_path):
    script = tmp_path / "gather.py"
    # Each process writes a file of its own: lines of two processes on one pipe may mix.
    script.write_text(GATHER)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
    ]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=600)
    assert (tmp_path / "0").read_text() == "(2, True, ['p', 'pp'])"
    assert (tmp_path / "1").read_text() == "(2, False, ['p', 'pp'])"


def test_environment_says_versions_and_no_names(monkeypatch, tmp_path):
    monkeypatch.setattr(platform, "node", lambda: "gpu7.lab.example")
    monkeypatch.setenv("HOME", "/home/mel smith")
    monkeypatch.chdir(tmp_path)
    env = runtime.environment()
    assert env["torch"] == torch.__version__.partition("+")[0] or env["torch"] == torch.__version__
    assert (
        env["python"] == platform.python_version()
        and env["threads"] == torch.get_num_threads()
        and env["processes"] == 1
        and env["device"] == "cpu"
    )
    text = repr(env)
    assert "gpu7" not in text and "mel smith" not in text and str(tmp_path) not in text


# ---- files


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_write_atomic_makes_folders_and_replaces(tmp_path):
    target = tmp_path / "a" / "b" / "file"
    runtime.write_atomic(target, lambda f: f.write(b"old"))
    runtime.write_atomic(str(target), lambda f: f.write(b"new"))
    assert files(target.parent) == {"file": b"new"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "file").write_bytes(b"old")

    def write(f):
        f.write(b"half")
        raise error

    with pytest.raises(type(error)):
        runtime.write_atomic(tmp_path / "file", write)
    assert files(tmp_path) == {"file": b"old"}


def test_full_disk_is_one_line(tmp_path):
    def write(f):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        EvalkitError,
        match=r"^cannot write .*file: No space left on device; free some space or choose another output folder$",
    ):
        runtime.write_atomic(tmp_path / "file", write)
    assert files(tmp_path) == {}


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "blocked").write_text("a file, not a folder")
    with pytest.raises(EvalkitError, match=r"^cannot write .*; free some space or choose another output folder$"):
        runtime.write_atomic(tmp_path / "blocked" / "file", lambda f: f.write(b"x"))


def test_the_systems_own_limit(tmp_path):
    """A write that the operating system refuses half-way, not a made-up one."""
    (tmp_path / "file").write_bytes(b"old")
    code = (
        "import resource, signal, sys\nfrom evalkit import runtime\nsignal.signal(signal.SIGXFSZ,"
        " signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\ntry:"
        " runtime.write_atomic(sys.argv[1], lambda f: f.write(bytes(5000)))\nexcept runtime.EvalkitError as e: print(e)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], env=env, capture_output=True, text=True)
    assert "File too large; free some space" in done.stdout, done.stderr
    assert files(tmp_path) == {"file": b"old"}


def test_killed_in_the_middle_of_a_write(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    code = (
        "import sys, time\nfrom evalkit import runtime\n"
        "def write(f): f.write(bytes(10**6)); f.flush(); print('now', flush=True); time.sleep(3600)\n"
        "runtime.write_atomic(sys.argv[1], write)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "file").read_bytes() == b"old"
    runtime.write_atomic(tmp_path / "file", lambda f: f.write(b"new"))
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_reader_never_sees_half_a_file(tmp_path):
    target, old, new = tmp_path / "file", b"a" * 100_000, b"b" * 100_000
    target.write_bytes(old)

    def write(f):
        for i in range(0, len(new), 20_000):
            f.write(new[i : i + 20_000])
            f.flush()
            assert target.read_bytes() == old
            time.sleep(0.001)

    runtime.write_atomic(target, write)
    assert target.read_bytes() == new


def test_sha256_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert runtime.sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_commit_is_that_of_the_checkout():
    root = Path(runtime.__file__).resolve().parents[1]
    head = None
    if (root / ".git").exists() and shutil.which("git"):
        head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head is None or head.returncode:  # no checkout, or one of another user, of which git says nothing
        assert runtime.commit() is None
        return
    assert runtime.commit().removesuffix("+changes") == head.stdout.strip() == runtime.environment()["commit"][:40]
