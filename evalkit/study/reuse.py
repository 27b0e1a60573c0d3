"""Trainings and evaluations that were made before: those of a study itself, which must be of the images and weights
that are there now, and those of elsewhere, taken in place of its own only where settings, images, weights and protocol
version are the same, and named."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import results
from ..config import read as read_recipe
from ..errors import EvalkitError
from . import plan
from .identity import NAMED, Compared, Identity, compare, equal, record_of, same_settings


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
    found_in = {given: list(_trainings(given)) for given in dirs}
    known = [training for found in found_in.values() for training in found]
    taken, said, used_runs = [], Said(), set()
    missing = [job for job in made.jobs if job.argv[0] == "train" and not (folder / job.out).exists()]
    for job in missing:
        same = list(_same(known, identity(job)))
        if not same:
            continue
        taken.append(_link(folder, job, same[0][0]))
        used_runs.add(same[0][0])
        if same[0][1].remark:
            said.add(job, same[0][1].remark)
        for other in made.of_cell(job.cell)[1:]:
            if (folder / other.out).exists():
                continue
            for run, _ in same:
                if (found := _evaluation(run, other)) is None:
                    continue
                why, remark = _obstacle(found, other, identity)
                if why:
                    said.add(other, f"made before, and not used: {why}")
                    continue
                taken.append(_link(folder, other, found))
                used_runs.add(run)
                if remark:
                    said.add(other, remark)
                break
    idle = [
        f"nothing is used of {given}: none of its {len(found)} finished trainings has the settings, images, seed and"
        " version of one that is missing here"
        for given, found in found_in.items()
        if missing and not any(run in used_runs for run, _ in found)
    ]
    return [*taken, *idle, *said.lines()]


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
        record = record_of(folder / job.out)
        if record is None:
            _goes_on(folder / job.out, job, identity)
            continue
        anew = [other for other in made.jobs if other.id in job.needs and not plan.finished(folder, other)]
        if anew:
            run = folder / anew[0].out
            damaged = (run / results.FILE).exists()
            what = (
                f"the record of that training, {run / results.FILE}, is damaged" if damaged else f"{run} is not there"
            )
            raise EvalkitError(
                f"{folder / job.out} is finished, but the weights that it measured would be trained anew, since {what};"
                f" give it back, or remove {folder / job.out} to measure again"
            )
        try:
            wanted = identity(job)
        except EvalkitError as e:
            said.add(job, f"whether its images are those of now is not known: {e}")
            continue
        same_settings(f"{folder / job.out} is finished", record["config"], wanted)
        compared = compare(folder / job.out, record, wanted)
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
        same_settings(f"{out} was begun", config, wanted)


def _obstacle(found: Path, job: plan.Job, identity: Callable[[plan.Job], Identity]) -> tuple[str, str]:
    """(why results made before do not stand for an evaluation of the plan, or "", what must be known of them)."""
    record = record_of(found)
    if record is None:
        return "it is not complete", ""
    try:
        wanted = identity(job)
    except EvalkitError as e:
        return f"whether its images are those of now is not known: {e}", ""
    odd, unsure, remark = compare(found, record, wanted)
    if odd:
        return f"its {', '.join(odd[:NAMED])} are others than now", ""
    if unsure:
        return f"whether its images are those of now is not known: {unsure}", ""
    if record["version"] != wanted.version:
        return f"it is of version {record['version']} of {record['protocol']}, which is {wanted.version} now", ""
    other = [key for key, value in wanted.settings.items() if not equal(record["config"].get(key), value)]
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
        compared = compare(run, record, wanted)
        if (
            not compared.odd
            and not compared.unsure
            and record["version"] == wanted.version
            and all(equal(record["config"].get(key), value) for key, value in wanted.settings.items())
            and (run / "last" / "model.safetensors").is_file()
        ):
            yield run, compared


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
    if path.is_symlink():  # to what is gone
        path.unlink()
    path.symlink_to(found.resolve(), target_is_directory=True)
    return f"used: {job.id}: {found}"


def used(folder: Path, made: plan.Plan) -> list[str]:
    """A sentence for each result of a study that was taken from elsewhere.

    Args:
        folder: of the study.
        made: its plan.
    """
    links = [
        (job.id, folder / job.out)
        for job in made.jobs
        if (folder / job.out).is_symlink() and (folder / job.out).exists()
    ]
    return [f"Used, not made by this study: {id}: {path.resolve()}." for id, path in links]
