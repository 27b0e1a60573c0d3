"""Kill commands anywhere, continue them, and compare what they leave behind with runs that nobody disturbed.

    python benchmarks/kills.py --out benchmarks/results/kills.json      all; a repeated call runs what is missing there
    python benchmarks/kills.py --random 5 --placed 2 --only "train x1,report"                               a handful

Each kill is a SIGKILL of one process of a running command: the command itself (the parent), one of its processes (a
rank) or one of its data workers. The random ones strike at a random moment, those jobs first that were struck least;
the placed ones before a write, one for every name that a command puts in its place, removes or appends to: between the
writes on both sides of it. There, what writes is killed; of two processes, at some writes, the parent instead; at a
checkpoint, also a data worker. After each
kill no process of the command may be left after a minute (the record says how long the slowest took), and a command
whose rank or worker was killed must say so in one line; then it is repeated (with --resume where it has that) and must
end with exit code 0 in time, with the same bytes of weights and training state, and the same records but for their
seconds. Each row names the commit of the code that was killed; the earliest, which were recorded without, the commit
that they came with.

To spare the imports, a command and the processes that it launches run in forks of this process, which has imported
everything and computed nothing; what they are compared with is started anew.
"""

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from evalkit.runtime import commit

try:
    from .killing import FORK, command, differing, family, left_behind, orphans, pick
except ImportError:  # run as a script
    from killing import (  # type: ignore[import-not-found,no-redef]
        FORK,
        command,
        differing,
        family,
        left_behind,
        orphans,
        pick,
    )

ORPHAN_SECONDS, HANG_SECONDS = 60.0, 900.0
IMPORTED = [f"evalkit.{name}" for name in ("accuracy", "cli.app", "report", "robustness.occlusion", "train.run")]
IMPORTED += [f"evalkit.downstream.{name}" for name in ("det", "mm.det", "mm.seg", "run", "scenes", "seg")]
IMPORTED += ["mmdet.utils", "mmseg.utils", "matplotlib.pyplot", "sklearn.datasets", "torch.utils.tensorboard"]


@dataclass(frozen=True)
class Job:
    """A command that is killed. `again` is what continues it; without it the command itself is repeated."""

    name: str
    words: list[str]
    again: list[str] | None = None
    processes: int = 1

    @property
    def title(self) -> str:
        return f"{self.name} x{self.processes}"

    @property
    def whom(self) -> list[str]:
        """Whom a kill can strike."""
        workers = [] if self.name == "report" else ["worker"]
        return ["parent", *(["rank"] if self.processes > 1 else []), *workers]


def jobs(work: Path, run: Path) -> list[Job]:
    """The commands, small: networks of a layer or two, few steps, few images."""
    held = ["workers=1", "device=cpu"]
    tiny = [*held, "threads=1", "log_steps=1", "checkpoint_steps=3", "keep=1"]
    train = ["train", "digits", "model=vit_nano_patch4_32", "model_args={depth: 1}", "epochs=1", "batch_size=128"]
    train += [*tiny, "micro_batch=64", "ema=0.9", "eval_epochs=0.4", "mixup=transmix", "--out", str(run)]
    base = str(work / "base")
    scenes = [*tiny, "val_steps=3", "warmup_steps=2", "batch_size=2"]
    seg = ["transfer", "seg", base, "--recipe", "digits-scenes", f"data={work / 'seg'}", *scenes, "steps=8"]
    seg += ["head=linear", "--out", str(run)]
    det = ["transfer", "det", "pvt_nano", "init=random", "--recipe", "digits-scenes-det"]
    det += [f"data={work / 'scenes' / 'coco'}", *scenes, "epochs=1", "decay_epochs=[]", "channels=16"]
    det += ["fc_channels=32", "mask_convs=1", "rois=16", "proposals=20", "--out", str(run)]
    hold = ["robustness", "occlusion", base, "--data", "digits", "modes=[random]", "levels=[0.5]", "repeats=1"]
    hold += ["limit=128", *held, "--out", str(run)]
    resumed = {"train": ["train"], "seg": ["transfer", "seg"], "det": ["transfer", "det"]}
    out = [Job("eval", ["eval", base, *held, "--out", str(run)]), Job("report", ["report", base, "--out", str(run)])]
    for processes in (1, 2):
        for name, words in {"train": train, "robustness": hold, "seg": seg, "det": det}.items():
            again = [*resumed[name], "--resume", str(run)] if name in resumed else None
            out.append(Job(name, words, again, processes))
    return out


def import_all() -> None:
    from evalkit.downstream.mm import require

    require("mmseg", "mmdet")
    for name in IMPORTED:
        importlib.import_module(name)
    for scope in ("mmseg", "mmdet"):
        sys.modules[f"{scope}.utils"].register_all_modules(init_default_scope=False)
    gc.collect()
    gc.freeze()  # or every fork would copy all of it as it collects garbage


def write_data(work: Path) -> None:
    """Scenes in COCO's format, and the same as images and masks."""
    from evalkit.downstream import scenes

    scenes.write_scenes(work / "scenes", train=16, val=6)
    for split in scenes.FIRST_ID:
        for image in sorted((work / "scenes" / scenes.COCO / f"{split}2017").iterdir()):
            mask = work / "scenes" / scenes.VOC / "SegmentationClassContext" / f"{image.stem}.png"
            for kind, file in (("images", image), ("masks", mask)):
                (work / "seg" / kind / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, work / "seg" / kind / split)
    (work / "seg" / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *scenes.DIGITS)))


def _to_file(words: list[str], out: Path, env: dict[str, str]) -> None:
    with open(out, "w", encoding="utf-8") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    command(words, env)


@dataclass
class Bench:
    """Where the runs lie, and what an undisturbed run of each job left behind."""

    work: Path
    whole: dict[str, tuple[dict[str, str], float, Counter[str]]]

    def start(self, job: Job, words: list[str], **env: str) -> tuple[multiprocessing.process.BaseProcess, Path]:
        out = self.work / f"{time.monotonic_ns()}.txt"
        several = ["--gpus", str(job.processes)] if job.processes > 1 else []
        (self.work / "struck").unlink(missing_ok=True)
        env |= {"STRUCK": str(self.work / "struck")}
        process = FORK.Process(target=_to_file, args=([*words, *several], out, env))
        process.start()
        return process, out

    def finish(self, process: multiprocessing.process.BaseProcess, out: Path) -> tuple[int | None, str]:
        """Exit code (None after a hang) and output."""
        process.join(HANG_SECONDS)
        code = process.exitcode
        if code is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        text = out.read_text(encoding="utf-8", errors="replace")
        out.unlink()
        return code, text

    def undisturbed(self, i: int) -> tuple[dict[str, str], float, Counter[str]]:
        """What job `i` leaves behind, its seconds in a fork, and its writes: of a process of its own and of a fork,
        which must agree."""
        title = jobs(self.work, self.work)[i].title
        if title not in self.whole:
            run, log = self.work / "run", self.work / "writes.txt"
            shutil.rmtree(run, ignore_errors=True)
            job = jobs(self.work, run)[i]
            words = [*job.words, *(["--gpus", str(job.processes)] if job.processes > 1 else [])]
            done = subprocess.run(
                [sys.executable, "-m", "evalkit", *words], capture_output=True, text=True, timeout=HANG_SECONDS
            )
            assert done.returncode == 0, f"{job.title} does not even run: {(done.stdout + done.stderr)[-800:]}"
            left = left_behind(run)
            shutil.rmtree(run)
            began = time.monotonic()
            code, text = self.finish(*self.start(job, job.words, WRITES_LOG=str(log)))
            assert code == 0, f"{job.title}: {text[-800:]}"
            assert not (names := differing(left_behind(run), left)), f"{job.title}: two runs differ in {names}"
            seconds, writes = time.monotonic() - began, Counter(log.read_text().splitlines() if log.exists() else [])
            shutil.rmtree(run)
            log.unlink(missing_ok=True)
            self.whole[title] = left, seconds, writes
        return self.whole[title]


def case(bench: Bench, i: int, who: str, at: str | float, rng: random.Random) -> dict:
    """One kill, before the write `at` or at that share of the command's time; what became of the command and its
    processes, and, continued, of its results."""
    left, seconds, _ = bench.undisturbed(i)
    run = bench.work / "run"
    job = jobs(bench.work, run)[i]
    row = {"job": job.title, "who": who, "at": at if isinstance(at, str) else round(at, 3), "struck": False}
    placed = {}
    if isinstance(at, str):
        writer = "parent" if job.processes == 1 else "rank"
        placed = {"KILL_BEFORE": at, "KILL_WHOM": "self" if who == writer else who}
    for _ in range(4):  # on a machine that has become quicker, the command may have ended by then
        shutil.rmtree(run, ignore_errors=True)
        process, out = bench.start(job, job.words, **placed)
        members: set[psutil.Process] = set()  # of any time: those of a process that is gone are nobody's children
        began = time.monotonic()
        while process.exitcode is None and not row["struck"]:
            now = family(process.pid)
            members |= set(now)
            due = not isinstance(at, str) and time.monotonic() - began >= at * seconds
            if due and (victim := pick(now, who, job.processes, rng)):
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended this moment
                    victim.kill()
                    row["struck"] = True
            time.sleep(0 if row["struck"] else 0.1)
        if isinstance(at, str):
            row["struck"] = (bench.work / "struck").exists()
        if row["struck"] or isinstance(at, str):
            break
        bench.finish(process, out)
        at *= 0.6
    if who == "parent":
        process.join(HANG_SECONDS)
        count, row["gone_after"] = orphans(members, ORPHAN_SECONDS)
        bench.finish(process, out)
        told = ""
    else:
        code, said = bench.finish(process, out)
        count, row["gone_after"] = orphans(members, ORPHAN_SECONDS)
        told = next((line for line in said.splitlines()[::-1] if line.startswith("error: ")), "")
        row["told"] = told[:150]
        expected = "of 2 ended with SIGKILL" if who == "rank" else "a data worker died"
        needed = who == "rank" or code != 0  # a worker may have handed over its last batch
        if row["struck"] and needed and (code != 1 or expected not in told):
            return row | {"fault": f"exit code {code} and '{said[-300:]}' after its {who} was killed"}
    if count:
        return row | {"fault": f"{count} processes were left after {ORPHAN_SECONDS:g} s"}
    if not row["struck"]:
        return row | {"fault": "it could not be struck"}
    again = job.again if job.again and (run / "config.yaml").exists() else job.words
    code, text = bench.finish(*bench.start(job, again))
    if code != 0:
        return row | {"fault": f"exit code {code} after the kill: {text[-300:]}"}
    names = differing(left_behind(run), left)
    return row | {"fault": f"differs: {', '.join(names[:4])}" if names else None}


def plans(
    bench: Bench, only: set[str], count: int, placed: int, rng: random.Random, rows: list[dict]
) -> list[tuple[str, int, str, str | float]]:
    """(name, job, whom, where) of every kill that `rows` lacks: at most `placed` of the placed ones of each job, and as
    many random ones as make `count` of them."""
    taken, out = {row["case"] for row in rows}, []
    chosen = [
        (i, job) for i, job in enumerate(jobs(bench.work, bench.work)) if not only or only & {job.name, job.title}
    ]
    for i, job in chosen if placed else []:
        writes, one = bench.undisturbed(i)[2], job.processes == 1
        places = [f"{write} {min(2, n)}" for write, n in writes.items()]
        places += [f"{write} 1" for write, n in writes.items() if write == "append results.jsonl" and n > 1]
        cases = [("parent" if one else "rank", place) for place in places]
        cases += [] if one else [("parent", place) for place in places[::4]]
        cases += [("worker", f"{write} 1") for write in writes if write.startswith("put step-")]
        for who, place in cases if placed >= len(cases) else rng.sample(cases, placed):
            whom = "" if one and who == "parent" else f" {who}"
            out.append((f"{job.title}{whom} before {place}", i, who, place))
    struck = Counter({(i, who): 0 for i, job in chosen for who in job.whom})
    struck.update((i, row["who"]) for row in rows for i, job in chosen if is_random(row) and row["job"] == job.title)
    free = (name for name in map("random {}".format, itertools.count()) if name not in taken)
    out = [case for case in out if case[0] not in taken]
    for _ in range(count - sum(map(is_random, rows))):
        i, who = min(struck, key=lambda cell: (struck[cell], rng.random()))
        struck[i, who] += 1
        out.append((next(free), i, who, rng.uniform(0.1, 0.95)))
    rng.shuffle(out)  # of every job and kind some, wherever it is stopped
    return out


def is_random(row: dict) -> bool:
    """Whether a kill was not placed."""
    return not isinstance(row["at"], str)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=60, help="random kills, spread over the commands")
    parser.add_argument("--placed", type=int, default=100, help="placed kills of each command at most")
    parser.add_argument("--only", default="", help="commands, comma-separated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ["OMP_NUM_THREADS"] = "1"
    code_of = commit()
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    import_all()
    bench = Bench(work, {})
    rows = json.loads(args.out.read_text())["rows"] if args.out and args.out.exists() else []
    rows = [row for row in rows if not row["fault"]]  # the others are repeated
    try:
        process = FORK.Process(target=write_data, args=(work,))
        process.start()
        process.join()
        base = next(job for job in jobs(work, work / "base") if job.name == "train")
        code, text = bench.finish(*bench.start(base, base.words))
        assert code == 0, text
        rng = random.Random(f"{args.seed} {len(rows)}")
        for name, i, who, at in plans(bench, set(args.only.split(",")) - {""}, args.random, args.placed, rng, rows):
            row = {"case": name, **case(bench, i, who, at, rng), "commit": code_of}
            rows.append(row)
            print(json.dumps(row), flush=True)
            if args.out:
                write(args.out, rows)
    finally:
        for process in multiprocessing.active_children():
            os.killpg(process.pid or 0, signal.SIGKILL)
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if any(row["fault"] for row in rows) else 0)


def write(out: Path, rows: list[dict]) -> None:
    summary = {
        "what": "SIGKILL of a parent, a rank or a data worker, then the command continued or repeated",
        "same": "bytes of weights and training states, links, reports, and records but for seconds and environment",
        "torch": torch.__version__,
        "kills": len(rows),
        "placed": sum(not is_random(row) for row in rows),
        "of": dict(sorted(Counter(row["job"] for row in rows).items())),
        "struck": dict(sorted(Counter(row["who"] for row in rows if row["struck"]).items())),
        "faults": sum(bool(row["fault"]) for row in rows),
        "commits": dict(Counter(str(row["commit"]) for row in rows)),
        "gone_after_at_most": max((row["gone_after"] for row in rows), default=0.0),
    }
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    out.write_text(json.dumps(summary, indent=1)[:-2] + f',\n "rows": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
