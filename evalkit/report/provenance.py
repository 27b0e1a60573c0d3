"""How the numbers were made: protocol versions, data, seeds, checkpoints, settings, environments, and what is not as
published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import fingerprint, results
from ..ordered import each_once
from ..protocols import Protocols
from .collect import Group, Record, Row, describe, differing, differing_settings, groups_of, short_value
from .recorded import Recorded, recorded

DEMONSTRATION = "demonstration data, not a benchmark"
NOT_RECORDED = "not recorded"  # what a record of schema 1 does not say
MAX_NOTES = 40


@dataclass(frozen=True)
class Provenance:
    """How the numbers were made, as plain text, ready for any format.

    Args:
        remarks: What a reader must know first, one sentence each.
        head: Titles of the columns of `lines`.
        lines: One entry per record.
        notes: Each note with the records it is of.
        diff_names: The runs whose settings are compared.
        diff: (key, value of each run) per differing key.
        settings: (key, values) that the runs share.
        environments: Versions and hardware.
        records: Every record, with its command.
    """

    remarks: list[str]
    head: list[str]
    lines: list[list[str]]
    notes: list[str]
    diff_names: list[str]
    diff: list[tuple[str, list[str]]]
    settings: list[tuple[str, list[str]]]
    environments: list[str]
    records: list[Recorded] = field(default_factory=list)


def provenance(
    rows: Sequence[Row], problems: Sequence[str], protocols: Protocols, folder: Path | None = None
) -> Provenance:
    """How every record was made.

    Args:
        rows: The rows of the tables.
        problems: Lines of results.jsonl that could not be read.
        protocols: All protocols, by name.
        folder: Where the page will lie, for links to the records.
    """
    order = list(protocols)
    rank = lambda item: order.index(item[0].protocol) if item[0].protocol in order else len(order)  # noqa: E731
    found = [(row, *item) for row in rows for run in row.runs for item in sorted(run.records.items(), key=rank)]
    groups = groups_of([run for row in rows for run in row.runs], protocols)
    pairs = [(row, record) for row, _, record in found]
    diff_names, diff = _training_diff(rows)
    return Provenance(
        remarks=_remarks([r for _, r in pairs], protocols) + list(problems),
        head=["run", "protocol", "data", "images", "seed", "checkpoint", "weights", "time", "status", "deviations"],
        lines=[_line(*item, groups) for item in found],
        notes=_notes(pairs),
        diff_names=diff_names,
        diff=diff,
        settings=_settings(rows, protocols),
        environments=_environments(pairs),
        records=recorded([(row, describe(group, groups), r) for row, group, r in found], protocols, folder),
    )


def _line(row: Row, group: Group, r: Record, groups: Sequence[Group]) -> list[str]:
    known = fingerprint.short(r["data"]["fingerprint"])
    settings = differing_settings(group, groups) if group.settings else ""
    where = " ".join(dict.fromkeys(filter(None, (r["data"]["name"], r["data"]["split"]))))
    return [
        row.name,
        f"{r['protocol']} v{r['version']}"
        + (" (training)" if r["task"] == "train" else "")
        + (f", {settings}" if settings else ""),
        f"{where}, {known}",
        f"{r['n']:,}",
        "" if r["seed"] is None else str(r["seed"]),
        (r["checkpoint_sha256"] or "none")[:12],
        r["weights"],
        "" if r["seconds"] is None else f"{r['seconds']:,.0f} s",
        "complete" if r["complete"] else "incomplete",
        deviation(r),
    ]


def deviation(record: Record) -> str:
    """What keeps this record from being the published measurement, or what it assumes; empty where nothing does."""
    if record["published"] is None:
        return NOT_RECORDED
    if record["demonstration"]:
        return DEMONSTRATION
    if not record["published"]:
        return "not the published settings or data"
    return "; ".join(f"assumed {text}" for text in record["assumed"])


def _notes(pairs: Sequence[tuple[Row, Record]]) -> list[str]:
    """Each note and reason once, with the records it is of."""
    found: dict[str, dict[str, list[str]]] = {}
    for row, record in pairs:
        reasons = [f"{metric} is not defined: {reason}" for metric, reason in record["undefined"].items()]
        for text in [*record["notes"], *reasons]:
            found.setdefault(text, {}).setdefault(record["protocol"], []).append(row.name)
    lines = [
        f"{', '.join(f'{p} ({_listed(names)})' for p, names in where.items())}: {text}" for text, where in found.items()
    ]
    return [
        *lines[:MAX_NOTES],
        *([f"and {len(lines) - MAX_NOTES} more, in results.jsonl"] if len(lines) > MAX_NOTES else []),
    ]


def _listed(names: Sequence[str]) -> str:
    names = each_once(names)
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _remarks(records: Sequence[Record], protocols: Protocols) -> list[str]:
    out = []
    unknown = sorted({r["protocol"] for r in records} - set(protocols))
    if unknown:
        out.append(f"{', '.join(unknown)}: no protocol of this installation; its numbers are in report.csv alone.")
    old = sum(r["published"] is None for r in records)
    if old:
        out.append(
            f"{old} of {len(records)} records are of an earlier schema: whether they are demonstrations or published"
            f" measurements is {NOT_RECORDED}, so none stands beside published values."
        )
    demonstrations = sorted({r["data"]["name"] for r in records if r["demonstration"]})
    if demonstrations:
        out.append(f"{', '.join(demonstrations)}: {DEMONSTRATION}; compare these numbers among themselves only.")
    known: dict[tuple[str, str], set[str]] = {}
    for r in records:
        known.setdefault((r["data"]["name"], r["data"]["split"]), set()).add(r["data"]["fingerprint"])
    unsure = sorted(
        {name for (name, _), all_ in known.items() if any(fingerprint.same(a, b) is None for a in all_ for b in all_)}
    )
    if unsure:
        out.append(
            f"{', '.join(unsure)}: records know these data by fingerprints of different schemes, which do not tell"
            " whether the images are the same."
        )
    incomplete = sum(not r["complete"] for r in records)
    if incomplete:
        out.append(f"{incomplete} of {len(records)} records are incomplete; their numbers are not final.")
    return out


def _training_diff(rows: Sequence[Row]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The keys of the training configs that are not the same in all rows, with the value in each; seeds of one row
    together."""
    known = [(row, [results.settings(run.training) for run in row.runs if run.training]) for row in rows]
    known = [(row, configs) for row, configs in known if configs]
    keys = sorted(differing([c for _, configs in known for c in configs]))
    cell = lambda configs, key: ", ".join(each_once(short_value(c.get(key), 200) for c in configs))  # noqa: E731
    return [row.name for row, _ in known], [(key, [cell(configs, key) for _, configs in known]) for key in keys]


def _settings(rows: Sequence[Row], protocols: Protocols) -> list[tuple[str, list[str]]]:
    groups = groups_of([run for row in rows for run in row.runs], protocols)
    titles = {name: protocol.title for name, protocol in protocols.items()}
    named = [(g, f"{titles.get(g.protocol, g.protocol)} ({describe(g, groups)})") for g in groups if g.settings]
    return [(name, [f"{k}: {_abridged(v)}" for k, v in json.loads(g.settings).items()]) for g, name in named]


def _abridged(value: Any) -> str:
    """JSON, of a long list its ends only: the records hold the whole."""
    if isinstance(value, list) and len(value) > 24:
        return f"[{', '.join(map(json.dumps, value[:6]))}, ..., {json.dumps(value[-1])}] ({len(value)} values)"
    return json.dumps(value)


def _environments(pairs: Sequence[tuple[Row, Record]]) -> list[str]:
    """One line per distinct environment with the records made in it."""
    made: dict[str, list[str]] = {}
    for row, record in pairs:
        text = ", ".join(f"{k} {v}" for k, v in record["environment"].items() if v is not None)
        made.setdefault(text, []).append(f"{row.name} {record['protocol']}")
    if len(made) == 1:
        return [f"all records: {next(iter(made))}"]
    return [f"{_listed(names)}: {text}" for text, names in made.items()]


def training_configs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(row, full training config as YAML-like lines) of the first run of each row whose training is known."""
    out = []
    for row in rows:
        training = row.runs[0].training
        if training:
            out.append((row.name, "\n".join(f"{k}: {json.dumps(v)}" for k, v in results.settings(training).items())))
    return out
