"""Records sorted for comparison: which belong to one run, which runs are seeds of one row, which numbers may stand in
one column."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import fingerprint, results
from ..ordered import each_once

Record = dict[str, Any]


class Group(NamedTuple):
    """What makes numbers comparable: the same protocol and version on the same data with the same settings.

    Args:
        protocol: Its name.
        version: Of the protocol.
        data: Name of the data.
        fingerprint: Of the data.
        split: Which part of the data.
        settings: The config of an evaluation as JSON; empty for training, where the configs are what is compared.
    """

    protocol: str
    version: int | str
    data: str
    fingerprint: str
    split: str
    settings: str


class RunKey(NamedTuple):
    """What tells runs apart.

    Args:
        label: How tables name the run.
        model: Name of the architecture.
        method: The mixup that it was trained with, if known.
        weights: raw or ema.
        checkpoint: sha256 of the weights file; None: unknown.
    """

    label: str
    model: str
    method: str | None
    weights: str
    checkpoint: str | None


@dataclass
class Run:
    """One evaluated set of weights and everything measured on it.

    Args:
        key: What tells it apart.
        records: What was measured, by group.
    """

    key: RunKey
    records: dict[Group, Record] = field(default_factory=dict)

    @property
    def training(self) -> Record | None:
        """The record of the training that made these weights, if it is among the records."""
        return next((r for r in self.records.values() if r["task"] == "train"), None)


@dataclass
class Row:
    """A line of a table: one run, or several that differ in the training seed only.

    Args:
        name: As the table has it.
        runs: One, or one per seed.
    """

    name: str
    runs: list[Run]

    @property
    def model(self) -> str:
        return self.runs[0].key.model


def group_of(record: Record) -> Group:
    """What a record is of: protocol, data and settings; only records of one group share a column."""
    data = record["data"]
    settings = "" if record["task"] == "train" else json.dumps(results.settings(record), sort_keys=True)
    return Group(record["protocol"], record["version"], data["name"], data["fingerprint"], data["split"], settings)


def runs_of(records: Iterable[Record]) -> list[Run]:
    """One Run per set of weights, in order of first appearance."""
    runs: dict[RunKey, Run] = {}
    for r in records:
        key = RunKey(r["label"], r["model"], r["method"], r["weights"], r["checkpoint_sha256"])
        runs.setdefault(key, Run(key)).records[group_of(r)] = r
    return list(runs.values())


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """Runs of the same label whose training configs differ in nothing but the seed become one row; a run whose training
    is unknown stays alone."""
    sets: dict[tuple[Any, ...], list[Run]] = {}
    for i, run in enumerate(runs):
        training = run.training
        recipe: Any = i
        if training and training["complete"]:
            data = {k: training["data"][k] for k in ("name", "fingerprint")}
            recipe = json.dumps([results.settings(training) | {"seed": None}, data], sort_keys=True)
        sets.setdefault((*run.key[:4], recipe), []).append(run)
    rows = list(sets.values())
    return [Row(name, members) for name, members in zip(_names(rows), rows)]


def _names(rows: list[list[Run]]) -> list[str]:
    """The label of each row, with whatever tells rows of the same label apart."""
    names = []
    for row in rows:
        key = row[0].key
        same = [other[0] for other in rows if other[0].key.label == key.label]
        extra = []
        if len({run.key.model for run in same}) > 1:
            extra.append(key.model)
        if len({run.key.weights for run in same}) > 1:
            extra.append(key.weights)
        twins = [run for run in same if (run.key.model, run.key.weights) == (key.model, key.weights)]
        if len(twins) > 1:
            configs = [results.settings(run.training) if run.training else {} for run in twins]
            different = sorted(differing(configs)) if all(configs) else []
            mine = row[0].training["config"] if row[0].training else {}
            if 0 < len(different) <= 3:
                extra += [f"{k}={short_value(mine.get(k))}" for k in different if k != "seed" or len(row) == 1]
            else:
                extra.append(f"checkpoint {key.checkpoint[:8]}" if key.checkpoint else f"run {twins.index(row[0]) + 1}")
        if len(row) > 1:
            extra.append(f"{len(row)} seeds")
        names.append(f"{key.label} ({', '.join(extra)})" if extra else key.label)
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def groups_of(runs: Iterable[Run], order: Iterable[str]) -> list[Group]:
    """Every group that occurs, protocols in the given order (others last), then in order of appearance.

    Args:
        runs: The runs.
        order: Names of the protocols.
    """
    rank = {protocol: i for i, protocol in enumerate(order)}
    return sorted(each_once(g for run in runs for g in run.records), key=lambda g: rank.get(g.protocol, len(rank)))


def describe(group: Group, groups: Iterable[Group]) -> str:
    """The data set of a group and, where another group of the protocol uses the same data, what is different about this
    one.

    Args:
        group: The group.
        groups: All groups of the table.
    """
    siblings = [g for g in groups if (g.protocol, g.data) == (group.protocol, group.data)]
    parts = [group.data]
    if len({g.split for g in siblings}) > 1:
        parts.append(group.split)
    if len({g.version for g in siblings}) > 1:
        parts.append(f"protocol version {group.version}")
    if len({g.fingerprint for g in siblings}) > 1:
        parts.append(f"data {fingerprint.short(group.fingerprint, 8)}")
    if different := differing_settings(group, groups):
        parts.append(different)
    return " \N{MIDDLE DOT} ".join(parts)


def differing_settings(group: Group, groups: Iterable[Group]) -> str:
    """The settings of a group that tell it from others of its protocol and data; "" where there are none.

    Args:
        group: The group.
        groups: All groups of the table.
    """
    siblings = [g for g in groups if (g.protocol, g.data) == (group.protocol, group.data)]
    if len({g.settings for g in siblings}) < 2:
        return ""
    if not group.settings:
        return "validation of the training run"
    own = json.loads(group.settings)
    different = sorted(differing([json.loads(g.settings) if g.settings else {} for g in siblings]))
    return ", ".join(f"{k}={short_value(own.get(k))}" for k in different[:3])


def differing(configs: Iterable[dict[str, Any]]) -> set[str]:
    """The top-level keys whose values are not the same in all `configs`."""
    configs = list(configs)
    return {k for c in configs for k in c if len({json.dumps(other.get(k), sort_keys=True) for other in configs}) > 1}


def short_value(value: Any, length: int = 48) -> str:
    """A config value as it would be typed.

    Args:
        value: The value.
        length: The most characters.
    """
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
