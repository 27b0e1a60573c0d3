"""Trainings and evaluations that were made before: those of a study itself, which must be of the images and weights
that are there now, and those of elsewhere, taken in place of its own only where settings, images, weights and protocol
version are the same, and named."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import fingerprint, results
from ..config import read as read_recipe
from ..errors import EvalkitError
from ..files import parse_json
from . import plan

META = "last/meta.json"  # of a training, with the fingerprints of its images
SETTLED = ("auto", "cpu")  # of augment_device: what a run on a CPU has made of it
WORDS = {"train": "training images", "val": "validation images", "data": "images"}  # what is read, by its role
NAMED = 3  # of what differs, in an error


@dataclass(frozen=True)
class Identity:
    """What the numbers of a job follow from.

    Args:
        settings: Keys that can move a number, the seed among them, that are not left to the command to settle.
        sets: Role -> fingerprint of the images that it reads, and of whatever else.
        version: Of the protocol that measures.
        weights: sha256 of the weights that an evaluation takes; None: of a training, or not known.
    """

    settings: dict[str, Any]
    sets: Mapping[str, str]
    version: int
    weights: str | None = None


class Compared(NamedTuple):
    """A finished job beside what it would be now.

    Args:
        odd: What is not the same.
        unsure: Why that is not known of something; "" where it is.
        remark: What a reader must know of what is the same; "" for nothing.
    """

    odd: list[str]
    unsure: str
    remark: str


class Said:
    """Sentences, each once with the jobs that it is of: a study has hundreds."""

    def __init__(self) -> None:
        self._of: dict[str, list[str]] = {}

    def add(self, job: plan.Job, text: str) -> None:
        text = text.replace(f"cells/{job.cell}/", "cells/CELL/")  # the same of every cell
        self._of.setdefault(text, []).append(job.id)

    def lines(self) -> list[str]:
        more = {text: f" and {len(ids) - 1} more" if len(ids) > 1 else "" for text, ids in self._of.items()}
        return [f"{ids[0]}{more[text]}: {text}" for text, ids in self._of.items()]


def take(folder: Path, made: plan.Plan, dirs: Sequence[Path], identity: Callable[[plan.Job], Identity]) -> list[str]:
    """Link what `dirs` hold of the plan's jobs into the study's folder; a sentence for each, and for evaluations that
    are not the same.

    Args:
        folder: of the study.
        made: its plan.
        dirs: run folders, study folders, or folders that hold some.
        identity: of a job of the plan; may be slow, so it is asked only for what is missing.

    Raises EvalkitError for a folder that is not there.
    """
    known = [training for given in dirs for training in _trainings(given)]
    taken, said = [], Said()
    for job in made.jobs:
        if job.argv[0] != "train" or (folder / job.out).exists():
            continue
        same = list(_same(known, identity(job)))
        if not same:
            continue
        taken.append(_link(folder, job, same[0][0]))
        if same[0][1].remark:
            said.add(job, same[0][1].remark)
        for other in made.of_cell(job.cell)[1:]:
            if (folder / other.out).exists():
                continue
            for found in filter(None, (_evaluation(run, other) for run, _ in same)):
                why, remark = _obstacle(found, other, identity)
                if why:
                    said.add(other, f"made before, and not used: {why}")
                    continue
                taken.append(_link(folder, other, found))
                if remark:
                    said.add(other, remark)
                break
    return [*taken, *said.lines()]


def changed(folder: Path, made: plan.Plan, identity: Callable[[plan.Job], Identity]) -> list[str]:
    """What must be known of the jobs that are finished, beside what they would read now.

    Args:
        folder: of the study.
        made: its plan.
        identity: as `take` is given it.

    Raises EvalkitError for a job that was made with other settings, images or weights than it would be now, or whose
    weights are gone, and for one that was begun with other settings: what is still to be made would stand beside it in
    one table.
    """
    said = Said()
    for job in made.jobs:
        record = _record(folder / job.out)
        if record is None:
            _goes_on(folder / job.out, job, identity)
            continue
        anew = [other for other in made.jobs if other.id in job.needs and not plan.finished(folder, other)]
        if anew:
            raise EvalkitError(
                f"{folder / job.out} is finished, but the weights that it measured, {folder / anew[0].out}, are not"
                f" there and would be trained anew; give them back, or remove {folder / job.out} to measure again"
            )
        try:
            wanted = identity(job)
        except EvalkitError as e:
            said.add(job, f"whether its images are those of now is not known: {e}")
            continue
        _same_settings(f"{folder / job.out} is finished", record["config"], wanted)
        compared = _compare(folder / job.out, record, wanted)
        if compared.odd:
            more = len(compared.odd) - NAMED
            what = ", ".join(compared.odd[:NAMED]) + (f" and {more} more" if more > 0 else "")
            again = "" if record["task"] == "train" else f" remove {folder / job.out} to measure again,"
            raise EvalkitError(
                f"{folder / job.out} is finished, but the {what} are not those that it was made with; give back those"
                f" of before,{again} or choose another --out"
            )
        if compared.unsure:
            said.add(job, f"whether its images are those of now is not known: {compared.unsure}")
        if compared.remark:
            said.add(job, compared.remark)
        if record["version"] != wanted.version:
            said.add(
                job,
                f"it was measured by version {record['version']} of {record['protocol']}, which is {wanted.version}"
                " now: the report keeps these numbers apart",
            )
    return said.lines()


def _goes_on(out: Path, job: plan.Job, identity: Callable[[plan.Job], Identity]) -> None:
    """Raise EvalkitError for a run that was begun with other settings than it would be now: it goes on with its own."""
    try:
        config = read_recipe(out / "config.yaml") if (out / "config.yaml").is_file() else {}
        wanted = identity(job) if config else None
    except EvalkitError:  # the job itself says what is wrong
        return
    if wanted is not None:
        _same_settings(f"{out} was begun", config, wanted)


def _same_settings(what: str, config: Mapping[str, Any], wanted: Identity) -> None:
    """Raise EvalkitError where settings are not those of now: a recipe's file was edited, or is another evalkit's. Of
    keys that are newer than the run, or that the command settles by itself, nothing is known."""
    other = [k for k, v in wanted.settings.items() if k in config and v != "auto" and not _equal(config[k], v)]
    if other:
        raise EvalkitError(
            f"{what}, but with another {', '.join(other[:NAMED])} than the recipe has now; give back the one of before,"
            f" or choose another --out"
        )


def _record(out: Path) -> dict[str, Any] | None:
    """The newest complete record of a job, None where it is not finished."""
    path = out / results.FILE
    complete = [r for r in results.scan([path])[0] if r["complete"]] if path.is_file() else []
    return complete[-1] if complete else None


def _compare(out: Path, record: Mapping[str, Any], wanted: Identity) -> Compared:
    """What a job's record says of images and weights beside those of now."""
    odd, unsure, remarks = [], [], []
    try:
        then = _sets(out, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Compared([], "its record has no fingerprints of them", "")
    for role in sorted({*then, *wanted.sets}):
        name = WORDS.get(role, role if " " in role else f"{role} data")
        if role not in then:
            unsure.append(f"its record has no fingerprint of the {name}")
            continue
        same = fingerprint.same(then[role], wanted.sets[role]) if role in wanted.sets else False
        if same is False:
            odd.append(name)
        elif same is None:
            unsure.append("it has another kind of fingerprint")
        elif remark := fingerprint.remark(wanted.sets[role]):
            remarks.append(f"its images are those of before, {remark}")
    sums = record["checkpoint_sha256"], wanted.weights
    if None not in sums and sums[0] != sums[1]:
        odd.append("weights")
    return Compared(odd, "; ".join(dict.fromkeys(unsure)), "; ".join(dict.fromkeys(remarks)))


def _sets(out: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Role -> fingerprint of what a record was made with. Raises OSError, ValueError, KeyError or TypeError where that
    is not known."""
    data = record["data"]
    if record["task"] == "train":
        meta = parse_json((out / META).read_text(encoding="utf-8"))
        found = training_sets(meta["data"]["fingerprint"], data["fingerprint"], meta)
    elif record["task"] == "transfer":
        found = {"train": data["train_fingerprint"], "val": data["fingerprint"]}
    else:
        found = {role: one["fingerprint"] for role, one in data["sets"].items()}
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError
    return found


def training_sets(train: str, val: str, helpers: Mapping[str, Any]) -> dict[str, str]:
    """Role -> fingerprint of what a training reads.

    Args:
        train: Fingerprint of its images.
        val: The same of those that it validates on.
        helpers: What it reads besides, as meta.json has it: teachers and init by name and sha256, maps by folder and
            fingerprint.
    """
    weights = {f"weights of teacher {name}": sha256 for name, sha256 in helpers.get("teachers", {}).items() if sha256}
    weights |= {f"weights of {name}": sha256 for name, sha256 in helpers.get("init", {}).items()}
    maps = {f"maps in {name}": known for name, known in helpers.get("maps", {}).items()}
    return {"train": train, "val": val, **{k: f"{fingerprint.FULL}:{v}" for k, v in weights.items()}, **maps}


def _obstacle(found: Path, job: plan.Job, identity: Callable[[plan.Job], Identity]) -> tuple[str, str]:
    """(why results made before do not stand for an evaluation of the plan, or "", what must be known of them)."""
    record = _record(found)
    if record is None:
        return "it is not complete", ""
    try:
        wanted = identity(job)
    except EvalkitError as e:
        return f"whether its images are those of now is not known: {e}", ""
    odd, unsure, remark = _compare(found, record, wanted)
    if odd:
        return f"its {', '.join(odd[:NAMED])} are others than now", ""
    if unsure:
        return f"whether its images are those of now is not known: {unsure}", ""
    if record["version"] != wanted.version:
        return f"it is of version {record['version']} of {record['protocol']}, which is {wanted.version} now", ""
    other = [key for key, value in wanted.settings.items() if not _equal(record["config"].get(key), value)]
    return (f"its {', '.join(other[:NAMED])} {'is' if len(other) == 1 else 'are'} not as now" if other else ""), remark


def _trainings(given: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The finished trainings below a folder, those that a study there has taken from elsewhere among them: it may have
    measured them itself."""
    links = sorted(path for path in given.rglob("*") if path.is_symlink() and (path / results.FILE).is_file())
    own = [given] if not links or any(given.rglob(results.FILE)) else []
    for record in [r for folder in (*own, *links) for r in results.scan([folder])[0]]:
        if record["task"] == "train" and record["complete"] and record["weights"] == "raw":
            yield Path(record["_dir"]), record


def _same(known: Sequence[tuple[Path, dict[str, Any]]], wanted: Identity) -> Iterator[tuple[Path, Compared]]:
    """The trainings that are the wanted one; their weights must be there too, for the evaluations."""
    for run, record in known:
        compared = _compare(run, record, wanted)
        if (
            not compared.odd
            and not compared.unsure
            and record["version"] == wanted.version
            and all(_equal(record["config"].get(key), value) for key, value in wanted.settings.items())
            and (run / "last" / "model.safetensors").is_file()
        ):
            yield run, compared


def _equal(theirs: Any, ours: Any) -> bool:
    return json.dumps(theirs, sort_keys=True) == json.dumps(ours, sort_keys=True) or (ours, theirs) == SETTLED


def _evaluation(run: Path, wanted: plan.Job) -> Path | None:
    """The results of the same evaluation of a training that another study made."""
    study = run.parent.parent.parent  # of cells/CELL/train
    try:
        jobs = plan.read(study).jobs
    except EvalkitError:
        return None
    of_training = {job.cell for job in jobs if (study / job.out).resolve() == run.resolve()}
    command = lambda job: [*job.argv[:2], *job.argv[3:]]  # noqa: E731 - without the path of the training
    for job in jobs:
        if job.cell in of_training and command(job) == command(wanted) and plan.finished(study, job):
            return study / job.out
    return None


def _link(folder: Path, job: plan.Job, found: Path) -> str:
    path = folder / job.out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(found.resolve(), target_is_directory=True)
    return f"used: {job.id}: {found}"


def used(folder: Path, made: plan.Plan) -> list[str]:
    """A sentence for each result of a study that was taken from elsewhere.

    Args:
        folder: of the study.
        made: its plan.
    """
    links = [(job.id, folder / job.out) for job in made.jobs if (folder / job.out).is_symlink()]
    return [f"Used, not made by this study: {id}: {path.resolve()}." for id, path in links]
