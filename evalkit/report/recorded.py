"""Each record behind a report: where it stands, the command that makes it again, and all that it says."""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import keys
from ..protocols import Protocols
from ..recipe_text import flow
from ..results import FILE
from .collect import Record, Row

CHECKPOINT = "CHECKPOINT"  # in a command: the weights' own path is in no record, their sha256 is


@dataclass(frozen=True)
class Recorded:
    """A record as a reader looks it up.

    Args:
        title: Row, protocol and data, with the settings that tell it from others.
        link: Relative address of its results.jsonl; "" where the page's own folder is not known.
        command: What makes it again.
        text: The record as JSON.
    """

    title: str
    link: str
    command: str
    text: str


def recorded(found: Iterable[tuple[Row, str, Record]], protocols: Protocols, folder: Path | None) -> list[Recorded]:
    """Every record of `found`.

    Args:
        found: A row, on which data and with which settings, and the record.
        protocols: All protocols, by name.
        folder: Where the page will lie; None: links are left out.
    """
    made = []
    for row, where, record in found:
        shown = {k: v for k, v in record.items() if k != "_dir"}
        link = "" if folder is None else os.path.relpath(Path(record["_dir"]) / FILE, folder).replace(os.sep, "/")
        title = f"{row.name}: {record['protocol']} on {where}"
        made.append(Recorded(title, link, command(record, protocols), json.dumps(shown, indent=1, sort_keys=True)))
    return made


def command(record: Record, protocols: Protocols, weights: str = CHECKPOINT) -> str:
    """The command line that makes a record again.

    Args:
        record: Of any task, as `evalkit.results` reads it.
        protocols: All protocols, by name.
        weights: What stands for the weights, of which the record has the sha256 alone.
    """
    if record["task"] == "train":
        return shlex.join(["evalkit", "train", str(Path(record["_dir"]) / "config.yaml")])
    verb = ["eval"] if record["task"] == "eval" else [record["task"], record["protocol"]]
    words = ["evalkit", *verb, weights]
    if record["task"] == "eval":
        words += ["--data", record["data"]["name"]]
    schema = protocols[record["protocol"]].config if record["protocol"] in protocols else None
    if schema is not None:
        known = keys.of(schema)
        given = {k: v for k, v in record["config"].items() if k in known and known[k].role != "execution"}
        words += [f"{k}={flow(v)}" for k, v in given.items() if v != keys.default(schema, k) and k != "out"]
    return shlex.join(words)
