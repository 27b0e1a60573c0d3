"""Results on disk: every run appends one JSON line to `results.jsonl` that says what was measured and how the number
was made (see `evalkit.records`)."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import EvalkitError
from .files import append as append_line
from .files import locked, sync_folder
from .records import DATA_KEYS, Record, check, make_record, plain, settings, upgraded

__all__ = ["FILE", "append", "check", "latest", "make_record", "read", "scan", "settings"]

#: The file of a folder that holds its records, one a line.
FILE = "results.jsonl"


def append(out_dir: str | Path, record: Mapping[str, Any]) -> bool:
    """Append a record to results.jsonl as one line, in one write, and force it to disk. Returns False, and adds
    nothing, where the file has this record but for how long it took and on what it was computed: the same command
    again, or twice at once. Safe for several processes at once; a crash in the middle can lose this line only, and a
    full disk leaves none of it. Raises EvalkitError where the folder cannot be written, ValueError for a bad record.

    Args:
        out_dir: The folder of results.jsonl, made where it is not there.
        record: The record.
    """
    check(record)
    path = Path(out_dir) / FILE
    line = json.dumps(plain(record), sort_keys=True, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            alone = locked(fd, wait=True)  # on a file system without locks, O_APPEND alone keeps the lines whole
            if _holds(path, record):
                return False
            size = os.fstat(fd).st_size
            # a crash left half a line: close it, so that this record stands on its own
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line
            append_line(fd, line, alone)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(path.parent)
    except OSError as e:
        raise EvalkitError(
            f"cannot write {path}: {e.strerror or e}; free some space or choose another output folder with --out"
        ) from e
    return True


def _holds(path: Path, record: Mapping[str, Any]) -> bool:
    def measured(r: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in r.items() if k not in ("_dir", "seconds", "environment")}

    wanted = json.loads(json.dumps(measured(plain(record))))
    return any(measured(r) == wanted for r in scan([path])[0])


def scan(dirs: Iterable[str | Path]) -> tuple[list[Record], list[str]]:
    """Every readable record below `dirs`, in order of folder and line, each with its folder as "_dir"; and one sentence
    per line that could not be read. Raises EvalkitError for a folder that is missing or holds no results."""
    records, problems, seen = [], [], set()
    for folder in map(Path, dirs):
        if not folder.exists():
            raise EvalkitError(
                f"{folder} does not exist; give a folder that `evalkit train`, `evalkit eval` or `evalkit robustness`"
                " wrote with --out"
            )
        files = [folder] if folder.is_file() else sorted(folder.rglob(FILE))
        if not files:
            raise EvalkitError(
                f"no {FILE} below {folder}; run `evalkit train`, `evalkit eval` or `evalkit robustness` with --out"
                f" {folder} first"
            )
        for path in files:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line, parse_constant=lambda _: None)
                    if not isinstance(record, dict):
                        raise ValueError("it is not a record")
                    check(record)
                except (ValueError, RecursionError) as e:
                    broken = isinstance(e, json.JSONDecodeError | UnicodeDecodeError)
                    e = ValueError("it is nested too deep") if isinstance(e, RecursionError) else e
                    problems.append(
                        f"{path}, line {number} was skipped:"
                        f" {'not valid JSON, as a crash while writing leaves it' if broken else e}"
                    )
                    continue
                records.append(upgraded(record) | {"_dir": str(path.parent)})
    return records, problems


def read(dirs: Iterable[str | Path]) -> list[Record]:
    """Every readable record below `dirs` with its folder as "_dir"; a line that cannot be read is skipped with a
    warning. Raises as `scan` does."""
    records, problems = scan(dirs)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return records


def latest(records: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records without those that a later one of the same task, protocol, run, checkpoint, data and settings
    supersedes, in order of first appearance. A training run is known by its settings alone: its checkpoint changes when
    it goes on."""
    kept: dict[str, Record] = {}
    for record in records:
        names = ["task", "protocol", "label", "model", "method", "weights", "seed"]
        if record["task"] != "train":
            names.append("checkpoint_sha256")
        identity = [*(record[name] for name in names), *(record["data"][k] for k in DATA_KEYS), settings(record)]
        kept[json.dumps(identity, sort_keys=True)] = dict(record)
    return list(kept.values())
