"""What a results record is: one measurement and how it was made, built in one place and checked against a schema."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import keys
from .errors import suggest
from .protocols import Protocol
from .record_content import check_content, short

Record = dict[str, Any]
SCHEMA = 2

# field -> its type, and what it is
_DESCRIBED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "schema": (int, "version of this list of fields"),
    "task": (str, "train, eval, transfer or robustness: which command measured"),
    "protocol": (str, "name of the protocol"),
    "version": ((int, str), "version of the protocol, raised whenever a number can move"),
    "model": (str, "architecture, by its timm or evalkit name, with the arguments that the command asked for"),
    "method": ((str, type(None)), "mixup of the training; null: unknown"),
    "label": (str, "how tables and figures name the run"),
    "checkpoint_sha256": ((str, type(None)), "sha256 of the weights file; null: there is none, as of a function"),
    "weights": (str, "raw, as the optimizer left them, or ema, their moving average"),
    "recipe": (
        (str, type(None)),
        "recipe whose settings the weights were trained by, whatever the seed and keys of execution; null: unknown",
    ),
    "data": (dict, "name, fingerprint and split of what was measured on"),
    "demonstration": (
        bool,
        "whether the data are an embedded set, which shows that a protocol works, no benchmark",
    ),
    "n": (int, "samples behind the metrics"),
    "metrics": (
        dict,
        "metric: its value, a fraction in [0, 1] or in the metric's own unit; null: not defined, `undefined` says why",
    ),
    "undefined": (dict, "metric: why it is null"),
    "standard_errors": (dict, "metric: its standard error over samples"),
    "intervals": (dict, "metric: [low, high], its 95 % interval over samples"),
    "seed": ((int, type(None)), "seed of the training or of the protocol's draws; null: nothing is drawn"),
    "config": (dict, "every key, as it was resolved"),
    "idle_keys": (list, "keys of config that move no number: they say where, how fast or under which name"),
    "environment": (dict, "versions, device, threads, commit"),
    "seconds": ((int, float, type(None)), "how long it took; null: not timed"),
    "complete": (bool, "whether all samples of the data were measured"),
    "published": (
        bool,
        "whether these are the published data, whole, by the published settings: published values may stand beside it",
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
    """The weights that were measured.

    Args:
        model: Name of the architecture.
        method: The mixup that it was trained with; None: unknown.
        label: How tables and figures name the run.
        sha256: Of the weights file.
        weights: raw | ema.
        recipe: Whose settings they were trained by, but for seed and execution; None: unknown.
    """

    model: str
    method: str | None
    label: str
    sha256: str | None
    weights: str = "raw"
    recipe: str | None = None


@dataclass(frozen=True)
class DataUsed:
    """The images that were measured on, as the code that opened them knows them.

    Args:
        name: How records name the set.
        fingerprint: SCHEME:DIGEST of the images and their labels.
        split: Which part of the set.
        demonstration: An embedded set.
        more: JSON values beside these in the record.
    """

    name: str
    fingerprint: str
    split: str
    demonstration: bool
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Numbers:
    """What was measured.

    Args:
        n: Samples behind the metrics.
        metrics: Metric -> a fraction, or a number in its own unit; NaN or None: not defined.
        undefined: Metric that is not defined -> why.
        standard_errors: Metric -> standard error over samples.
        intervals: Metric -> (low, high), 95 % over samples.
        series: Rows of what figures draw.
    """

    n: int
    metrics: Mapping[str, float | None]
    undefined: Mapping[str, str] = field(default_factory=dict)
    standard_errors: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    series: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Made:
    """How it was measured.

    Args:
        config: An instance of the class of its keys.
        environment: Versions and hardware.
        seconds: How long it took; None: not measured.
        complete: Whether nothing was missing.
        seed: Of what is drawn at random; None: nothing is.
        resolved: Keys that `config` left open, as they were settled.
        records: File of the per-sample records.
        notes: What a reader of the numbers should know, one sentence each.
    """

    config: Any
    environment: Mapping[str, Any]
    seconds: float | None
    complete: bool
    seed: int | None = None
    resolved: Mapping[str, Any] = field(default_factory=dict)
    records: str | None = None
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
        made: How it was measured.
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
                f"Expected field `{key}` of a results record to be {_kind_name(kind)}, but got {short(value)}"
            )
    for key in DATA_KEYS:
        if not isinstance(record["data"].get(key), str):
            raise ValueError(
                f"Expected field `data` of a results record to hold the strings {', '.join(DATA_KEYS)}, but {key} is"
                f" {record['data'].get(key)!r}"
            )
    check_content(record)
    for key, value in record["metrics"].items():
        if value is None and key not in record["undefined"]:
            raise ValueError(f"metric `{key}` is null without a reason in `undefined`")
    for name in ("undefined", "standard_errors", "intervals"):
        for key in record.get(name, ()):
            if key not in record["metrics"]:
                raise ValueError(f"`{name}` names '{key}', which is not a metric.{suggest(key, record['metrics'])}")
    if known is _FIELDS and record["published"] and (record["demonstration"] or not record["complete"]):
        raise ValueError("a demonstration or an incomplete measurement cannot be `published`")


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
