"""From a study to jobs: one evalkit command each, as a list of arguments, with what it waits for and what it needs."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import results
from ..errors import EvalkitError
from ..files import parse_json, write_atomic
from .spec import Cell, Evaluation, Study

FILE = "plan.json"
CODE = re.compile(r"(?!zoo:)\b[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:Class, the user's own
# What a training would say against a cell (recipe, overrides) before it began, or None; handed in by the command line.
Check = Callable[[str, list[str]], str | None]


@dataclass(frozen=True)
class Job:
    """A command of a study.

    Args:
        id: its name in the graph: letters, digits and a few marks, so that no shell can misread it.
        cell: the folder of its cell.
        argv: what follows `evalkit`, see `words`.
        needs: ids of the jobs whose results it reads.
        out: the folder that it writes, relative to the study's.
        gpus: processes of the command, one GPU each.
    """

    id: str
    cell: str
    argv: list[str]
    needs: list[str]
    out: str
    gpus: int = 1


@dataclass(frozen=True)
class Plan:
    """Every job of a study in one folder, and the cells that cannot be.

    Args:
        study: Name or path of the study file.
        title: As the study calls itself.
        jobs: Every job, those it waits for first.
        left_out: Name of a cell -> why.
        values: Name of a cell -> axis -> value.
        python: The interpreter that runs them.
        cwd: The directory that relative paths of the commands are of: where `study run` was started last. "": that of
            the study, as in plans of an earlier evalkit.
    """

    study: str
    title: str
    jobs: list[Job]
    left_out: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    python: str = sys.executable
    cwd: str = ""

    def job(self, id: str) -> Job:
        """The job of that id."""
        found = next((job for job in self.jobs if job.id == id), None)
        if found is None:
            raise EvalkitError(f"the study's {FILE} has no job '{id}' any more")
        return found

    def of_cell(self, cell: str) -> list[Job]:
        """The jobs of one cell, its training first."""
        return [job for job in self.jobs if job.cell == cell]


def make(
    study: Study, cells: Sequence[Cell], *, given: Sequence[str] = (), gpus: int = 1, check: Check | None = None
) -> Plan:
    """The plan of some cells of a study. Raises EvalkitError where none can be, and for settings that would make cells
    others than they are called.

    Args:
        study: what to plan.
        cells: those of its cells that are wanted.
        given: overrides for every training, such as data_dir=DIR; with the name of an evaluation before them for that
            one, such as imagenet-a.data=DIR.
        gpus: of each training.
        check: says why a cell cannot be trained; such a cell is left out and named.
    """
    jobs, left_out = [], {}
    own = {
        e.name: [w.removeprefix(f"{e.name}.") for w in given if w.startswith(f"{e.name}.")] for e in study.evaluations
    }
    shared = [word for word in given if not any(word.startswith(f"{name}.") for name in own)]
    _check_given(cells, shared)
    for cell in cells:
        overrides = [*cell.overrides(), *shared]
        why = cell.excluded or (check(cell.recipe, overrides) if check and not cell.weights else None)
        if why is not None:
            left_out[cell.name] = why
            continue
        jobs += jobs_of(cell, overrides, study.evaluations, gpus, own)
    if not jobs:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        raise EvalkitError(f"no cell of this study is left to run{f' ({reasons})' if reasons else ''}")
    values = {cell.name: dict(cell.values) for cell in cells if cell.name not in left_out}
    return Plan(study.name, study.title, jobs, left_out, values, cwd=os.getcwd())


def _check_given(cells: Sequence[Cell], words: Sequence[str]) -> None:
    """Raise EvalkitError for settings of every training by which cells would be one, or not what their names say."""
    if words and cells and all(cell.weights for cell in cells):
        raise EvalkitError(f"{words[0]}: nothing is trained here; give it to an evaluation as NAME.{words[0]}")
    for word in words:
        key = word.partition("=")[0]
        named = [cell for cell in cells if key in cell.values and key in cell.keys]
        own = next((cell for cell in named if word not in cell.overrides()), None)
        if own is not None:
            raise EvalkitError(
                f"{word}: '{key}' is an axis, and cell '{own.name}' would not be what it is called; choose cells by"
                f" --only, or change the study's file"
            )
    given = [word.partition("=")[0] for word in words]
    before: dict[str, Cell] = {}
    for cell in cells:
        left = {k: v for k, v in cell.keys.items() if not any(f"{k}.".startswith(f"{key}.") for key in given)}
        one = before.setdefault(repr((cell.recipe, cell.weights, sorted(left.items()))), cell)
        if one.overrides() != cell.overrides() and not cell.excluded:
            raise EvalkitError(
                f"{' '.join(words)} would make one training of the cells '{one.name}' and '{cell.name}'; choose cells"
                " by --only, or change the study's file"
            )


def jobs_of(
    cell: Cell,
    overrides: list[str],
    evaluations: Sequence[Evaluation],
    gpus: int = 1,
    given: Mapping[str, list[str]] | None = None,
) -> list[Job]:
    """The jobs of one cell: its training, unless it has weights, then its evaluations.

    Args:
        cell: of the study.
        overrides: of its training.
        evaluations: that it goes through.
        gpus: of the training.
        given: evaluation's name -> further words of its command.
    """
    if cell.weights:
        found, source, words = [], cell.weights, cell.overrides()
    else:
        source, words = f"cells/{cell.name}/train", []
        first = Job(f"{cell.name}.train", cell.name, ["train", cell.recipe, *overrides], [], source, gpus)
        found = [first]
    needs = [job.id for job in found]
    for evaluation in evaluations:
        out = f"cells/{cell.name}/{evaluation.name}"
        keys = [*words, *Cell({}, "", evaluation.keys).overrides(), *(given or {}).get(evaluation.name, [])]
        argv = [evaluation.command, evaluation.what, source, *keys]
        found.append(Job(f"{cell.name}.{evaluation.name}", cell.name, argv, needs, out, 1))
    return found


def words(folder: Path, job: Job) -> list[str]:
    """What follows `evalkit`, wherever it is called: the training that an evaluation measures lies in the study's
    folder.

    Args:
        folder: The study's folder.
        job: One of its jobs.
    """
    return [*job.argv[:2], str(folder / job.argv[2]), *job.argv[3:]] if job.needs else job.argv


def start(folder: Path, plan: Plan, study: Study) -> list[str]:
    """Write plan.json, which other cells of the study may share; refuses another study's. Raises EvalkitError where a
    job of the same name was begun with another command. Returns what must be known: a sentence for each job of the
    folder that is not run.

    Args:
        folder: The study's folder.
        plan: The jobs of the cells that are wanted now.
        study: What they are of.
    """
    said: list[str] = []
    if (folder / FILE).exists():
        before = read(folder)
        if before.study != plan.study:
            raise EvalkitError(f"{folder} holds the study '{before.study}'; choose another --out for '{plan.study}'")
        known, said = _known(before, plan, study)
        if before.cwd != plan.cwd:
            said.append(f"relative paths are of {plan.cwd} now; they were of {before.cwd or folder}")
        began = {job.id: job.argv for job in before.jobs}
        for job in plan.jobs:
            then, now = Counter(began.get(job.id, job.argv)), Counter(job.argv)
            if then != now and (folder / job.out).exists():
                odd = next(iter([*(now - then), *(then - now)]))
                raise EvalkitError(
                    f"{folder / job.out} was begun with another command ({odd} is different); choose another --out"
                )
        known |= {job.id: job for job in plan.jobs}
        left_out, values = before.left_out | plan.left_out, before.values | plan.values
        plan = replace(plan, jobs=list(known.values()), left_out=left_out, values=values)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(plan), indent=1) + "\n"
    write_atomic(folder / FILE, lambda f: f.write(text.encode()))
    return said


def _known(before: Plan, plan: Plan, study: Study) -> tuple[dict[str, Job], list[str]]:
    """The jobs of a folder's plan by id, and why others are left out. The folder may be another person's, and a job is
    a command that runs: it must be one of the study's, and code that it adds must be named by the command line too."""
    own = {job.id: job for c in study.cells if not c.excluded for job in jobs_of(c, c.overrides(), study.evaluations)}
    asked, chosen = {word for job in plan.jobs for word in job.argv}, {job.id for job in plan.jobs}
    known, said, gone, other = {}, [], [], []
    for job in before.jobs:
        ours = own.get(job.id)
        if ours is None:
            gone += [] if job.cell in plan.left_out else [job.id]
            continue
        if job.argv[: len(ours.argv)] != ours.argv:
            other += [] if job.id in chosen else [job.id]  # `start` compares those that are run now
            continue
        added = list(job.argv[len(ours.argv) :])
        code = next((w for w in added if w not in asked and (CODE.search(w) or w.startswith("config="))), None)
        if code is not None:
            said.append(f"left out: {job.id}: {FILE} of the folder adds code to it; if it is yours, add {code[:200]}")
            continue
        known[job.id] = replace(ours, argv=[*ours.argv, *added], gpus=job.gpus)
    for ids, why in ((gone, "the study has no such job"), (other, "the study has another command for it now")):
        if ids:
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            said.append(f"left out: {ids[0][:100]!r}{more}: {FILE} of the folder names it, and {why}")
    return known, said


def read(folder: Path) -> Plan:
    """The plan of a study's folder; raises EvalkitError where there is none."""
    try:
        values = parse_json((folder / FILE).read_text(encoding="utf-8"))
        found = Plan(**{**values, "jobs": [_job(job) for job in values["jobs"]]})
        texts = [found.study, found.title, found.python, found.cwd, *found.left_out.values()]
        texts += [text for of_cell in found.values.values() for text in of_cell.values()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a plan is made of texts and jobs")
        return found
    except (FileNotFoundError, NotADirectoryError) as e:
        raise EvalkitError(f"{folder} holds no study (no {FILE}); start one with `evalkit study run NAME`") from e
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise EvalkitError(
            f"{folder / FILE} is damaged, or a newer evalkit's; remove it and run the study again: what was made stays"
        ) from e


def _job(values: Mapping[str, Any]) -> Job:
    """A job of a plan's file; raises TypeError for what is none."""
    job = Job(**values)
    words = [job.id, job.cell, job.out, *job.argv, *job.needs]
    if not all(isinstance(word, str) for word in words) or type(job.gpus) is not int:
        raise TypeError("a job is made of words and a number")
    return job


def finished(folder: Path, job: Job) -> bool:
    """Whether the job has left a complete record.

    Args:
        folder: The study's folder.
        job: One of its jobs.
    """
    path = folder / job.out / results.FILE
    return path.is_file() and any(record["complete"] for record in results.scan([path])[0])


def state(folder: Path, job: Job) -> Mapping[str, Any]:
    """How the job stands: {"state": "done" | "failed" | "stopped" | "running" | "waiting", ...}.

    Args:
        folder: The study's folder.
        job: One of its jobs.
    """
    if finished(folder, job):
        return {"state": "done"}
    try:
        found = parse_json((folder / "jobs" / f"{job.id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("state"), str):
        return {"state": "waiting"}
    if found["state"] == "done":
        return {"state": "failed", "message": f"its record, {folder / job.out / results.FILE}, is gone or damaged"}
    return found
