"""The report's figures, recomputed from the per-sample records; one whose file is missing or does not match its number
is left out and said so."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics, plots
from ..arrays import read_npz
from .collect import Group, Record, Row, describe, groups_of
from .tables import COLUMNS

MIXED = "mixed.npz"
SAMPLES = "samples.png"
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"  # how every such file begins and ends
# what damaged or foreign arrays raise
BAD_FILE = (OSError, ValueError, KeyError, IndexError, TypeError)


class Unusable(Exception):
    """A per-sample file is missing, damaged or belongs to another number; the message says which."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: file stem, heading, caption, PNG bytes (None: nothing could be drawn) and what was left
    out of it."""

    name: str
    title: str
    caption: str
    png: bytes | None
    left_out: list[str]
    half: bool = False  # half the width of the page


def draw(rows: Sequence[Row]) -> list[Drawing]:
    """Every figure the records allow, in the order of the page."""
    order = {row.name: i for i, row in enumerate(rows)}
    groups = groups_of([run for row in rows for run in row.runs], COLUMNS)
    makers = {
        "occlusion": [_occlusion],
        "imagenet-a": [_reliability, _risk_coverage],
        "imagenet-o": [_precision_recall],
    }
    drawings = []
    for protocol, functions in makers.items():
        for number, group in enumerate([g for g in groups if g.protocol == protocol]):
            members = [row for row in rows if any(group in run.records for run in row.runs)]
            suffix = "" if number == 0 else f"-{number + 1}"
            drawings += [make(members, group, order, suffix, describe(group, groups)) for make in functions]
    mixed = _mixed_samples(rows)
    return drawings + ([mixed] if mixed else []) + _transferred(rows)


# ---- occlusion


def _occlusion(rows: Sequence[Row], group: Group, order: dict[str, int], suffix: str, where: str) -> Drawing:
    curves, left_out = {}, []
    for row in rows:
        records = _records(row, group)
        by_mode = {mode: _curve(records, mode) for mode in plots.MODES}
        curves[row.name] = {mode: curve for mode, curve in by_mode.items() if curve is not None}
        if not curves[row.name]:
            del curves[row.name]
            left_out.append(f"{row.name}: its record holds no series.")
    several = any(len(row.runs) > 1 for row in rows)
    caption = (
        f"Top-1 accuracy on {where} while ever more of each image is blacked out. Random: patches drawn at random, the"
        " band is the standard deviation over repeated draws. Salient and non-salient: patches in the order of the"
        " saliency model's attention, until that share of the attention is gone"
        + (". For rows of several seeds: the mean over seeds, the band their standard deviation." if several else ".")
        + _incomplete(rows, group)
    )
    return _drawing(
        "occlusion" + suffix,
        f"Occlusion ({where})",
        caption,
        left_out,
        lambda: plots.occlusion(curves, order) if curves else None,
    )


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
        bands = [math.nan if by_level[q][0][1] is None else by_level[q][0][1] for q in levels]
        if levels[0] == 0 and not np.isnan(bands[1:]).all():
            bands[0] = 0.0  # nothing is drawn at random where nothing is dropped
    return plots.Curve(np.array(levels), np.array(means), np.array(bands))


# ---- calibration, selective prediction, detection: from per-sample logits


def _reliability(rows: Sequence[Row], group: Group, order: dict[str, int], suffix: str, where: str) -> Drawing:
    scored, left_out = _per_row(rows, group, _log_confidence, first_only=True)
    bins = {name: metrics.reliability_bins(np.exp(values[0][0]), values[0][1]) for name, values in scored.items()}
    errors = {
        row.name: _records(row, group)[0]["metrics"].get("rms_calibration_error") for row in rows if row.name in bins
    }
    several = any(len(row.runs) > 1 for row in rows)
    caption = (
        f"Reliability on {where}: accuracy against confidence, bins of 100 images sorted by confidence; the dashed line"
        " is perfect calibration. The hollow point is the last bin, which the published RMS calibration error"
        " leaves out" + (". Of several seeds the first is shown." if several else ".") + _incomplete(rows, group)
    )
    return _drawing(
        "reliability" + suffix,
        f"Reliability ({where})",
        caption,
        left_out,
        lambda: plots.reliability(bins, errors, order) if bins else None,
    )


def _risk_coverage(rows: Sequence[Row], group: Group, order: dict[str, int], suffix: str, where: str) -> Drawing:
    scored, left_out = _per_row(rows, group, _log_confidence)
    curves = {name: [metrics.risk_coverage(*v) for v in values] for name, values in scored.items()}
    caption = (
        f"Risk and coverage on {where}: the error among the most confident predictions, by how many are answered. AURRA"
        " is one minus its mean."
    )
    caption += _incomplete(rows, group)
    make = lambda: plots.risk_coverage(curves, order) if curves else None  # noqa: E731
    return _drawing("risk-coverage" + suffix, f"Risk and coverage ({where})", caption, left_out, make, half=True)


def _precision_recall(rows: Sequence[Row], group: Group, order: dict[str, int], suffix: str, where: str) -> Drawing:
    scored, left_out = _per_row(rows, group, _ood_scores)
    curves = {name: [metrics.precision_recall(*v) for v in values] for name, values in scored.items()}
    ood, ind = next(iter(scored.values()))[0] if scored else ([], [])
    chance = len(ood) / max(1, len(ood) + len(ind))
    caption = (
        f"Finding out-of-distribution images among in-distribution ones by low confidence ({where}: {len(ood):,}"
        f" against {len(ind):,} images). AUPR is the area under the steps; the dashed line is"
        f" chance.{_incomplete(rows, group)}"
    )
    make = lambda: plots.precision_recall(curves, chance, order) if curves else None  # noqa: E731
    return _drawing("precision-recall" + suffix, f"Precision and recall ({where})", caption, left_out, make, half=True)


def _per_row(
    rows: Sequence[Row], group: Group, read: Callable[[Record], Any], first_only: bool = False
) -> tuple[dict[str, list[Any]], list[str]]:
    values, left_out = {}, []
    for row in rows:
        for record in _records(row, group)[: 1 if first_only else None]:
            try:
                value = read(record)
                values.setdefault(row.name, []).append(value)
            except Unusable as e:
                left_out.append(f"{row.name}: {e}.")
            except BAD_FILE as e:
                left_out.append(f"{row.name}: {_file(record).name} is damaged or from another version ({e}).")
    return values, left_out


def _log_confidence(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """(logarithm of the confidence, correct) of an imagenet-a record, both (N,), over the classes of the protocol."""
    arrays = load_arrays(_file(record), ("logits", "restrict", "labels"))
    logits = arrays["logits"][:, arrays["restrict"]]
    correct = metrics.top_k_correct(logits, arrays["labels"])
    _matches(record, "top1", float(correct.mean()) if len(correct) else None)
    return metrics.log_confidence(logits), correct


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


def load_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file; nothing is unpickled. Raises Unusable when it is not there, one of BAD_FILE
    when it is damaged."""
    if not path.exists():
        raise Unusable(f"{path.name} is missing")
    arrays = read_npz(path)
    return {name: arrays[name] for name in names}


def _matches(record: Record, metric: str, value: float | None) -> None:
    recorded = record["metrics"].get(metric)
    if recorded is not None and (value is None or abs(recorded - value) > 1e-3):
        raise Unusable(f"{record['records']} does not give the recorded {metric}; another run has overwritten it")


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
    """The classes behind one mixed sample by their share of its label, largest first, at most three, a line each;
    `weights` and `labels` (B,)."""
    total = np.bincount(labels, weights=weights.astype(np.float64), minlength=len(classes))
    largest = [i for i in np.argsort(-total, kind="stable")[:3] if total[i] >= 0.01]
    return "\n".join(f"{str(classes[i])[:14]}: {100 * total[i]:.0f} %" for i in largest)


# ---- what transferred backbones predict


def _transferred(rows: Sequence[Row]) -> list[Drawing]:
    """The sheet of predictions of the first row of every kind of transfer; the others lie beside their results."""
    first: dict[tuple[str, str], tuple[Row, Record]] = {}
    for row in rows:
        for record in (r for run in row.runs for r in run.records.values() if r["task"] == "transfer"):
            first.setdefault((record["protocol"], record["config"].get("head") or ""), (row, record))
    drawings = []
    for (protocol, head), (row, record) in sorted(first.items(), reverse=True):  # segmentation first
        path = Path(record["_dir"]) / SAMPLES
        sheet = path.read_bytes() if path.is_file() else b""
        whole = sheet.startswith(PNG) and sheet.endswith(PNG_END)
        what = ", ".join(filter(None, (row.name, head, record["data"]["name"])))
        left_out = [] if whole else [f"{row.name}: {SAMPLES} is {'damaged' if sheet else 'missing'}."]
        caption = f"Validation images with the truth and what {row.name} predicts."
        drawings.append(
            Drawing(
                "-".join(filter(None, ("predictions", protocol, head))),
                f"Predictions ({what})",
                caption,
                sheet if whole else None,
                left_out,
            )
        )
    return drawings


# ---- helpers


def _records(row: Row, group: Group) -> list[Record]:
    """What the tables use too: the complete records of the row's runs, or the first one where none is complete."""
    records = [run.records[group] for run in row.runs if group in run.records]
    return [r for r in records if r["complete"]] or records[:1]


def _incomplete(rows: Sequence[Row], group: Group) -> str:
    names = [row.name for row in rows if not _records(row, group)[0]["complete"]]
    return f" Incomplete, not final: {', '.join(names)}." if names else ""


def _drawing(
    name: str, title: str, caption: str, left_out: list[str], make: Callable[[], Any], half: bool = False
) -> Drawing:
    figure = make()
    return Drawing(name, title, caption, plots.png(figure) if figure is not None else None, left_out, half)
