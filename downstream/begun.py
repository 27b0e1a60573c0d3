"""What a transfer began with, in its folder: the weights, and fingerprints of images and truth."""

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import get_origin, get_type_hints

from evalkit import fingerprint
from evalkit.checkpoint import read_weights
from evalkit.errors import EvalkitError
from evalkit.models import check_arguments
from evalkit.runtime import parse_json, write_atomic

from .backbone import TIMM, Source
from .task import Data

SOURCE = "source.json"
DATA = "data.json"  # fingerprints of what was trained and measured on


def write(run: Path, source: Source, data: Data) -> None:
    """Keep it.

    Args:
        run: The run folder.
        source: The weights.
        data: The images.
    """
    write_atomic(run / SOURCE, lambda f: f.write(json.dumps(dataclasses.asdict(source), indent=1).encode()))
    write_atomic(run / DATA, lambda f: f.write(json.dumps(data.reads(), indent=1).encode()))


def source(run: Path) -> Source:
    """The weights that a run began with. Raises EvalkitError where that is missing or damaged."""
    try:
        found = Source(**parse_json((run / SOURCE).read_text(encoding="utf-8")))
        for name, kind in get_type_hints(Source).items():
            if not isinstance(getattr(found, name), kind if isinstance(kind, UnionType) else get_origin(kind) or kind):
                raise TypeError(name)
        check_arguments(found.model, found.model_args)
        return found
    except (OSError, ValueError, TypeError) as e:
        raise EvalkitError(
            f"{run} is not the folder of a transfer ({SOURCE} is missing or damaged); start again in another folder"
        ) from e


def same_weights(run: Path, source: Source) -> None:
    """Raise EvalkitError unless the weights that a run without a checkpoint begins with again are those it began with.

    Args:
        run: The run folder.
        source: The weights, as the run noted them.
    """
    if source.checkpoint in (None, TIMM):
        return
    if read_weights(source.checkpoint, source.weights)[2] != source.sha256:
        raise EvalkitError(
            f"the weights {source.checkpoint} are not those that {run} began with; put those back, or start again in"
            " another folder"
        )


def compare(run: Path, data: Data) -> list[str]:
    """Raise EvalkitError unless images and truth are those that the run began with; a sentence where that is not
    certain.

    Args:
        run: The run folder.
        data: What is there now.
    """
    try:
        known = parse_json((run / DATA).read_text(encoding="utf-8"))
        known = {split: str(known[split]) for split in ("train", "val")}
    except FileNotFoundError:
        return ["whether the data are those of before is not known: an earlier evalkit wrote the run"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EvalkitError(f"{run / DATA} is damaged; start again in another folder") from e
    said = []
    for split, now in data.reads().items():
        if fingerprint.same(known[split], now) is False:
            raise EvalkitError(
                f"the {split} images or their truth are not those that {run} began with; put those back, or start again"
                " in another folder"
            )
        remark = fingerprint.remark(now)
        said += [f"the {split} images and their truth are those of before, {remark}"] if remark else []
    return said
