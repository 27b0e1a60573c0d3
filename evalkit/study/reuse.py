"""Trainings and evaluations that were made before, taken into a study in place of its own: only where recipe, seed,
data and protocol version are the same, and named."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import fingerprint, results
from ..errors import EvalkitError
from ..files import parse_json
from . import plan

META = "last/meta.json"  # of a training, with the fingerprints of its images
SETTLED = ("auto", "cpu")  # of augment_device: what a run on a CPU has made of it


@dataclass(frozen=True)
class Identity:
    """What a training's numbers follow from.

    Args:
        settings: keys of the recipe that can move a number, the seed among them.
        train: fingerprint of the training images.
        val: fingerprint of those that it validates on.
        version: of the protocol that measures accuracy.
    """

    settings: dict[str, Any]
    train: str
    val: str
    version: int


def take(folder: Path, made: plan.Plan, dirs: Sequence[Path], identity: Callable[[plan.Job], Identity]) -> list[str]:
    """Link what `dirs` hold of the plan's jobs into the study's folder; a sentence for each.

    Args:
        folder: of the study.
        made: its plan.
        dirs: run folders, study folders, or folders that hold some.
        identity: of a training job of the plan; may be slow, so it is asked only for trainings that are missing.

    Raises EvalkitError for a folder that is not there.
    """
    known = list(_trainings(dirs))
    said = []
    for job in made.jobs:
        if job.argv[0] != "train" or (folder / job.out).exists():
            continue
        wanted = identity(job)
        run = next((run for run, record in known if _same(run, record, wanted)), None)
        if run is None:
            continue
        said.append(_link(folder, job, run))
        for other in made.of_cell(job.cell)[1:]:
            found = _evaluation(run, other)
            if found is not None and not (folder / other.out).exists():
                said.append(f"{_link(folder, other, found)} (its images were not compared with those of now)")
    return said


def changed(folder: Path, made: plan.Plan, identity: Callable[[plan.Job], Identity]) -> list[str]:
    """A sentence for each training that is there already and whose images could not be compared with those of now, and
    one for the evaluations that are, whose images are not compared.

    Args:
        folder: of the study.
        made: its plan.
        identity: as `take` is given it.

    Raises EvalkitError for a training of other images than those that its recipe names now: what is still to be trained
    would stand beside it in one table.
    """
    said = []
    for job in made.jobs:
        meta = folder / job.out / META
        if job.argv[0] != "train" or not plan.finished(folder, job) or not meta.is_file():
            continue
        try:
            wanted = identity(job)
        except EvalkitError as e:
            said.append(f"{job.id}: whether its images are those of now is not known: {e}")
            continue
        try:
            known = parse_json(meta.read_text(encoding="utf-8"))["data"]
            pairs = [(known["fingerprint"], wanted.train), (known["val_fingerprint"], wanted.val)]
            same = [fingerprint.same(theirs, ours) for theirs, ours in pairs]
        except (OSError, ValueError, KeyError, TypeError):
            same = [None]
        if False in same:
            what = "training" if same[0] is False else "validation"
            raise EvalkitError(
                f"{folder / job.out} is finished, but the {what} images are not those that it was made with; give back"
                " the images of before, or choose another --out"
            )
        if None in same:
            said.append(
                f"{job.id}: whether its images are those of now is not known: it has another kind of fingerprint"
            )
    evaluations = [job for job in made.jobs if job.argv[0] != "train" and plan.finished(folder, job)]
    if evaluations:
        said.append(
            f"{len(evaluations)} finished evaluations, {evaluations[0].id} the first, stay as they are: their images"
            " were not compared with those of now; remove the folder of one to measure it again"
        )
    return said


def _trainings(dirs: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for record in results.scan(dirs)[0] if dirs else []:
        if record["task"] == "train" and record["complete"] and record["weights"] == "raw":
            yield Path(record["_dir"]), record


def _same(run: Path, record: dict[str, Any], wanted: Identity) -> bool:
    """Whether a training is the wanted one; its weights must be there too, for the evaluations."""
    try:
        meta = parse_json((run / META).read_text(encoding="utf-8"))["data"]
        images = [(meta["fingerprint"], wanted.train), (record["data"]["fingerprint"], wanted.val)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return (
        record["version"] == wanted.version
        and all(fingerprint.same(theirs, ours) for theirs, ours in images)
        and all(_equal(record["config"].get(key), value) for key, value in wanted.settings.items())
        and (run / "last" / "model.safetensors").is_file()
    )


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
