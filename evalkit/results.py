"""Results on disk: every run appends one JSON line to `results.jsonl` that says what was measured and how the number
was made."""

import contextlib
import fcntl
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EvalkitError, suggest
from .files import sync_folder

SCHEMA = 1
MAX_DEPTH, LARGEST = 16, 1e300
FILE = "results.jsonl"

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "task": str,  # train | eval | transfer | robustness
    "protocol": str,  # accuracy | seg | det | the name of a robustness protocol
    "version": (int, str),  # of the protocol; raised whenever a number can move
    "model": str,
    "method": (str, type(None)),
    "label": str,  # how tables and figures name the run
    "checkpoint_sha256": (str, type(None)),
    "weights": str,  # raw | ema
    "data": dict,  # name, fingerprint, split
    "n": int,  # samples behind the metrics
    "metrics": dict,  # name -> fraction in [0, 1] (or the metric's own unit); null = not defined, see `undefined`
    "undefined": dict,  # name -> why that metric is null
    "standard_errors": dict,  # name -> standard error over samples
    "intervals": dict,  # name -> [low, high], 95 % over samples; records of evalkit 0.1.0 do not hold this field
    "seed": (int, type(None)),
    "config": dict,
    "environment": dict,
    "seconds": (int, float, type(None)),
    "complete": bool,
    "published_protocol": bool,
    "records": (str, type(None)),  # per-sample records, a file name relative to the folder of results.jsonl
    "series": (list, type(None)),
    "notes": list,
}
_DATA_KEYS = ("name", "fingerprint", "split")

# Keys of a config that say where, how fast or under which name a run was computed. They move no number (but its last
# bits), and what they point at (data, weights) is in the record by name and fingerprint.
_EXECUTION_KEYS = {
    "label",
    "data_dir",
    "workers",
    "device",
    "threads",
    "keep",
    "checkpoint_minutes",
    "checkpoint_steps",
    "log_steps",
}
_EVALUATION_KEYS = _EXECUTION_KEYS | {"data", "id_data", "val_labels", "out", "model", "model_args", "weights"}
_EVALUATION_KEYS |= {"batch_size", "forward_batch", "on_error", "allow_partial"}


def make_record(
    *,
    task: str,
    protocol: str,
    version: int | str,
    model: str,
    method: str | None,
    label: str,
    checkpoint_sha256: str | None,
    weights: str,
    data: Mapping[str, Any],
    n: int,
    metrics: Mapping[str, float | None],
    undefined: Mapping[str, str] | None = None,
    standard_errors: Mapping[str, float | None] | None = None,
    intervals: Mapping[str, Sequence[float]] | None = None,
    seed: int | None = None,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    seconds: float | None,
    complete: bool,
    published_protocol: bool,
    records: str | None = None,
    series: Sequence[Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """A checked record of one measurement, plain JSON types only. Metrics are fractions; a non-finite one becomes None
    with its reason in `undefined` (a general one where none is given). Raises ValueError for a field of the wrong type
    or a reason or error for an unknown metric."""
    fields = dict(locals())
    record = {"schema": SCHEMA, **_plain(fields)}
    record["undefined"] = record["undefined"] or {}
    record["intervals"] = record["intervals"] or {}
    record["standard_errors"] = {k: v for k, v in (record["standard_errors"] or {}).items() if v is not None}
    for name, value in metrics.items():
        if record["metrics"][name] is None:
            record["undefined"].setdefault(
                name, "not defined for these data" if value is None else f"the computed value was {float(value)}"
            )
    check(record)
    return record


def check(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless `record` has exactly the fields of the schema, each of its type (`intervals` may be
    missing)."""
    for key in record:
        if key not in _FIELDS:
            raise ValueError(f"unknown field '{key}' in a results record.{suggest(key, _FIELDS)}")
    for key, kind in _FIELDS.items():
        if key not in record:
            if key == "intervals":
                continue
            raise ValueError(f"a results record needs the field '{key}'")
        value = record[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(
                f"Expected field `{key}` of a results record to be {_kind_name(kind)}, but got {_short(value)}"
            )
    if record["schema"] != SCHEMA:
        raise ValueError(f"results schema {record['schema']} is not {SCHEMA}, the one this version of evalkit reads")
    for key in _DATA_KEYS:
        if not isinstance(record["data"].get(key), str):
            raise ValueError(
                f"Expected field `data` of a results record to hold the strings {', '.join(_DATA_KEYS)}, but {key} is"
                f" {record['data'].get(key)!r}"
            )
    _check_content(record)
    for key, value in record["metrics"].items():
        if value is None and key not in record["undefined"]:
            raise ValueError(f"metric `{key}` is null without a reason in `undefined`")
    for field in ("undefined", "standard_errors", "intervals"):
        for key in record.get(field, ()):
            if key not in record["metrics"]:
                raise ValueError(f"`{field}` names '{key}', which is not a metric.{suggest(key, record['metrics'])}")


def _check_content(record: Mapping[str, Any]) -> None:
    """Raise ValueError for what readers of records could not work with: nested too deep, numbers out of all bounds,
    values of other types than tables and figures show."""
    if _depth(record) > MAX_DEPTH:
        raise ValueError(f"a results record is nested {MAX_DEPTH} deep at most, but this one is deeper")
    numbers = {f: record.get(f, {}) for f in ("metrics", "standard_errors")}
    numbers |= {f"series {i}": row for i, row in enumerate(record["series"] or []) if isinstance(row, Mapping)}
    for field, values in numbers.items():
        for key, value in values.items():
            if not (_is_number(value) or value is None or (field not in _FIELDS and isinstance(value, str))):
                raise ValueError(
                    f"Expected {field.removesuffix('s')} `{key}` to be a number or null, but got {_short(value)}"
                )
    kinds: dict[str, Callable[[Any], bool]] = {
        "notes": lambda v: all(isinstance(note, str) for note in v),
        "undefined": lambda v: all(isinstance(why, str) for why in v.values()),
        "series": lambda v: all(isinstance(row, Mapping) for row in v or []),
        "intervals": lambda v: all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(x is None or _is_number(x) for x in pair)
            for pair in v.values()
        ),
        "n": lambda v: 0 <= v < 2**63,
        "seconds": lambda v: v is None or _is_number(v),
    }
    for field, fits in kinds.items():
        if field in record and not fits(record[field]):
            raise ValueError(f"field `{field}` of a results record holds values of another type than such a field does")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _depth(value: Any, above: int = 0) -> int:
    """How deep containers are nested; stops just beyond MAX_DEPTH."""
    if not isinstance(value, Mapping | list | tuple) or above > MAX_DEPTH:
        return above
    inner = value.values() if isinstance(value, Mapping) else value
    return max((_depth(v, above + 1) for v in inner), default=above + 1)


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "a number of more than 300 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def append(out_dir: str | Path, record: Mapping[str, Any]) -> None:
    """Append `record` to `out_dir`/results.jsonl as one line, in one write, and force it to disk. Safe for several
    processes at once; a crash in the middle can lose this line only. Raises EvalkitError where the folder cannot be
    written, ValueError for a bad record."""
    check(record)
    path = Path(out_dir) / FILE
    line = json.dumps(_plain(record), sort_keys=True, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: O_APPEND alone keeps the lines whole
                fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.fstat(fd).st_size
            # a crash left half a line: close it, so that this record stands on its own
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(path.parent)
    except OSError as e:
        raise EvalkitError(f"cannot write {path}: {e.strerror or e}; choose another output folder with --out") from e
    if written != len(line):
        raise EvalkitError(f"cannot write {path}: no space left for the whole record; free some space and run again")


def holds(out_dir: str | Path, record: Mapping[str, Any]) -> bool:
    """Whether `out_dir`/results.jsonl has this record already, but for how long it took and on what it was
    computed."""
    if not (Path(out_dir) / FILE).exists():
        return False

    def measured(r: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in r.items() if k not in ("_dir", "seconds", "environment")}

    wanted = json.loads(json.dumps(measured(_plain(record))))
    return any(measured(r) == wanted for r in scan([Path(out_dir) / FILE])[0])


def scan(dirs: Iterable[str | Path]) -> tuple[list[dict[str, Any]], list[str]]:
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
                records.append(record | {"_dir": str(path.parent)})
    return records, problems


def read(dirs: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Every readable record below `dirs` with its folder as "_dir"; a line that cannot be read is skipped with a
    warning. Raises as `scan` does."""
    records, problems = scan(dirs)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return records


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record's config that can move a number."""
    ignored = _EXECUTION_KEYS if record["task"] in ("train", "transfer") else _EVALUATION_KEYS
    return {k: v for k, v in record["config"].items() if k not in ignored}


def latest(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records without those that a later one of the same task, protocol, run, checkpoint, data and settings
    supersedes, in order of first appearance. A training run is known by its settings alone: its checkpoint changes when
    it goes on."""
    kept: dict[str, dict[str, Any]] = {}
    for record in records:
        fields = ["task", "protocol", "label", "model", "method", "weights", "seed"]
        if record["task"] != "train":
            fields.append("checkpoint_sha256")
        identity = [*(record[f] for f in fields), *(record["data"][k] for k in _DATA_KEYS), settings(record)]
        kept[json.dumps(identity, sort_keys=True)] = dict(record)
    return list(kept.values())


def _kind_name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if k is type(None) else k.__name__ for k in kinds)


def _plain(value: Any) -> Any:
    """`value` in JSON's types: NumPy scalars and arrays, tuples and paths converted, non-finite numbers to None;
    float64 keeps every bit."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
