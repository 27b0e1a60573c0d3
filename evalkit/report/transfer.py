"""The tables of transferred backbones as the papers print them: mIoU by decoder, and the six APs of Mask R-CNN."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import fingerprint, results
from .collect import Record, Row, differing, short_value
from .tables import (
    NOT_MEASURED,
    TITLES,
    Cell,
    Column,
    Published,
    Table,
    arrow,
    column_of,
    estimate_of,
    is_demonstration,
    model_names,
    published_values,
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "seg": (Column("miou", "mIoU"), Column("miou_ms", "+MS")),
    "det": tuple(Column(f"{kind}_ap{at}", f"{kind} AP{at}") for kind in ("box", "mask") for at in ("", "50", "75")),
}
DECODERS = {"linear": "Linear", "segmenter": "Segmenter", "deeplabv3plus": "DeepLabv3+"}
# What a row is, not what it is compared under.
_OF_THE_ROW = {"seed", "head", "init", "model", "model_args", "weights"}
EXPLAINED = {
    "seg": (
        "mIoU: intersection over union, mean over the classes. +MS: predictions averaged over several scales, and"
        " mirrored where training mirrors."
    ),
    "det": "AP: mean over IoU thresholds 0.50 to 0.95; AP50 and AP75: at one threshold.",
}


class Set(NamedTuple):
    """What makes transfers comparable: the same protocol and version on the same data with the same schedule."""

    protocol: str
    version: int | str
    data: str
    fingerprint: str
    settings: str  # as JSON


@dataclass
class Line:
    """A row of a table: a backbone with a decoder, one record per seed (of pre-training or of transfer)."""

    row: Row
    decoder: str
    records: list[Record]

    @property
    def model(self) -> str:
        return self.row.model

    @property
    def published(self) -> bool:
        return all(r["published_protocol"] and r["complete"] and not is_demonstration(r) for r in self.records)


def transfers(rows: Sequence[Row]) -> list[Table]:
    """One table per set of comparable transfers."""
    sets = _sets(rows)
    return [_table(key, lines, _title(key, list(sets)), []) for key, lines in sets.items()]


def transfers_beside_published(rows: Sequence[Row]) -> list[Table]:
    """For every set that was run as published: own rows and the published ones of the same models, with their
    sources."""
    tables, values, sets = [], published_values(), _sets(rows)
    for key, lines in sets.items():
        own = [line for line in lines if line.published]
        models = {name for line in own for name in model_names(line.row)}
        known = [v for v in values if v.table == key.protocol and v.model in models]
        if known:
            tables.append(_table(key, own, _title(key, list(sets)), known))
    return tables


def _sets(rows: Sequence[Row]) -> dict[Set, list[Line]]:
    """The transfers among the records, segmentation first, decoders together."""
    found: dict[Set, dict[tuple[int, str], Line]] = {}
    for i, row in enumerate(rows):
        for record in (r for run in row.runs for r in run.records.values()):
            if record["protocol"] in COLUMNS:
                decoder = record["config"].get("head") or ""
                line = found.setdefault(_set_of(record), {}).setdefault((i, decoder), Line(row, decoder, []))
                line.records.append(record)
    order = sorted(found, key=lambda key: list(COLUMNS).index(key.protocol))
    decoders = list(DECODERS)
    rank = lambda line: decoders.index(line.decoder) if line.decoder in decoders else len(decoders)  # noqa: E731
    return {key: sorted(found[key].values(), key=rank) for key in order}


def _set_of(record: Record) -> Set:
    settings = {k: v for k, v in results.settings(record).items() if k not in _OF_THE_ROW}
    data = record["data"]
    return Set(
        record["protocol"], record["version"], data["name"], data["fingerprint"], json.dumps(settings, sort_keys=True)
    )


def _title(key: Set, sets: Sequence[Set]) -> str:
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
    return f"{TITLES[key.protocol]} ({where})"


def _table(key: Set, lines: Sequence[Line], title: str, known: Sequence[Published]) -> Table:
    """Own lines, then the published ones: backbone, then the decoder or the parameters, then the numbers."""
    columns = COLUMNS[key.protocol]
    seeds = [max(len(line.records), len(line.row.runs)) for line in lines]
    numbers = [column_of([estimate_of(line.records, c.metric) for line in lines], seeds, c) for c in columns]
    rows = []
    for i, line in enumerate(lines):
        second = (
            DECODERS.get(line.decoder, line.decoder)
            if key.protocol == "seg"
            else _millions(line.records[0]["metrics"].get("parameters"))
        )
        name = f"{line.row.name}, this report" if known else line.row.name
        rows.append((name, [Cell(line.model), Cell(second), *(column[i] for column in numbers)]))
    quoted: dict[tuple[str, ...], dict[str, str]] = {}
    for v in known:
        quoted.setdefault((v.method, v.model, v.decoder, v.source), {})[v.metric] = v.value
    for (method, model, decoder, source), values in quoted.items():
        second = DECODERS.get(decoder, decoder) if key.protocol == "seg" else values.get("parameters", "")
        cells = [Cell(values[c.metric]) if c.metric in values else NOT_MEASURED for c in columns]
        rows.append((f"{method} ({source})", [Cell(model), Cell(second), *cells]))
    heads = [(TITLES[key.protocol], key.data, "", 2 + len(columns))]
    titles = ["backbone", "decoder" if key.protocol == "seg" else "parameters", *map(arrow, columns)]
    return Table(title, heads, titles, rows, _notes(key, lines, bool(known)), len(quoted))


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}M"


def _notes(key: Set, lines: Sequence[Line], published: bool) -> list[str]:
    records = [r for line in lines for r in line.records]
    sizes = sorted({r["n"] for r in records})
    notes = [
        f"Percent, on {' to '.join(f'{n:,}' for n in {sizes[0]: 0, sizes[-1]: 0})} images of {key.data}."
        f" {EXPLAINED[key.protocol]}"
    ]
    if any(len(line.records) > 1 for line in lines):
        notes.append(
            "± is the standard deviation over seeds. Bold: better than every other row by more than the standard error"
            " of the difference."
        )
    if any(not r["complete"] for r in records):
        notes.append("Incomplete: not a final number and never compared.")
    if published:
        notes.append("Published values as their sources print them.")
    return notes
