"""The report's figures, recomputed from the per-sample records; one whose file is missing or does not match its number
is left out and said so."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import metrics, plots
from ..arrays import read_npz
from ..ordered import each_once
from ..protocols import Drawn, Figure, Protocols
from . import training
from .collect import Group, Record, Row, describe, groups_of
from .drawing import Drawing

MIXED = "mixed.npz"
SAMPLES = "samples.png"
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"  # how every such file begins and ends
# what damaged or foreign arrays raise
BAD_FILE = (OSError, ValueError, KeyError, IndexError, TypeError)


class Unusable(Exception):
    """A per-sample file is missing, damaged or belongs to another number; the message says which."""


def draw(rows: Sequence[Row], protocols: Protocols) -> list[Drawing]:
    """Every figure that the protocols ask for and the records allow, in the order of the page.

    Args:
        rows: The rows of the tables.
        protocols: All protocols, by name.
    """
    order = {row.name: i for i, row in enumerate(rows)}
    groups = groups_of([run for row in rows for run in row.runs], protocols)
    drawings: list[Drawing] = []
    for protocol in protocols.values():
        for figure, group in ((f, g) for g in groups if g.protocol == protocol.name for f in protocol.figures):
            members = [row for row in rows if any(group in run.records for run in row.runs)]
            drawings.append(MAKERS[figure.kind](_Asked(figure, members, group, order, describe(group, groups))))
    mixed = _mixed_samples(rows)
    return _renamed([*drawings, *_training(rows), *([mixed] if mixed else []), *_transferred(rows, protocols)])


@dataclass(frozen=True)
class _Asked:
    """A figure, and the records that it is of."""

    figure: Figure
    rows: list[Row]
    group: Group
    order: dict[str, int]
    where: str

    def drawn(
        self, make: Callable[[], Any], left_out: list[str], more: Sequence[str] = (), half: bool = False
    ) -> Drawing:
        """The drawing of what `make` returns; `more` are sentences behind the caption."""
        names = [row.name for row in self.rows if not _records(row, self.group)[0]["complete"]]
        incomplete = [f"Incomplete, not final: {', '.join(names)}."] if names else []
        caption = " ".join([f"On {self.where}.", self.figure.caption, *more, *incomplete])
        title = f"{self.figure.title} ({self.where})"
        return _drawing(self.figure.name, title, caption, left_out, make, half)

    @property
    def several(self) -> bool:
        return any(len(row.runs) > 1 for row in self.rows)


def _renamed(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The drawings under file names of their own: the second of a name ends in -2."""
    names = [d.name for d in drawings]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [d if n == 1 else replace(d, name=f"{d.name}-{n}") for d, n in zip(drawings, counts)]


def _training(rows: Sequence[Row]) -> list[Drawing]:
    figure, left_out = training.curves(rows)
    if figure is None and not left_out:
        return []
    return [_drawing("training", "Training", training.CAPTION, left_out, lambda: figure)]


# ---- curves


def _curves(asked: _Asked) -> Drawing:
    curves, left_out = {}, []
    records = {row.name: _records(row, asked.group) for row in asked.rows}
    series = [s for of_row in records.values() for r in of_row for s in r["series"] or []]
    panels = asked.figure.panels or {mode: (mode, "level") for mode in each_once(s["mode"] for s in series)}
    for name, of_row in records.items():
        by_mode = {mode: _curve(of_row, mode) for mode in panels}
        curves[name] = {mode: curve for mode, curve in by_mode.items() if curve is not None}
        if not curves[name]:
            del curves[name]
            left_out.append(f"{name}: its record holds no series.")
    more = ["For rows of several seeds: the mean over seeds, the band their standard deviation."]
    make = lambda: plots.curves(curves, panels, asked.order) if curves else None  # noqa: E731
    return asked.drawn(make, left_out, more if asked.several else [])


def _curve(records: Sequence[Record], mode: str) -> plots.Curve | None:
    """Mean and spread by level: over the seeds where there are several, else over the repeats of the one record."""
    by_level: dict[float, list[tuple[float, float | None]]] = {}
    for record in records:
        series = [s for s in record["series"] or [] if s.get("mode") == mode and s.get("top1") is not None]
        clean = record["metrics"].get("clean_top1")
        if series and clean is not None:
            by_level.setdefault(0.0, []).append((clean, None))  # nothing dropped
        for s in series:
            if s["level"] > 0 or clean is None:
                by_level.setdefault(s["level"], []).append((s["top1"], s.get("sd")))
    if not by_level:
        return None
    levels = sorted(by_level)
    means = [statistics.fmean(v for v, _ in by_level[q]) for q in levels]
    if len(records) > 1:
        bands = [statistics.stdev(v for v, _ in by_level[q]) if len(by_level[q]) > 1 else math.nan for q in levels]
    else:
        first = [by_level[q][0][1] for q in levels]
        bands = [math.nan if sd is None else sd for sd in first]
        if levels[0] == 0 and not np.isnan(bands[1:]).all():
            bands[0] = 0.0  # nothing is drawn at random where nothing is dropped
    return plots.Curve(np.array(levels), np.array(means), np.array(bands))


# ---- calibration, selective prediction, detection: from per-sample logits


def _reliability(asked: _Asked) -> Drawing:
    scored, left_out = _per_row(asked, _scores, first_only=True)
    bins = {name: metrics.reliability_bins(v[0].confidence, v[0].correct) for name, v in scored.items()}
    errors = {
        row.name: _records(row, asked.group)[0]["metrics"].get("rms_calibration_error")
        for row in asked.rows
        if row.name in bins
    }
    make = lambda: plots.reliability(bins, errors, asked.order) if bins else None  # noqa: E731
    return asked.drawn(make, left_out, ["Of several seeds the first is shown."] if asked.several else [])


def _risk_coverage(asked: _Asked) -> Drawing:
    scored, left_out = _per_row(asked, _scores)
    curves = {name: [metrics.risk_coverage(v.score, v.correct) for v in values] for name, values in scored.items()}
    make = lambda: plots.risk_coverage(curves, asked.order) if curves else None  # noqa: E731
    return asked.drawn(make, left_out, half=True)


def _precision_recall(asked: _Asked) -> Drawing:
    scored, left_out = _per_row(asked, _ood_scores)
    curves = {name: [metrics.precision_recall(*v) for v in values] for name, values in scored.items()}
    ood, ind = next(iter(scored.values()))[0] if scored else (np.zeros(0), np.zeros(0))
    chance = len(ood) / max(1, len(ood) + len(ind))
    make = lambda: plots.precision_recall(curves, chance, asked.order) if curves else None  # noqa: E731
    return asked.drawn(make, left_out, [f"{len(ood):,} against {len(ind):,} images."], half=True)


def _per_row(
    asked: _Asked, read: Callable[[Record], Any], first_only: bool = False
) -> tuple[dict[str, list[Any]], list[str]]:
    values: dict[str, list[Any]] = {}
    left_out = []
    for row in asked.rows:
        for record in _records(row, asked.group)[: 1 if first_only else None]:
            try:
                value = read(record)
                values.setdefault(row.name, []).append(value)
            except Unusable as e:
                left_out.append(f"{row.name}: {e}.")
            except BAD_FILE as e:
                left_out.append(f"{row.name}: {_file(record).name} is damaged or from another version ({e}).")
    return values, left_out


class _Scores(NamedTuple):
    score: np.ndarray  # (N,) logarithm of the confidence; images that could not be read rank last
    confidence: np.ndarray  # (N,) 0 for those
    correct: np.ndarray  # (N,) bool, False for those


def _scores(record: Record) -> _Scores:
    """The images of a classification record over the classes of the protocol, as its metrics take them."""
    arrays = load_arrays(_file(record), ("logits", "restrict", "labels"), optional=("readable",))
    logits, readable = arrays["logits"][:, arrays["restrict"]], arrays.get("readable", True)
    correct = metrics.top_k_correct(logits, arrays["labels"]) & readable
    _matches(record, "top1", float(correct.mean()) if len(correct) else None)
    return _Scores(metrics.log_confidence(logits), metrics.confidence(logits) * readable, correct)


def _ood_scores(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """(out-of-distribution scores, in-distribution scores) of an imagenet-o record: minus the confidence over the
    classes of the protocol."""
    arrays = load_arrays(_file(record), ("logits", "restrict", "ood"))
    scores = -metrics.log_confidence(arrays["logits"][:, arrays["restrict"]])
    ood, ind = scores[arrays["ood"]], scores[~arrays["ood"]]
    if not len(ood) or not len(ind):
        raise Unusable("it has no images on one side")
    _matches(record, "aupr", metrics.aupr(ood, ind))
    return ood, ind


def _file(record: Record) -> Path:
    if record["records"] is None:
        raise Unusable("no per-sample records were written")
    return Path(record["_dir"]) / record["records"]


def load_arrays(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an .npz file; nothing is unpickled. Raises Unusable when it is not there, one of BAD_FILE when it is
    damaged.

    Args:
        path: The file.
        names: Arrays that must be there.
        optional: Arrays that are given if they are there.
    """
    if not path.exists():
        raise Unusable(f"{path.name} is missing")
    arrays = read_npz(path)
    return {name: arrays[name] for name in (*names, *(o for o in optional if o in arrays))}


def _matches(record: Record, metric: str, value: float | None) -> None:
    recorded = record["metrics"].get(metric)
    if recorded is not None and (value is None or abs(recorded - value) > 1e-3):
        given = "none" if value is None else f"{value:.4f}"
        raise Unusable(f"{record['records']} gives {metric} {given} where its record says {recorded:.4f}")


# ---- mixed samples


def _mixed_samples(rows: Sequence[Row]) -> Drawing | None:
    strips, left_out = {}, []
    folders: set[str] = set()
    for row in rows:
        training = row.runs[0].training
        if training is None or training["_dir"] in folders:  # raw and averaged weights are of one run
            continue
        folders.add(training["_dir"])
        try:
            arrays = load_arrays(Path(training["_dir"]) / MIXED, ("x", "weights", "labels", "classes"))
            strips[row.name] = (
                arrays["x"].transpose(0, 2, 3, 1),
                [shares(w, arrays["labels"], arrays["classes"]) for w in arrays["weights"]],
            )
        except Unusable as e:
            left_out.append(f"{row.name}: {e}.")
        except BAD_FILE as e:
            left_out.append(f"{row.name}: {MIXED} is damaged or from another version ({e}).")
    if not strips and not left_out:
        return None
    caption = (
        "Training images as each run mixed them, with the share of every label in the target written below (classes"
        " under 1 % left out)."
    )
    return _drawing(
        "mixed-samples", "Mixed samples", caption, left_out, lambda: plots.mixed_samples(strips) if strips else None
    )


def shares(weights: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> str:
    """The classes behind one mixed sample by their share of its label, largest first, at most three, a line each.

    Args:
        weights: Share of each source, (B,).
        labels: Class of each source, (B,).
        classes: Names of the classes.
    """
    total = np.bincount(labels, weights=weights.astype(np.float64), minlength=len(classes))
    largest = [i for i in np.argsort(-total, kind="stable")[:3] if total[i] >= 0.01]
    return "\n".join(f"{str(classes[i])[:14]}: {100 * total[i]:.0f} %" for i in largest)


# ---- what transferred backbones predict


def _transferred(rows: Sequence[Row], protocols: Protocols) -> list[Drawing]:
    """The sheet of predictions of the first row of every kind of transfer; the others lie beside their results."""
    order = [name for name, p in protocols.items() if p.kind == "transfer"]
    first: dict[tuple[int, str], tuple[Row, Record]] = {}
    for row in rows:
        for record in (r for run in row.runs for r in run.records.values() if r["protocol"] in order):
            value = protocols[record["protocol"]].detail_of(record)
            first.setdefault((order.index(record["protocol"]), value), (row, record))
    drawings = []
    for (place, value), (row, record) in sorted(first.items()):
        path = Path(record["_dir"]) / SAMPLES
        sheet = path.read_bytes() if path.is_file() else b""
        whole = sheet.startswith(PNG) and sheet.endswith(PNG_END)
        what = ", ".join(filter(None, (row.name, value, record["data"]["name"])))
        left_out = [] if whole else [f"{row.name}: {SAMPLES} is {'damaged' if sheet else 'missing'}."]
        caption = f"Validation images with the truth and what {row.name} predicts."
        name = "-".join(filter(None, ("predictions", order[place], value)))
        drawings.append(Drawing(name, f"Predictions ({what})", caption, sheet if whole else None, left_out))
    return drawings


# ---- helpers


def _records(row: Row, group: Group) -> list[Record]:
    """What the tables use too: the complete records of the row's runs, or the first one where none is complete."""
    records = [run.records[group] for run in row.runs if group in run.records]
    return [r for r in records if r["complete"]] or records[:1]


def _drawing(
    name: str, title: str, caption: str, left_out: list[str], make: Callable[[], Any], half: bool = False
) -> Drawing:
    figure = make()
    png = plots.png(figure) if figure is not None else None
    return Drawing(name, title, caption, png, left_out, half, figure)


MAKERS: dict[Drawn, Callable[[_Asked], Drawing]] = {
    "curves": _curves,
    "reliability": _reliability,
    "risk-coverage": _risk_coverage,
    "precision-recall": _precision_recall,
}
