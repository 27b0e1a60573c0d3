"""Kill commands anywhere, continue them, and compare what they leave behind with runs that were not disturbed.

    python benchmarks/kills.py --random 60 --seed 0 --out benchmarks/results/kills.json
    python benchmarks/kills.py --random 5 --only train,report                    a handful

Each kill is a SIGKILL of one process of a running command: the command itself (the parent), one of its processes (a
rank) or one of its data workers. The random ones strike at a random moment; the placed ones just before a certain call
of os.replace, the renames between which belong what a command writes together. After each kill, no process of the
command may be left after 10 seconds; then the command is repeated (with --resume where it has that) and must end with
exit code 0 in time, with the same bytes of weights and training state, and the same records but for their seconds.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from evalkit import results

ORPHAN_SECONDS, HANG_SECONDS = 10.0, 240.0
IDLE = ("seconds", "environment", "_dir", "label")

# Run in the command's processes by way of sitecustomize: the N-th rename of the process is never reached.
STRIKE = """
import os
if "KILL_AT_RENAME" in os.environ and os.environ.get("RANK", "0") == "0":
    left, replace = int(os.environ["KILL_AT_RENAME"]), os.replace
    def strike(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return replace(*args, **options)
    os.replace = strike
"""


@dataclass(frozen=True)
class Job:
    """A command that is killed. `again` is what continues it; without it the command itself is repeated."""

    name: str
    words: list[str]
    again: list[str] | None = None
    processes: int = 1
    renames: list[int] = field(default_factory=list)  # before which of its renames a placed kill strikes


def jobs(work: Path, run: Path) -> list[Job]:
    """The commands, small: networks of a layer or two, few steps."""
    vit = ["model=vit_nano_patch4_32", "model_args={depth: 1}"]
    tiny = ["epochs=1", "batch_size=128", "micro_batch=64", "ema=0.9", "checkpoint_steps=3", "log_steps=1", "threads=1"]
    tiny += ["workers=1", "device=cpu", "eval_epochs=1"]
    train = ["train", "digits", *vit, *tiny, "mixup=transmix", "--out", str(run)]
    scenes = [
        "steps=8",
        "warmup_steps=2",
        "batch_size=2",
        "workers=1",
        "log_steps=1",
        "checkpoint_steps=3",
        "threads=1",
        "device=cpu",
    ]
    seg = ["transfer", "seg", str(work / "base"), *scenes, "head=linear", "--out", str(run)]
    boxes = [word for word in scenes if not word.startswith(("steps=", "batch_size="))] + [
        "epochs=1",
        "decay_epochs=[]",
        "batch_size=24",
    ]
    det = ["transfer", "det", "pvt_nano", "init=random", *boxes, "--out", str(run)]
    again = {"train": ["train", "--resume", str(run)], "seg": ["transfer", "seg", "--resume", str(run)]}
    again["det"] = ["transfer", "det", "--resume", str(run)]
    held = ["workers=1", "device=cpu", "--out", str(run)]
    return [
        Job("train", train, again["train"], 1, [1, 5, 9, 14, 20, 26]),
        Job("train", train, again["train"], 2, [12]),
        Job("eval", ["eval", str(work / "base"), *held], None, 1, [0]),
        Job("robustness", ["robustness", "occlusion", str(work / "base"), "--data", "digits", *held], None, 1, [0]),
        Job("seg", seg, again["seg"], 1, [8]),
        Job("det", det, again["det"], 1, [8]),
        Job("report", ["report", str(work / "base"), "--out", str(run)], None, 1, [3]),
    ]


def start(job: Job, words: list[str], env: dict[str, str]) -> subprocess.Popen:
    several = ["--gpus", str(job.processes)] if job.processes > 1 else []
    command = [sys.executable, "-m", "evalkit", *words, *several]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )


def finish(job: Job, words: list[str], env: dict[str, str]) -> tuple[int | None, str, float]:
    """Exit code (None after a hang), output and seconds of a command that nobody disturbs."""
    began, process = time.monotonic(), start(job, words, env)
    try:
        text = process.communicate(timeout=HANG_SECONDS)[0]
        return process.returncode, text, time.monotonic() - began
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0], HANG_SECONDS


def family(pid: int) -> list[psutil.Process]:
    """The process `pid` and all below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pick(members: list[psutil.Process], who: str, rng: random.Random) -> psutil.Process:
    """The parent, a process of the launch (a rank), or one that has no process below it (a data worker)."""
    if who == "rank":
        ranks = [m for m in members if m.ppid() == members[0].pid and len(members) > 1]
        return rng.choice(ranks or members)
    if who == "worker":
        return rng.choice([m for m in members if not m.children()] or members)
    return members[0]


def orphans(members: list[psutil.Process]) -> tuple[int, float]:
    """How many of the processes are there after 10 seconds, and when the last was gone."""
    began = time.monotonic()
    while time.monotonic() - began < ORPHAN_SECONDS:
        left = [m for m in members if m.is_running() and m.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return 0, time.monotonic() - began
        time.sleep(0.05)
    return len(left), ORPHAN_SECONDS


def left_behind(run: Path) -> dict[str, str]:
    """The bytes of weights and training states, and the records, by name."""
    out = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".pt", ".pth") and not path.is_symlink():
            out[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_symlink():
            out[str(path.relative_to(run))] = os.readlink(path)
        if path.name in ("predictions.csv", "report.csv", "report.md", "report.tex"):
            out[path.name] = hashlib.sha256(path.read_bytes().replace(str(run).encode(), b"RUN")).hexdigest()
    if list(run.rglob(results.FILE)):
        for r in results.scan([run])[0]:
            kept = {k: v for k, v in r.items() if k not in IDLE}
            kept["config"] = {k: v for k, v in r["config"].items() if k not in ("out", "label")}
            text = json.dumps(kept, sort_keys=True).replace(str(run), "RUN")
            out[f"record {len(out)} {r['protocol']} {r['weights']}"] = hashlib.sha256(text.encode()).hexdigest()
    return out


def kill(job: Job, run: Path, who: str, at: float | int, env: dict[str, str], rng: random.Random) -> dict:
    """One kill: strike (at a moment in seconds, or before a rename), wait for orphans, continue, compare later."""
    placed = isinstance(at, int)
    process = start(job, job.words, env | ({"KILL_AT_RENAME": str(at)} if placed else {}))
    if placed:
        members = []
        while process.poll() is None:
            members = family(process.pid) or members
            time.sleep(0.1)
        struck = process.returncode != 0
    else:
        time.sleep(at)
        members = family(process.pid)
        struck = process.poll() is None and bool(members)
        if struck:
            pick(members, who, rng).kill()
    gone, seconds = orphans(members) if struck else (0, 0.0)
    try:  # a command whose rank or worker was killed ends by itself
        said = process.communicate(timeout=HANG_SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return {"job": job.name, "processes": job.processes, "who": who, "at": at, "fault": "it hung after the kill"}
    again = job.again if job.again and (run / "config.yaml").exists() else job.words
    code, text, _ = finish(job, again, env)
    fault = f"{gone} processes were left after {ORPHAN_SECONDS:g} s" if gone else None
    if code != 0:
        fault = f"exit code {code} after the kill: {text[-300:]}"
    told = said.strip().splitlines()[-1:] if struck and who != "parent" and not placed else []
    found = {"job": job.name, "processes": job.processes, "who": who, "at": round(at, 2), "struck": struck}
    return found | {"gone_after": round(seconds, 2), "fault": fault, "told": told[0][:160] if told else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=60, help="random kills, spread over the commands")
    parser.add_argument("--placed", type=int, default=12, help="placed kills at most")
    parser.add_argument("--only", default="", help="commands, comma-separated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rng, work = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="kills-"))
    (work / "site").mkdir()
    (work / "site" / "sitecustomize.py").write_text(STRIKE)
    env = os.environ | {"PYTHONPATH": f"{work / 'site'}:{os.getcwd()}", "OMP_NUM_THREADS": "1"}
    base = next(job for job in jobs(work, work / "base") if job.name == "train")
    code, text, _ = finish(base, base.words, env)
    assert code == 0, text
    only = set(args.only.split(",")) - {""}
    chosen = [i for i, job in enumerate(jobs(work, work)) if not only or job.name in only]
    plans: list[tuple[int, str, float | int | None]] = [
        (chosen[n % len(chosen)], rng.choice(["parent", "rank", "worker"]), None) for n in range(args.random)
    ]
    plans += [(i, "parent", at) for i in chosen for at in jobs(work, work)[i].renames][: args.placed]
    whole: dict[int, tuple[dict, float]] = {}
    rows = []
    for n, (i, who, at) in enumerate(plans):
        if i not in whole:
            run = work / f"whole-{i}"
            job = jobs(work, run)[i]
            code, text, seconds = finish(job, job.words, env)
            assert code == 0, f"{job.name} does not even run: {text[-500:]}"
            whole[i] = left_behind(run), seconds
        run = work / f"kill-{n}"
        job = jobs(work, run)[i]
        moment = rng.uniform(0.15, 0.95) * whole[i][1] if at is None else at
        row = kill(job, run, who, moment, env, rng)
        if not row.get("fault"):
            other = left_behind(run)
            differing = sorted(k for k in {*other, *whole[i][0]} if other.get(k) != whole[i][0].get(k))
            row["fault"] = f"differs: {', '.join(differing[:4])}" if differing else None
        rows.append(row)
        print(json.dumps(row), flush=True)
        if not row["fault"]:
            shutil.rmtree(run, ignore_errors=True)
        if args.out:
            write(args, rows)
    if not any(row["fault"] for row in rows):
        shutil.rmtree(work)
    sys.exit(1 if any(row["fault"] for row in rows) else 0)


def write(args: argparse.Namespace, rows: list[dict]) -> None:
    placed = [row for row in rows if isinstance(row["at"], int)]
    summary = {
        "what": "SIGKILL of a parent, a rank or a data worker, then the command continued or repeated",
        "same": "bytes of weights and training states, links, records but for seconds and environment",
        "seed": args.seed,
        "torch": torch.__version__,
        "kills": len(rows),
        "placed": len(placed),
        "struck": sum(bool(row.get("struck")) for row in rows),
        "faults": sum(bool(row["fault"]) for row in rows),
        "gone_after_at_most": max((row.get("gone_after", 0.0) for row in rows), default=0.0),
    }
    args.out.write_text(json.dumps(summary | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
