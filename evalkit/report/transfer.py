"""The tables of transferred backbones as the papers print them: a row per backbone, and per decoder where there are
several."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from .. import fingerprint, results
from ..protocols import Protocol, Protocols
from ..published import Published
from .beside import PRINTED, assumptions, disputed, model_names, values_for
from .collect import Record, Row, differing, short_value
from .tables import NOT_MEASURED, Cell, Table, column_of, estimate_of

# What a row is, not what it is compared under; so is the key that the protocol's `detail` names.
_OF_THE_ROW = {"seed", "init", "model", "model_args", "weights"}


class Set(NamedTuple):
    """What makes transfers comparable: the same protocol and version on the same data with the same schedule.

    Args:
        protocol: Its name.
        version: Of the protocol.
        data: Name of the data.
        fingerprint: Of the data.
        settings: As JSON.
    """

    protocol: str
    version: int | str
    data: str
    fingerprint: str
    settings: str


@dataclass
class Line:
    """A row of a table: a backbone with a decoder, one record per seed (of pre-training or of transfer).

    Args:
        row: The backbone.
        detail: Such as the decoder.
        records: One per seed.
        start: What a fine-tuning began with; "" for the others, whose row says it.
    """

    row: Row
    detail: str
    records: list[Record]
    start: str = ""

    @property
    def published(self) -> bool:
        return all(r["published"] for r in self.records)


def transfers(rows: Sequence[Row], protocols: Protocols) -> list[Table]:
    """One table per set of comparable transfers.

    Args:
        rows: The runs.
        protocols: All protocols, by name.
    """
    sets = _sets(rows, protocols)
    return [
        _table(protocols[key.protocol], key, lines, _title(protocols, key, list(sets)), [])
        for key, lines in sets.items()
    ]


def transfers_beside_published(rows: Sequence[Row], protocols: Protocols) -> list[Table]:
    """For every set that was run as published: own rows and the published ones of the same models, with their
    sources.

    Args:
        rows: The runs.
        protocols: All protocols, by name.
    """
    tables, sets = [], _sets(rows, protocols)
    for key, lines in sets.items():
        own = [line for line in lines if line.published]
        models = {name for line in own for name in model_names(line.row)}
        known = [v for v in values_for(key.protocol, key.data, protocols) if v.model in models]
        if known:
            tables.append(_table(protocols[key.protocol], key, own, _title(protocols, key, list(sets)), known))
    return tables


def _sets(rows: Sequence[Row], protocols: Protocols) -> dict[Set, list[Line]]:
    """The transfers among the records, protocols in their order, rows of one detail together."""
    order = [name for name, p in protocols.items() if p.kind == "transfer"]
    found: dict[Set, dict[tuple[int, str], Line]] = {}
    for i, row in enumerate(rows):
        for record in (r for run in row.runs for r in run.records.values()):
            if record["protocol"] in order:
                protocol = protocols[record["protocol"]]
                detail = protocol.detail_of(record)
                line = found.setdefault(_set_of(record, protocol), {}).setdefault((i, detail), Line(row, detail, []))
                line.records.append(record)
    for key, lines in _tuned(rows, protocols).items():
        alike = [k for k in found if (k.protocol, k.data, k.fingerprint) == (key.protocol, key.data, key.fingerprint)]
        found.setdefault(alike[0] if alike else key, {}).update(lines)
    sets = {}
    for key in sorted(found, key=lambda key: order.index(key.protocol)):
        detail = protocols[key.protocol].detail
        places = {} if detail is None else {name: i for i, name in enumerate(detail.names)}
        lines = [(places.get(line.detail, len(places)), i, line) for i, line in enumerate(found[key].values())]
        sets[key] = [line for *_, line in sorted(lines, key=lambda item: item[:2])]
    return sets


def _tuned(rows: Sequence[Row], protocols: Protocols) -> dict[Set, dict[tuple[int, str], Line]]:
    """Trainings that began with weights, as lines of the transfer that fine-tuning belongs to. Their settings are their
    own, so that of one set they make one group, whatever they are; the row says what is different."""
    protocol = next((p for p in protocols.values() if p.tuned), None)
    found: dict[Set, dict[tuple[int, str], Line]] = {}
    for i, row in enumerate(rows if protocol is not None else ()):
        for record in (r for run in row.runs for r in run.records.values()):
            start = record["config"].get("init") if record["task"] == "train" else None
            if isinstance(start, str) and start and protocol is not None:
                data = record["data"]
                key = Set(protocol.name, protocol.version, data["name"], data["fingerprint"], "{}")
                origin = "timm's weights" if start == "pretrained" else PurePath(start).name
                lines = found.setdefault(key, {})
                lines.setdefault((i, protocol.tuned), Line(row, protocol.tuned, [], origin)).records.append(record)
    return found


def _set_of(record: Record, protocol: Protocol) -> Set:
    of_the_row = _OF_THE_ROW | ({protocol.detail.key} if protocol.detail else set())
    settings = {k: v for k, v in results.settings(record).items() if k not in of_the_row}
    data = record["data"]
    return Set(
        record["protocol"], record["version"], data["name"], data["fingerprint"], json.dumps(settings, sort_keys=True)
    )


def _title(protocols: Protocols, key: Set, sets: Sequence[Set]) -> str:
    """The protocol and, where there are several sets of it, what is different about this one."""
    siblings = [other for other in sets if other.protocol == key.protocol]
    parts = [key.data]
    alike = [other for other in siblings if other.data == key.data]
    if len({other.fingerprint for other in alike}) > 1:
        parts.append(f"data {fingerprint.short(key.fingerprint, 8)}")
    if len({other.version for other in alike}) > 1:
        parts.append(f"protocol version {key.version}")
    different = sorted(differing([json.loads(other.settings) for other in alike]))
    own: dict[str, Any] = json.loads(key.settings)
    parts += [f"{k}={short_value(own.get(k))}" for k in different[:3]]
    where = " \N{MIDDLE DOT} ".join(parts)
    return f"{protocols[key.protocol].title} ({where})"


def _table(protocol: Protocol, key: Set, lines: Sequence[Line], title: str, known: Sequence[Published]) -> Table:
    """Own lines, then the published ones: backbone, then what tells rows apart, then the numbers."""
    columns, detail = protocol.columns, protocol.detail
    seeds = [max(len(line.records), len(line.row.runs)) for line in lines]
    numbers = [column_of([estimate_of(line.records, c.name) for line in lines], seeds, c) for c in columns]
    called = lambda value: [] if detail is None else [Cell(detail.names.get(value, value))]  # noqa: E731
    rows, notes = [], _notes(key, lines, protocol)
    for i, line in enumerate(lines):
        name = f"{line.row.name}, from {line.start}" if line.start else line.row.name
        if known:
            mark, reasons = assumptions(line.records)
            name = f"{name}, this report{mark}"
            notes += [f"{line.row.name}: assumed {reason}." for reason in reasons]
        rows.append((name, [Cell(line.row.model), *called(line.detail), *(column[i] for column in numbers)]))
    quoted: dict[tuple[str, str, str, str], dict[str, Published]] = {}
    for v in known:
        quoted.setdefault((v.method, v.model, v.decoder, v.place), {})[v.measured] = v
    for (method, model, decoder, place), found in quoted.items():
        cells = [Cell(found[c.name].value) if c.name in found else NOT_MEASURED for c in columns]
        rows.append((f"{method} ({place}{disputed(found.values())})", [Cell(model), *called(decoder), *cells]))
    titles = ["backbone", *([detail.title] if detail else []), *(c.heading() for c in columns)]
    heads = [(protocol.title, key.data, "", len(titles))]
    return Table(title, heads, titles, rows, [*notes, *([PRINTED] if known else [])], len(quoted))


def _notes(key: Set, lines: Sequence[Line], protocol: Protocol) -> list[str]:
    records = [r for line in lines for r in line.records]
    sizes = sorted({r["n"] for r in records})
    notes = [
        f"Percent, on {' to '.join(f'{n:,}' for n in {sizes[0]: 0, sizes[-1]: 0})} images of {key.data}."
        f" {protocol.sentence}",
        " ".join(f"{c.title}: {c.meaning}." for c in protocol.columns),
    ]
    notes += _spread([len(line.records) for line in lines], any(r["standard_errors"] for r in records))
    if any(not r["complete"] for r in records):
        notes.append("Incomplete: not a final number and never compared.")
    return notes


def _spread(seeds: Sequence[int], errors: bool) -> list[str]:
    """As `tables.spread_notes`; `errors`: whether rows of one seed have one over images."""
    if max(seeds) > 1:
        single = " of one seed: they speak of a checkpoint, not of a method."
        notes = [
            "± is the standard deviation over seeds. Bold: better than every other row by more than the standard error"
            " of the difference."
        ]
        if min(seeds) == 1:
            notes.append(
                f"Rows whose ± is the standard error over images are{single}"
                if errors
                else f"Rows without ± are{single}"
            )
        return notes
    if errors:
        return [
            "One seed each: rows speak of their checkpoints, not of methods. ± is the standard error over images and"
            " leaves out how far another seed would move a number."
        ]
    return ["One seed each: rows speak of their checkpoints, not of methods, and nothing says which differences hold."]
