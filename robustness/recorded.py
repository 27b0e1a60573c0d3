"""What a record keeps of each image: the ids, and the metrics as functions of how often each image counts."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from evalkit import accuracy, bootstrap
from evalkit.errors import EvalkitError
from evalkit.protocols import Protocol

from . import store
from .about import PROTOCOLS
from .protocol import Outcome, by_id

Record = dict[str, Any]


def outcome_of(record: Record, transfers: Mapping[str, Protocol] = MappingProxyType({})) -> tuple[np.ndarray, Outcome]:
    """(ids in order, outcome) of a record, from its per-sample records; raises EvalkitError where they are gone.

    Args:
        record: The record.
        transfers: The transfers by name, which the command line knows.
    """
    if record["task"] == "transfer":
        return _transferred(record, transfers)
    if record["task"] in ("eval", "train"):
        return _predicted(record)
    found = store.read(Path(record["_dir"]) / record["records"]) if record["records"] else None
    outcome = store.evaluated(PROTOCOLS[record["protocol"]], found[0]) if found else None
    if found is None or outcome is None:
        raise EvalkitError(
            f"the per-sample records of {record['label']} ({record['protocol']}, in {record['_dir']}) are gone or"
            " damaged; evaluate it again"
        )
    return by_id(found[0])["ids"], outcome


def _predicted(record: Record) -> tuple[np.ndarray, Outcome]:
    """The same of a record of accuracy, from its predictions."""
    path = Path(record["_dir"]) / accuracy.PREDICTIONS
    ids, correct = accuracy.read_predictions(path) if record["task"] == "eval" else (np.zeros(0), np.zeros(0))
    if len(ids) != record["n"] or abs(correct.mean() - record["metrics"]["top1"]) > 1e-9:
        raise EvalkitError(
            f"{path} does not hold the predictions of {record['label']} on {record['data']['name']}; measure it again"
            " with `evalkit eval`, into a folder of its own"
        )
    statistics = [bootstrap.Means({"top1": correct})]
    return ids, Outcome(len(ids), statistics[0].values, {}, statistics=statistics)


def _transferred(record: Record, transfers: Mapping[str, Protocol]) -> tuple[np.ndarray, Outcome]:
    """The same of a transfer, from what it kept of each image."""
    task, folder = record["protocol"], record["_dir"]
    again = f"measure it again by `evalkit transfer {task}`, a finished run by its --resume {folder}"
    if record["records"] is None:
        raise EvalkitError(f"{task} of {record['label']} in {folder} keeps nothing of its images; {again}")
    path = Path(folder) / record["records"]
    try:
        ids, statistics = transfers[task].load().per_image(path)
        values = {name: value for s in statistics for name, value in s.values.items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as e:
        raise EvalkitError(f"{path} is missing or damaged; {again}") from e
    known = {name: v for name, v in record["metrics"].items() if name in values and v is not None}
    if len(ids) != record["n"] or any(not abs(values[name] - v) < 1e-9 for name, v in known.items()):
        raise EvalkitError(f"{path} is not of the numbers that {folder} records; {again}")
    return ids, Outcome(len(ids), values, {}, statistics=statistics)
