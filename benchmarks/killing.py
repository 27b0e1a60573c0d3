"""What `kills.py` starts, watches and compares: a command in forks, its writes and processes, what it leaves behind."""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from evalkit import launch, results

IDLE = ("seconds", "environment", "_dir", "label")  # of a record: differ between equal runs, or name the folder
REPORTS = ("predictions.csv", "report.csv", "report.md", "report.tex", "report.html", "val.jsonl")

# Run in the process that writes: the command itself, or the first process of a launch. WRITES_LOG: the name of every
# write goes there. KILL_BEFORE="WRITE N": before the N-th write of that name KILL_WHOM is killed - the process itself,
# the parent that launched it, or one of its data workers - and the file STRUCK says so.
HOOK = """
import os, re
def watch():
    pid, log, at = os.getpid(), os.environ.pop("WRITES_LOG", None), os.environ.pop("KILL_BEFORE", None)
    if log is None and at is None:
        return
    name, _, number = (at or "").rpartition(" ")
    left = [int(number or 0)]
    def victim():
        if os.environ["KILL_WHOM"] == "worker":
            import psutil
            alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
            return alive[-1].pid if alive else None
        return pid if os.environ["KILL_WHOM"] == "self" else int(os.environ["EVALKIT_PARENT"])
    def meet(kind, path):
        write = kind + " " + re.sub("[0-9]+", "#", os.path.basename(os.fspath(path)))
        if os.getpid() != pid or write.split()[1].startswith("tmp"):  # of libraries, with names by chance
            return
        if log is not None:
            with open(log, "a") as f:
                f.write(write + "\\n")
        elif write == name:
            left[0] -= 1
            if left[0] <= 0 and not os.path.exists(os.environ["STRUCK"]) and (struck := victim()):
                open(os.environ["STRUCK"], "w").close()
                os.kill(struck, 9)
    def watched(kind, call, where, wanted):
        def run(*args, **options):
            if wanted(args, options):
                meet(kind, args[where])
            return call(*args, **options)
        return run
    there = lambda args, options: "dir_fd" not in options and os.path.lexists(args[0])
    os.replace = watched("put", os.replace, 1, lambda args, options: True)
    os.unlink = watched("remove", os.unlink, 0, there)
    os.rmdir = watched("remove", os.rmdir, 0, lambda args, options: True)
    os.open = watched("append", os.open, 0, lambda args, options: args[1] & os.O_APPEND)
watch()
"""
FORK = multiprocessing.get_context("fork")


def command(words: list[str], env: dict[str, str]) -> None:
    """An evalkit command in this process, a fork of one that has imported everything and computed nothing; the
    processes of a launch are forks too.

    Args:
        words: Those of the command, without `evalkit`.
        env: What its environment holds besides.
    """
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(env)
    random.seed()  # a process of its own has generators of its own
    np.random.seed()
    sys.argv = ["evalkit", *words]
    several = "--gpus" in words
    if several and "RANK" not in os.environ:
        SubprocessHandler._popen = lambda _, args, env: Forked(args, env)  # type: ignore[method-assign,assignment]
    elif os.environ.get("RANK", "0") == "0":
        exec(HOOK, {})
    from evalkit.cli import main

    main()


class Forked(FORK.Process):  # type: ignore[name-defined,misc]
    """A process of a launch, with what torchrun asks of a subprocess.Popen.

    Args:
        args: The interpreter, evalkit.launch.COMMAND and the command's words.
        env: Its environment.
    """

    def __init__(self, args: tuple[str, ...], env: dict[str, str]):
        super().__init__(target=_rank, args=(list(args[1 + len(launch.COMMAND) :]), env))
        self.start()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired("evalkit", timeout or 0.0)
        return self.exitcode


def _rank(words: list[str], env: dict[str, str]) -> None:
    for name in os.listdir("/proc/self/fd"):  # Popen closes what torchrun talks through; others wait for its end
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
    logging.disable(logging.NOTSET)
    command(words, env)


def family(pid: int | None) -> list[psutil.Process]:
    """The process `pid` and all below it, parents before their children."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pick(members: list[psutil.Process], who: str, processes: int, rng: random.Random) -> psutil.Process | None:
    """The parent, a process of the launch (a rank) or a data worker; None while there is none."""
    if who == "parent" or not members:
        return members[0] if members else None
    levels = {members[0].pid: 0}
    try:
        for m in members[1:]:
            levels[m.pid] = levels.get(m.ppid(), 9) + 1
        wanted = 1 if who == "rank" else processes
        found = [m for m in members if levels[m.pid] == wanted and m.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return None
    return rng.choice(found) if found else None


def orphans(members: set[psutil.Process], seconds: float) -> tuple[int, float]:
    """How many of the processes are there after so many seconds, and when the last was gone."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if not any(_lives(m) for m in members):
            return 0, round(time.monotonic() - began, 2)
        time.sleep(0.05)
    return sum(map(_lives, members)), seconds


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_behind(run: Path) -> dict[str, str]:
    """By name: bytes of weights, training states and reports, targets of links, records, and that nothing temporary
    is left."""
    out = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_symlink():
            out[name] = os.readlink(path)
        elif path.suffix in (".safetensors", ".pt", ".pth", ".sha256"):
            out[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in REPORTS or path.suffix == ".png":
            out[name] = hashlib.sha256(path.read_bytes().replace(str(run).encode(), b"RUN")).hexdigest()
        elif path.name.endswith(".tmp") or path.name == "run.lock":
            out[name] = "left behind"
    if list(run.rglob(results.FILE)):
        for n, r in enumerate(results.scan([run])[0]):
            kept = {k: v for k, v in r.items() if k not in IDLE}
            kept["config"] = {k: v for k, v in r["config"].items() if k not in ("out", "label")}
            text = json.dumps(kept, sort_keys=True).replace(str(run), "RUN")
            out[f"record {n} {r['protocol']} {r['weights']}"] = hashlib.sha256(text.encode()).hexdigest()
    return out


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names under which two runs left something else behind."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
