"""Method against method over seeds: two sides of a study, or of folders of runs, compared seed by seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import bootstrap, results
from ..errors import EvalkitError, unknown
from ..files import write_atomic
from ..ordered import each_once
from ..protocols import Protocol, Protocols
from ..report.collect import Group, Record, group_of, rows_of, runs_of
from ..text import plain, say
from . import plan, significance
from .gather import SEED, Outcomes
from .tables import Draws, signed, span

FILE = "compare.json"
BySeed = dict[str, dict[Group, Record]]


@dataclass(frozen=True)
class Side:
    """What is compared.

    Args:
        name: how it was given.
        parts: what is left open (the model of a study's cells, else nothing) -> seed -> records.
    """

    name: str
    parts: dict[str, BySeed]


def is_over_seeds(spec: str) -> bool:
    """Whether a side of `evalkit compare` is a study, or trainings that differ in their seeds."""
    folder, chosen = split(spec)
    if not folder.is_dir():
        return False
    if (folder / plan.FILE).is_file():
        return True
    rows = rows_of(runs_of(results.latest(results.read([folder]))))
    return any(len(row.runs) > 1 for row in rows if chosen is None or row.runs[0].key.label == chosen)


def split(spec: str) -> tuple[Path, str | None]:
    """FOLDER, or FOLDER:CHOICE, in its parts."""
    cuts = [i for i, letter in enumerate(spec) if letter == ":" and Path(spec[:i]).exists()]
    if Path(spec).exists() or not cuts:
        return Path(spec), None
    return Path(spec[: cuts[0]]), spec[cuts[0] + 1 :]


def side(spec: str) -> Side:
    """The records of one side.

    Args:
        spec: FOLDER:AXIS=VALUE,... of a study's folder, FOLDER:LABEL or FOLDER of runs.

    Raises EvalkitError for an axis, value or label that is not there, and where nothing or several methods are meant.
    """
    folder, chosen = split(spec)
    if (folder / plan.FILE).is_file():
        return _of_study(spec, folder, chosen)
    rows = rows_of(runs_of(results.latest(results.read([folder]))))
    labels = each_once(row.runs[0].key.label for row in rows)
    if chosen is not None and chosen not in labels:
        raise unknown(f"model of {folder}", chosen, labels)
    wanted = [row for row in rows if chosen is None or row.runs[0].key.label == chosen]
    if len(wanted) != 1:
        names = ", ".join(row.name for row in wanted)
        raise EvalkitError(f"{spec} holds {len(wanted)} methods: {names}; name one as {folder}:LABEL")
    runs = {str(run.training["seed"] if run.training else i): run.records for i, run in enumerate(wanted[0].runs)}
    return Side(spec, {"": runs})


def _of_study(spec: str, folder: Path, chosen: str | None) -> Side:
    made = plan.read(folder)
    axes: dict[str, list[str]] = {}
    for values in made.values.values():
        for axis, value in values.items():
            axes.setdefault(axis, []).append(value)
    if not axes:
        raise EvalkitError(
            f"{folder} was planned by an earlier evalkit; run `evalkit study run` once more with --dry-run"
        )
    wanted = {}
    for word in (chosen or "").split(","):
        axis, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise EvalkitError(f"{folder} is a study; say which cells, such as {folder}:{next(iter(axes))}=NAME")
        if axis not in axes:
            raise unknown("axis of this study", axis, axes)
        known = {v.lower(): v for v in axes[axis]}
        if value.lower() not in known:
            raise unknown(f"value of {axis}", value, axes[axis])
        wanted[axis] = known[value.lower()]
    parts: dict[str, BySeed] = {}
    for cell, values in made.values.items():
        if any(values.get(axis) != value for axis, value in wanted.items()):
            continue
        found, _ = results.scan([p for p in (folder / j.out / results.FILE for j in made.of_cell(cell)) if p.is_file()])
        records = sorted((r for r in found if r["complete"]), key=lambda r: r["weights"] == "ema")
        rest = ", ".join(v for a, v in values.items() if a != SEED and a not in wanted and len(set(axes[a])) > 1)
        if records:
            parts.setdefault(rest, {})[values.get(SEED, "")] = {group_of(r): r for r in records}
    if not parts:
        raise EvalkitError(f"{spec}: nothing was measured yet")
    return Side(spec, parts)


def compare(
    a: str, b: str, chosen: Sequence[str], protocols: Protocols, outcomes: Outcomes, out: Path | None = None
) -> int:
    """Print how A and B differ over their seeds in every metric that both have; 0.

    Args:
        a: the first side, see `side`.
        b: the other one.
        chosen: protocols that are compared; empty: all that both have.
        protocols: all of them.
        outcomes: reads per-sample records.
        out: folder for compare.json; None: only print.

    Raises EvalkitError where the two share no measurement.
    """
    for name in chosen:
        if name not in protocols:
            raise unknown("protocol", name, protocols)
    left, right = side(a), side(b)
    draws, made = Draws(outcomes), []
    for part in left.parts:
        if part not in right.parts:
            continue
        ours, theirs = left.parts[part], right.parts[part]
        seeds = [seed for seed in ours if seed in theirs]
        say(*_left(a, ours, theirs), *_left(b, theirs, ours))
        for group in each_once(g for seed in seeds for g in ours[seed]):
            pairs = {s: (ours[s][group], theirs[s][group]) for s in seeds if group in ours[s] and group in theirs[s]}
            if pairs and group.protocol in protocols and (not chosen or group.protocol in chosen):
                lines = _lines(protocols[group.protocol], list(pairs.values()), draws)
                print(_text(a, b, part, group, pairs, lines))
                made.append(
                    {"a": a, "b": b, "part": part, "protocol": group.protocol, "version": group.version}
                    | {"data": group.data, "seeds": list(pairs), "metrics": lines}
                )
    if not made:
        raise EvalkitError(
            f"{a} and {b} share no measurement of the same seed, protocol version, data and settings; measure both"
            " alike"
        )
    if out is not None:
        text = json.dumps(made, indent=1, sort_keys=True, default=lambda _: None) + "\n"
        write_atomic(Path(out) / FILE, lambda f: f.write(text.encode()))
    return 0


def _left(name: str, own: BySeed, other: BySeed) -> list[str]:
    """A sentence for each measurement of one side that finds none of the same seed, data and settings on the other."""
    lone = [(g.protocol, g.data, seed) for seed in own for g in own[seed] if g not in other.get(seed, {})]
    return [
        f"not compared: {protocol} on {data} of {name}, seed {seed}: the other side has none of the same protocol"
        " version, images and settings"
        for protocol, data, seed in lone
    ]


def _lines(protocol: Protocol, pairs: list[tuple[Record, Record]], draws: Draws) -> list[dict[str, Any]]:
    """A metric each, with its difference and what the seeds allow to say."""
    drawn, found = draws.difference(pairs), []
    for name in pairs[0][0]["metrics"]:
        metric, values = protocol.find(name), [(x["metrics"].get(name), y["metrics"].get(name)) for x, y in pairs]
        if metric is None or metric.better == "neither" or any(v is None for pair in values for v in pair):
            continue
        one, other = [float(x) for x, _ in values], [float(y) for _, y in values]
        paired = significance.paired(one, other)
        images = bootstrap.interval(paired.difference, drawn[name]) if name in drawn else None
        found.append((metric, float(np.mean(one)), float(np.mean(other)), paired, images))
    adjusted = significance.holm([p.p if not p.why_not else float("nan") for *_, p, _ in found])
    return [
        {
            "metric": metric.name,
            "a": one,
            "b": other,
            "difference": signed(paired.difference, metric),
            "seeds_interval": span(paired.interval, metric),
            "images_interval": span(images, metric),
            "p": _number(paired.p),
            "p_holm": _number(p),
            "verdict": significance.verdict(paired, p, metric.better),
        }
        for (metric, one, other, paired, images), p in zip(found, adjusted)
    ]


def _number(value: float) -> float | None:
    return None if value != value else value


def _text(a: str, b: str, part: str, group: Group, pairs: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    rows = [("", "A", "B", "A - B", "95 % (seeds)", "95 % (seeds, images)", "p", "p (Holm)", "A is")]
    for line in lines:
        p = ["" if line[k] is None else f"{line[k]:.3g}" for k in ("p", "p_holm")]
        rows.append(
            (
                *(line["metric"], f"{line['a']:.4f}", f"{line['b']:.4f}", line["difference"]),
                *(line["seeds_interval"], line["images_interval"], *p, line["verdict"]),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    table = ["  " + "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    where = f", {part}" if part else ""
    head = f"{group.protocol} on {group.data}{where}, seeds {', '.join(pairs)}: A = {a}, B = {b}"
    note = (
        "  differences in percentage points where a metric is a share; paired by seed: Student's t over seeds,"
        f" bootstrap of seeds and images, Holm over this table; fewer than {significance.MIN_SEEDS} seeds"
        " decide nothing"
    )
    return "\n".join(map(plain, [head, *table, note]))
