"""What the numbers of a study's job follow from, and whether what was measured before still is of that."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import fingerprint, results
from ..errors import EvalkitError
from ..files import parse_json

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


def record_of(out: Path) -> dict[str, Any] | None:
    """The newest complete record of a job, None where it is not finished."""
    path = out / results.FILE
    complete = [r for r in results.scan([path])[0] if r["complete"]] if path.is_file() else []
    return complete[-1] if complete else None


def compare(out: Path, record: Mapping[str, Any], wanted: Identity) -> Compared:
    """What a job's record says of images and weights beside those of now.

    Args:
        out: The job's folder.
        record: Of the job.
        wanted: What it would be now.
    """
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


def same_settings(what: str, config: Mapping[str, Any], wanted: Identity) -> None:
    """Raise EvalkitError where settings are not those of now: a recipe's file was edited, or is another evalkit's. Of
    keys that are newer than the run, or that the command settles by itself, nothing is known.

    Args:
        what: Begins the error.
        config: The settings of a run.
        wanted: What they would be.
    """
    other = [k for k, v in wanted.settings.items() if k in config and v != "auto" and not equal(config[k], v)]
    if other:
        raise EvalkitError(
            f"{what}, but with another {', '.join(other[:NAMED])} than the recipe has now; give back the one of before,"
            f" or choose another --out"
        )


def equal(theirs: Any, ours: Any) -> bool:
    """Whether two values of a key are the same.

    Args:
        theirs: Of a run.
        ours: Of the recipe.
    """
    return json.dumps(theirs, sort_keys=True) == json.dumps(ours, sort_keys=True) or (ours, theirs) == SETTLED


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
