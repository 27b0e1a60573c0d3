"""What `kills.py` watches and compares: the writes of a command, its processes, what it leaves behind."""

import hashlib
import json
import os
import random
import time
from pathlib import Path

import psutil

from evalkit import results

IDLE = ("seconds", "environment", "_dir", "label")  # of a record: differ between equal runs, or name the folder
REPORTS = ("predictions.csv", "report.csv", "report.md", "report.tex", "report.html")

# Run in the command's main process. WRITES_LOG: the name of every write goes there. KILL_BEFORE="WRITE N": the process
# is killed before the N-th write of that name.
HOOK = """
import os, re
def watch():
    pid, log, at = os.getpid(), os.environ.pop("WRITES_LOG", None), os.environ.pop("KILL_BEFORE", None)
    if log is None and at is None:
        return
    name, _, number = (at or "").rpartition(" ")
    left = [int(number or 0)]
    def meet(kind, path):
        write = kind + " " + re.sub("[0-9]+", "#", os.path.basename(os.fspath(path)))
        if os.getpid() != pid:
            return
        if log is not None:
            with open(log, "a") as f:
                f.write(write + "\\n")
        elif write == name:
            left[0] -= 1
            if left[0] == 0:
                os.kill(pid, 9)
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
