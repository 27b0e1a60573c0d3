import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from evalkit import cli, run_folder
from evalkit.study import devices, engine, job, plan

from .fakes import interpreter
from .test_spec import load


@pytest.fixture
def started(tmp_path, record):
    """A study's folder with a plan whose commands a fake interpreter runs: two cells, each with two evaluations."""
    study, folder = load(tmp_path), tmp_path / "out"
    made = plan.make(study, [c for c in study.cells if c.values["seed"] == "0" and not c.excluded][:2])
    plan.start(folder, replace(made, python=interpreter(tmp_path, json.dumps(record))), study)
    return folder


@contextlib.contextmanager
def ending(process):
    """A process that does not outlive what follows, whatever fails there."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def begun(folder):
    return len(calls(folder)) if (folder / "calls.jsonl").exists() else 0


def calls(folder):
    return [json.loads(line)["argv"] for line in (folder / "calls.jsonl").read_text().splitlines()]


def test_a_job_runs_once_and_the_last_of_a_cell_prunes_its_training_state(started):
    jobs = plan.read(started).of_cell(plan.read(started).jobs[0].cell)
    state = started / jobs[0].out / "checkpoints" / "step-1" / "train_state.pt"
    for number, one in enumerate(jobs):
        assert job.run(started, one.id) == 0 and job.run(started, one.id) == 0
        assert state.exists() == (number < len(jobs) - 1)
    assert state.with_name("model.safetensors").exists()
    assert len(calls(started)) == len(jobs)  # the second time its record was there


def test_a_training_that_was_begun_is_continued(started):
    first = plan.read(started).jobs[0]
    (started / first.out).mkdir(parents=True)
    (started / first.out / "half").touch()  # of a start that died before its config
    assert job.run(started, first.id) == 0 and not (started / first.out / "half").exists()
    (started / first.out / "results.jsonl").unlink()
    assert job.run(started, first.id) == 0
    begun, continued = calls(started)
    assert begun[:2] == ["train", "digits"] and begun[-2:] == ["--out", str(started / first.out)]
    assert continued == ["train", "--resume", str(started / first.out)]


def test_a_failure_keeps_the_last_line_and_a_stop_is_no_failure(started):
    first, second = plan.read(started).jobs[0], plan.read(started).jobs[3]
    (started / "fail").write_text("mixup: cutmix cutmix")
    assert job.run(started, first.id) == 1
    state = plan.state(started, first)
    assert state["state"] == "failed" and state["message"] == "error: asked to fail"
    (started / "fail").unlink()
    (started / "slow").touch()
    process = subprocess.Popen([sys.executable, "-m", "evalkit.study.job", str(started), second.id], env=_environment())
    log = started / "jobs" / f"{second.id}.log"
    with ending(process):
        while not log.exists() or "listens" not in log.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 2 and plan.state(started, second)["state"] == "stopped"


def _environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_devices_are_held_by_one_job_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setenv(devices.FOLDER, str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,9")
    monkeypatch.setattr(devices, "count", lambda: 3)
    with devices.taken(2) as first:
        with devices.taken(1) as second:
            held = [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]]
            assert held == ["5,7", "9"]
        monkeypatch.setattr(devices.time, "sleep", lambda _: (_ for _ in ()).throw(TimeoutError))
        with pytest.raises(TimeoutError), devices.taken(2):
            pass
    with devices.taken(3) as everything:
        assert everything == {"CUDA_VISIBLE_DEVICES": "5,7,9"}
    with devices.taken(4) as nothing:  # more than there are: the command says so itself
        assert nothing == {}
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with devices.taken(1) as chosen:
        assert chosen == {}


HOLD = """
import time
from evalkit.study import devices
sleep = time.sleep
def waits(seconds):
    print("waits", flush=True)
    sleep(seconds)
devices.time.sleep = waits
with devices.taken(2, wait=0.05) as found:
    print(found["CUDA_VISIBLE_DEVICES"], flush=True)
    sleep(3600)
"""


def test_two_processes_share_the_devices_and_a_dead_one_frees_its_own(tmp_path):
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\nfor i in 0 1 2; do echo "GPU $i: a card"; done\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = _environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}", devices.FOLDER: str(tmp_path)}
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        environment.pop(name, None)
    start = partial(subprocess.Popen, [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment)
    with ending(start()) as first:
        assert first.stdout.readline() == "0,1\n"
        with ending(start()) as second:
            for _ in range(10):
                assert second.stdout.readline() == "waits\n"
            first.kill()
            assert next(line for line in second.stdout if line != "waits\n") == "0,1\n"


@pytest.mark.parametrize("where, state", [({}, "stopped"), ({"SLURM_JOB_ID": "7"}, "waiting")])
def test_a_job_whose_time_runs_out_goes_back_into_the_queue(started, tmp_path, monkeypatch, where, state):
    """Not without Slurm, and not for good: a job that comes no further fails."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    (started / "slow").touch()
    first = plan.read(started).jobs[0]
    for turn, expected in enumerate((state, "failed" if where else state)):
        log = started / "jobs" / f"{first.id}.log"
        waiting = threading.Thread(target=_warn, args=(log, turn + 1))
        waiting.start()
        code = job.run(started, first.id)
        waiting.join()
        assert code == 2 and plan.state(started, first)["state"] == expected
    assert not where or (tmp_path / "asked").read_text() == "requeue 7\n"


def _warn(log, begun):
    """Send this process the warning when its command has begun for that many times."""
    while not log.exists() or log.read_text().count("listens") < begun:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.slow
def test_the_engine_runs_all_but_what_needs_a_failed_job(started, monkeypatch):
    pytest.importorskip("snakemake")
    cut = next(j for j in plan.read(started).jobs if j.argv[0] == "train")
    (started / "fail").write_text(cut.out)
    monkeypatch.chdir(started)
    # a folder of another person: Python and Snakemake take neither from there
    (started / "yaml.py").write_text("open('owned', 'w')\n")
    (started / "profiles" / "default").mkdir(parents=True)
    (started / "profiles" / "default" / "config.yaml").write_text("dry-run: true\n")
    assert engine.run(started, jobs=2) != 0 and not list(started.rglob("owned"))
    states = {j.id: plan.state(started, j)["state"] for j in plan.read(started).jobs}
    failed_cell = [s for id, s in states.items() if id.startswith(cut.cell)]
    others = [s for id, s in states.items() if not id.startswith(cut.cell)]
    assert failed_cell == ["failed", "waiting", "waiting"] and set(others) == {"done"}
    (started / "fail").unlink()
    before = len(calls(started))
    assert engine.run(started, jobs=2) == 0
    assert len(calls(started)) == before + 3  # only what was missing
    assert all(plan.finished(started, j) for j in plan.read(started).jobs)


@pytest.mark.skipif(not Path("/proc/locks").is_file(), reason="looks locks up in /proc")
def test_what_another_process_runs_is_waited_for(started):
    (started / "hold").touch()
    words = [sys.executable, "-m", "evalkit.study.job", str(started), plan.read(started).jobs[0].id]
    start = partial(subprocess.Popen, words, env=_environment())
    with ending(start()) as one, ending(start()) as other:
        try:
            while not any(_waits_for_a_lock(process.pid) for process in (one, other)):
                assert one.poll() is other.poll() is None and begun(started) <= 1
                time.sleep(0.05)
        finally:
            (started / "hold").unlink()  # for the command too
        assert one.wait(600) == other.wait(600) == 0 and len(calls(started)) == 1


def _waits_for_a_lock(pid):
    lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    return any("->" in line and f" {pid} " in line for line in lines)


def test_a_full_disk_is_one_line_of_the_job(started):
    words = [sys.executable, "-m", "evalkit.study.job", str(started), plan.read(started).jobs[0].id]
    nothing = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # noqa: E731
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True, preexec_fn=nothing)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: job {words[-1]}: cannot write {started}/jobs/"), done.stderr


def test_a_study_on_a_full_disk_says_so_besides_how_its_jobs_stand(tmp_path, monkeypatch, capsys):
    words = ["study", "run", "digits-methods", "--only", "method=vanilla,seed=0", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(engine, "run", lambda *_, **__: 1)
    code, said = cli.invoke(words)  # Snakemake says nothing of its own failures
    assert code == 1 and said.startswith("Snakemake ended with exit code 1 before a job began or failed; the newest")
    for place in (tmp_path / "out", tempfile.gettempdir()):
        monkeypatch.setattr(run_folder, "full", lambda folder, place=place: folder == place)
        code, said = cli.invoke(words)
        assert code == 1 and said.startswith(f"no space left on the disk of {place}; free some and run the study")
    assert capsys.readouterr().out.count("Mixups on digits over photographs: 2 waiting") == 3


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_leaves_one_record_per_job(started):
    """SIGKILL of the study's own process, whose jobs may go on without it, or of all of them."""
    pytest.importorskip("snakemake")
    (started / "pause").write_text("0.5")
    code = (
        "import sys, pathlib; from evalkit.study import engine; sys.exit(engine.run(pathlib.Path(sys.argv[1]), jobs=2))"
    )
    command = [sys.executable, "-c", code, started]
    draw = random.Random(0)
    for turn in range(5):
        process = subprocess.Popen(command, env=_environment(), start_new_session=True)
        before = begun(started)
        while begun(started) == before and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, 1.0))
        if process.poll() is None:  # else the jobs of one whose own process was killed have done all by now
            (os.killpg if turn % 2 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
    assert subprocess.run(command, env=_environment()).returncode == 0
    for job_ in plan.read(started).jobs:
        assert len((started / job_.out / "results.jsonl").read_text().splitlines()) == 1
    assert all(plan.state(started, job_)["state"] == "done" for job_ in plan.read(started).jobs)
