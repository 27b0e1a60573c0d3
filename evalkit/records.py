"""What a results record is: one measurement and how it was made, built in one place and checked against a schema."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import keys
from .errors import suggest
from .protocols import Protocol

Record = dict[str, Any]
SCHEMA = 2
MAX_DEPTH, LARGEST = 16, 1e300

# field -> its type, and what it is
_DESCRIBED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "schema": (int, "of the record itself"),
    "task": (str, "train, eval, transfer or robustness: which command measured"),
    "protocol": (str, "name of the protocol"),
    "version": ((int, str), "of the protocol; raised whenever a number can move"),
    "model": (str, "architecture, by its timm or evalkit name"),
    "method": ((str, type(None)), "mixup of the training; null: unknown"),
    "label": (str, "how tables and figures name the run"),
    "checkpoint_sha256": ((str, type(None)), "of the weights file; null: there is none"),
    "weights": (str, "raw, as the optimizer left them, or ema, their moving average"),
    "recipe": (
        (str, type(None)),
        "whose settings the weights were trained by, but for seed and execution; null: unknown",
    ),
    "data": (dict, "name, fingerprint and split of what was measured on"),
    "demonstration": (bool, "the data are an embedded set, which shows that a protocol works and is no benchmark"),
    "n": (int, "samples behind the metrics"),
    "metrics": (
        dict,
        "name: fraction in [0, 1], or the metric's own unit; null: not defined, `undefined` says why",
    ),
    "undefined": (dict, "name: why that metric is null"),
    "standard_errors": (dict, "name: standard error over samples"),
    "intervals": (dict, "name: [low, high], 95 % over samples"),
    "seed": ((int, type(None)), "of the training or of the protocol's draws; null: nothing is drawn"),
    "config": (dict, "every key, as it was resolved"),
    "idle_keys": (list, "of the config, those that say where, how fast or under which name: they move no number"),
    "environment": (dict, "versions, device, threads, commit"),
    "seconds": ((int, float, type(None)), "that it took; null: not timed"),
    "complete": (bool, "all samples of the data were measured"),
    "published": (
        bool,
        "the published data, whole, by the published settings: published values may stand beside it",
    ),
    "assumed": (list, "what the published settings leave open, and what is taken for it"),
    "records": ((str, type(None)), "per-sample records, a file name relative to the folder of results.jsonl"),
    "series": ((list, type(None)), "points of curves: mode, level and a metric each"),
    "notes": (list, "whatever was resampled, skipped, replaced or defaulted, in sentences"),
}
_FIELDS = {name: kind for name, (kind, _) in _DESCRIBED.items()}
DATA_KEYS = ("name", "fingerprint", "split")

# Schema 1, of evalkit 0.1.0. What it did not record is None once it is read: nothing is guessed.
_SINCE_2 = ("recipe", "demonstration", "idle_keys", "published", "assumed")
_FIELDS_1 = {k: v for k, v in _FIELDS.items() if k not in _SINCE_2} | {"published_protocol": bool}
_IDLE_1 = ("label", "data_dir", "workers", "device", "threads", "keep", "checkpoint_minutes", "checkpoint_steps")
_IDLE_1 += ("log_steps",)
_IDLE_1_EVALUATION = ("data", "id_data", "val_labels", "out", "model", "model_args", "weights")
_IDLE_1_EVALUATION += ("batch_size", "forward_batch", "on_error", "allow_partial")


def fields() -> list[tuple[str, str, str]]:
    """(name, type in JSON's words, meaning) of every field of a record."""
    words = {int: "integer", float: "number", str: "text", bool: "true or false", dict: "object", list: "list"}
    words |= {type(None): "null"}
    found = []
    for name, (kind, meaning) in _DESCRIBED.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        found.append((name, " or ".join(words[k] for k in kinds), meaning))
    return found


@dataclass(frozen=True)
class Subject:
    """The weights that were measured."""

    model: str
    method: str | None
    label: str
    sha256: str | None  # of the weights file
    weights: str = "raw"  # raw | ema
    recipe: str | None = None  # whose settings they were trained by, but for seed and execution; None: unknown


@dataclass(frozen=True)
class DataUsed:
    """The images that were measured on, as the code that opened them knows them."""

    name: str
    fingerprint: str
    split: str
    demonstration: bool  # an embedded set
    more: Mapping[str, Any] = field(default_factory=dict)  # JSON values beside these in the record


@dataclass(frozen=True)
class Numbers:
    """What was measured over `n` samples. A metric is a fraction or in its own unit; one that is NaN or None is not
    defined, `undefined` says why."""

    n: int
    metrics: Mapping[str, float | None]
    undefined: Mapping[str, str] = field(default_factory=dict)
    standard_errors: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    series: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Made:
    """How it was measured. `config` is an instance of the class of its keys."""

    config: Any
    environment: Mapping[str, Any]
    seconds: float | None
    complete: bool
    seed: int | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)  # keys that `config` left open, as they were settled
    records: str | None = None  # file of the per-sample records
    notes: Sequence[str] = ()


def make_record(
    task: str,
    protocol: Protocol,
    subject: Subject,
    data: DataUsed,
    numbers: Numbers,
    made: Made,
    *,
    published: bool,
    assumed: Sequence[str] = (),
) -> Record:
    """A checked record of one measurement, plain JSON types only.

    Args:
        task: train | eval | transfer | robustness.
        protocol: Its description.
        subject: The weights.
        data: The images.
        numbers: The metrics. One that is not finite becomes None with its reason in `undefined`.
        made: How.
        published: Whether the data are the published ones, whole, and the settings the published ones.
        assumed: What the published settings leave open, and what is taken for it.

    Raises ValueError for a field of the wrong type, a metric that `protocol` does not describe, a reason or error for
    an unknown metric, and for a demonstration or an incomplete measurement that calls itself published.
    """
    undefined = dict(numbers.undefined)
    for name, value in numbers.metrics.items():
        protocol.metric(name)
        if value is None or not math.isfinite(value):
            undefined.setdefault(
                name, "not defined for these data" if value is None else f"the computed value was {float(value)}"
            )
    record = plain(
        {
            "schema": SCHEMA,
            "task": task,
            "protocol": protocol.name,
            "version": protocol.version,
            "model": subject.model,
            "method": subject.method,
            "label": subject.label,
            "checkpoint_sha256": subject.sha256,
            "weights": subject.weights,
            "recipe": subject.recipe,
            "data": {"name": data.name, "fingerprint": data.fingerprint, "split": data.split, **data.more},
            "demonstration": data.demonstration,
            "n": numbers.n,
            "metrics": numbers.metrics,
            "undefined": undefined,
            "standard_errors": numbers.standard_errors,
            "intervals": {k: protocol.metric(k).within(*pair) for k, pair in numbers.intervals.items()},
            "seed": made.seed,
            "config": asdict(made.config) | dict(made.resolved),
            "idle_keys": idle_keys(made.config),
            "environment": made.environment,
            "seconds": made.seconds,
            "complete": made.complete,
            "published": published,
            "assumed": assumed,
            "records": made.records,
            "series": numbers.series,
            "notes": made.notes,
        }
    )
    record["standard_errors"] = {k: v for k, v in record["standard_errors"].items() if v is not None}  # NaN is None now
    check(record)
    return record


def idle_keys(cfg: Any) -> list[str]:
    """The keys of a configuration that move no number (but its last bits), or that the record knows by itself."""
    return sorted(keys.named(type(cfg), "execution", "place", "bits"))


def check(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless `record` has exactly the fields of its schema, each of its type (`intervals` may be
    missing in schema 1)."""
    schema = record.get("schema", SCHEMA)
    if schema not in (1, SCHEMA):
        raise ValueError(f"results schema {schema!r} is none that this version of evalkit reads, 1 or {SCHEMA}")
    known = _FIELDS if schema == SCHEMA else _FIELDS_1
    for key in record:
        if key not in known:
            raise ValueError(f"unknown field '{key}' in a results record.{suggest(key, known)}")
    for key, kind in known.items():
        if key not in record:
            if key == "intervals" and known is _FIELDS_1:
                continue
            raise ValueError(f"a results record needs the field '{key}'")
        value = record[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(
                f"Expected field `{key}` of a results record to be {_kind_name(kind)}, but got {_short(value)}"
            )
    for key in DATA_KEYS:
        if not isinstance(record["data"].get(key), str):
            raise ValueError(
                f"Expected field `data` of a results record to hold the strings {', '.join(DATA_KEYS)}, but {key} is"
                f" {record['data'].get(key)!r}"
            )
    _check_content(record)
    for key, value in record["metrics"].items():
        if value is None and key not in record["undefined"]:
            raise ValueError(f"metric `{key}` is null without a reason in `undefined`")
    for name in ("undefined", "standard_errors", "intervals"):
        for key in record.get(name, ()):
            if key not in record["metrics"]:
                raise ValueError(f"`{name}` names '{key}', which is not a metric.{suggest(key, record['metrics'])}")
    if known is _FIELDS and record["published"] and (record["demonstration"] or not record["complete"]):
        raise ValueError("a demonstration or an incomplete measurement cannot be `published`")


def _check_content(record: Mapping[str, Any]) -> None:
    """Raise ValueError for what readers of records could not work with: nested too deep, numbers out of all bounds,
    values of other types than tables and figures show."""
    if _depth(record) > MAX_DEPTH:
        raise ValueError(f"a results record is nested {MAX_DEPTH} deep at most, but this one is deeper")
    numbers = {f: record.get(f, {}) for f in ("metrics", "standard_errors")}
    numbers |= {f"series {i}": row for i, row in enumerate(record["series"] or []) if isinstance(row, Mapping)}
    for part, values in numbers.items():
        for key, value in values.items():
            # a row of a series may hold words, and a list of numbers such as those of repeated runs
            members = value if part not in _FIELDS and isinstance(value, list) else [value]
            if not all(_is_number(v) or v is None or (part not in _FIELDS and isinstance(v, str)) for v in members):
                raise ValueError(
                    f"Expected {part.removesuffix('s')} `{key}` to be a number or null, but got {_short(value)}"
                )
    kinds: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("notes", "assumed", "idle_keys"), lambda v: all(isinstance(note, str) for note in v)),
        "undefined": lambda v: all(isinstance(why, str) for why in v.values()),
        "series": lambda v: all(isinstance(row, Mapping) for row in v or []),
        "intervals": lambda v: all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(x is None or _is_number(x) for x in pair)
            for pair in v.values()
        ),
        "n": lambda v: 0 <= v < 2**63,
        "seconds": lambda v: v is None or _is_number(v),
    }
    for name, fits in kinds.items():
        if name in record and not fits(record[name]):
            raise ValueError(f"field `{name}` of a results record holds values of another type than such a field does")


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


def upgraded(record: Mapping[str, Any]) -> Record:
    """A checked record with the fields of the newest schema; `schema` stays. What schema 1 does not hold is None."""
    if record["schema"] == SCHEMA:
        return dict(record)
    since = dict.fromkeys(_SINCE_2) | {"assumed": [], "idle_keys": _idle_1(record["task"], record["config"])}
    return {"intervals": {}} | {k: v for k, v in record.items() if k != "published_protocol"} | since


def _idle_1(task: str, names: Iterable[str]) -> list[str]:
    idle = _IDLE_1 if task in ("train", "transfer") else (*_IDLE_1, *_IDLE_1_EVALUATION)
    return sorted(set(names) & set(idle))


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record's config that can move a number."""
    return {k: v for k, v in record["config"].items() if k not in record["idle_keys"]}


def _kind_name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if k is type(None) else k.__name__ for k in kinds)


def plain(value: Any) -> Any:
    """`value` in JSON's types: NumPy scalars and arrays, tuples and paths converted, non-finite numbers to None;
    float64 keeps every bit."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
