"""Is one model better than another on the same images? Paired bootstrap and McNemar's exact test on the per-sample
records of two runs.

Both models are resampled with the same images, so what makes an image hard for both cancels: the difference is known
far better than either number. McNemar's test asks, of the images that only one model gets right, whether they are split
like tosses of a fair coin. Source: McNemar, "Note on the sampling error of the difference between correlated
proportions or percentages", Psychometrika 12, 1947.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.stats import binomtest

from evalkit import bootstrap, fingerprint, results, zoo
from evalkit.about import ACCURACY
from evalkit.errors import EvalkitError, unknown
from evalkit.ordered import each_once
from evalkit.protocols import Metric, Protocol
from evalkit.records import plain as jsonable
from evalkit.runtime import write_atomic
from evalkit.text import plain, say

from .about import PROTOCOLS
from .protocol import Outcome
from .recorded import outcome_of

ALPHA = 1 - bootstrap.COVERAGE
FILE = "compare.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One metric of two models. `mcnemar`: images that only A and only B get right, and the two-sided p; None where it
    is no share of images.

    Args:
        metric: Name of the metric in records.
        a: Its value for A, in the metric's own unit.
        b: The same for B.
        difference: The value of A less that of B.
        standard_error: Of the difference, over images that both saw.
        interval: Of the difference, 95 %: (low, high).
        mcnemar: Images that only A and only B get right, and the two-sided p; None where the metric is no share of
            images.
        better: The side whose advantage the interval confirms, "a" or "b"; None where it does not.
    """

    metric: str
    a: float
    b: float
    difference: float
    standard_error: float
    interval: tuple[float, float]
    mcnemar: tuple[int, int, float] | None
    better: str | None


def compare(
    a: str,
    b: str,
    protocols: Sequence[str] = (),
    out: str | Path | None = None,
    transfers: Mapping[str, Protocol] = MappingProxyType({}),
) -> int:
    """Print how two runs differ in every metric of every protocol that both have, robustness, accuracy and transfers
    with predictions of each image; 0.

    Args:
        a: A folder of results of one model, `zoo:NAME`, or FOLDER:NAME with a model's label or the start of its
            checkpoint's sha256.
        b: The other run, named the same way.
        protocols: Names of the protocols that are compared; empty: all that both have.
        out: Folder for compare.json and the figures; None: only print.
        transfers: The transfers by name, which the command line knows.

    Raises EvalkitError where the runs are not of the same protocol version, data, settings and images, or their records
    are gone.
    """
    known = {**comparable(), **transfers}
    sides = [_runs(spec, protocols, known) for spec in (a, b)]
    shared = [
        name for name in each_once(r["protocol"] for r in sides[0]) if any(r["protocol"] == name for r in sides[1])
    ]
    absent = [name for name in protocols if name not in shared]
    if absent or not shared:
        what = f"{absent[0]} results" if absent else "results of the same protocol"
        raise EvalkitError(
            f"{a} and {b} do not both hold {what}; run `evalkit robustness`, `evalkit eval` or `evalkit transfer` on"
            " both models first"
        )
    made = []
    for name in shared:
        pairs = _pairs(name, sides[0], sides[1], names=(a, b))
        for k, (spec, side) in enumerate(zip((a, b), sides)):
            lone = [r for r in side if r["protocol"] == name and not any(r is pair[k] for pair in pairs)]
            others = [r for r in sides[1 - k] if r["protocol"] == name]
            say(*(f"not compared: {name} of {spec}, {_which(r)}: {_obstacle(r, others[-1])}" for r in lone))
        for first, second in pairs:
            if len({_which(one) for one, _ in pairs}) > 1:
                say(f"{name} on {_which(first)}:")
            sides_of = [outcome_of(r, transfers) for r in (first, second)]
            differences = paired(known[name], sides_of[0], sides_of[1], names=(a, b))
            say(*_text(first, second, differences).split("\n"))
            made.append(_json(first, second, differences))
    if out is not None:
        text = json.dumps(jsonable(made), indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_atomic(Path(out) / FILE, lambda f: f.write(text.encode()))
    return 0


# ---- the numbers


def paired(
    protocol: Protocol,
    a: tuple[np.ndarray, Outcome],
    b: tuple[np.ndarray, Outcome],
    names: tuple[str, str] = ("A", "B"),
) -> list[Difference]:
    """Every metric of a protocol with a better side that both models define; its interval is NaN where some draw of
    images leaves it undefined. Raises EvalkitError for different images.

    Args:
        protocol: Its description, which says which side of a metric is better.
        a: (ids in order, outcome) of the first model.
        b: The same of the second.
        names: How errors name the two.
    """
    (ids, first), (other, second) = a, b
    if ids.shape != other.shape or (ids != other).any():
        odd = sorted(set(ids.tolist()) ^ set(other.tolist()))
        raise EvalkitError(
            f"{names[0]} and {names[1]} hold different images: {len(odd)} are in one only, e.g. {odd[0]}; mend them and"
            " run both again"
        )
    known = [{m: v for s in outcome.statistics for m, v in s.values.items()} for outcome in (first, second)]
    chosen = [
        m
        for m, v in known[0].items()
        if protocol.metric(m).better != "neither" and np.isfinite([v, known[1].get(m, np.nan)]).all()
    ]

    def difference(counts: np.ndarray) -> bootstrap.Values:
        left, right = (
            {m: v for s in outcome.statistics for m, v in s.resampled(counts).items()} for outcome in (first, second)
        )
        return {m: left[m] - right[m] for m in chosen}

    found = bootstrap.resample(difference, ids, first.strata)
    rights = [
        {m: v for s in outcome.statistics for m, v in getattr(s, "samples", {}).items()} for outcome in (first, second)
    ]
    return [
        _difference(protocol.metric(m), first.metrics[m], second.metrics[m], found[m], [r.get(m) for r in rights])
        for m in chosen
    ]


def _difference(
    metric: Metric, a: float, b: float, resampled: np.ndarray, right: list[np.ndarray | None]
) -> Difference:
    test, high = None, metric.better == "high"
    left, other = right
    if left is not None and other is not None and all(np.isin(r, (0, 1)).all() for r in (left, other)):
        # an error is 1 where the image is wrong
        test = mcnemar(left.astype(bool) == high, other.astype(bool) == high)
    interval = bootstrap.interval(a - b, resampled)
    shown = test[2] < ALPHA if test else interval[0] > 0 or interval[1] < 0  # NaN, see `paired`, shows nothing
    better = ("a" if (a > b) == high else "b") if shown else None
    return Difference(metric.name, a, b, a - b, bootstrap.standard_error(resampled), interval, test, better)


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """(images only `a` gets right, only `b`, exact two-sided p) of two models; p = 1 where they never differ.

    Args:
        a: Whether the first model is right, (N,) bool.
        b: Whether the second one is, for the same images.

    >>> only_a, only_b, p = mcnemar(np.array([1] * 9 + [0] * 1, bool), np.array([0] * 8 + [1] * 2, bool))
    >>> only_a, only_b, round(p, 4)
    (8, 1, 0.0391)
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


# ---- which records


def comparable() -> dict[str, Protocol]:
    """What can be compared without being told of more, by name: every robustness protocol, and accuracy."""
    return {**PROTOCOLS, ACCURACY.name: ACCURACY}


def _runs(spec: str, protocols: Sequence[str], known: Mapping[str, Protocol]) -> list[Record]:
    """The latest records of the one model that `spec` names."""
    if odd := [p for p in protocols if p not in known]:
        raise unknown("protocol", odd[0], known)
    cuts = [i for i, letter in enumerate(spec) if letter == ":" and Path(spec[:i]).exists()]
    whole = zoo.located(spec)
    folder, name = (whole, None) if whole.exists() or not cuts else (spec[: cuts[0]], spec[cuts[0] + 1 :])
    found = [
        r
        for r in results.latest(results.read([folder]))
        if r["protocol"] in (protocols or known) and r["task"] in ("robustness", "eval", "transfer")
    ]
    chosen = [
        r
        for r in found
        if name is None
        or name in (r["label"], r["model"])
        or (len(name) >= 6 and (r["checkpoint_sha256"] or "").startswith(name))
    ]
    models = {(r["label"], r["model"], r["checkpoint_sha256"]) for r in chosen}
    if name is not None and found and not models:
        raise unknown(f"model of {folder}", name, {r["label"] for r in found})
    if len(models) > 1:
        listed = ", ".join(
            f"{label} ({model}, checkpoint {(sha or 'unknown')[:8]})" for label, model, sha in sorted(models, key=str)
        )
        raise EvalkitError(
            f"{spec} holds {len(models)} models: {listed}; name one as {folder}:LABEL, {folder}:ARCHITECTURE or"
            f" {folder}:CHECKPOINT"
        )
    return chosen


def _pairs(
    protocol: str, left: list[Record], right: list[Record], names: tuple[str, str]
) -> list[tuple[Record, Record]]:
    """Records of `protocol` that measured the same thing. Raises EvalkitError, naming the first difference, if there is
    no such pair."""
    left, right = ([r for r in side if r["protocol"] == protocol] for side in (left, right))
    pairs = [(a, b) for a in left for b in right if _obstacle(a, b) is None]
    if not pairs:
        raise EvalkitError(
            f"{protocol} of {names[0]} and {names[1]} cannot be compared: {_obstacle(left[0], right[0])}"
        )
    return pairs


def _obstacle(a: Record, b: Record) -> str | None:
    """Why two records of a protocol are not of the same measurement; None if they are."""
    if a["version"] != b["version"]:
        return f"protocol version {a['version']} against {b['version']}; run the older one again"
    if fingerprint.same(a["data"]["fingerprint"], b["data"]["fingerprint"]) is False:
        prints = " against ".join(
            f"{r['data']['name']} ({fingerprint.short(r['data']['fingerprint'])})" for r in (a, b)
        )
        return f"the data differ, {prints}; evaluate both models on the same files"
    ours, theirs = results.settings(a), results.settings(b)
    if different := sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k)):
        return (
            f"{different[0]} is {ours.get(different[0])} against {theirs.get(different[0])}; run both with the same"
            " settings"
        )
    return None


# ---- what comes out


def _text(a: Record, b: Record, differences: Sequence[Difference]) -> str:
    """A table, a verdict at the end of each line."""
    labels = (
        dict(zip("ab", (_name(a), _name(b))))
        if _name(a) != _name(b)
        else {"a": f"{_name(a)} (A)", "b": f"{_name(b)} (B)"}
    )
    rows = [("", "A", "B", "A - B", "95 % interval", "only A / only B right", "")]
    for d in differences:
        test = f"{d.mcnemar[0]} / {d.mcnemar[1]}, p = {d.mcnemar[2]:.2g}" if d.mcnemar else ""
        verdict = f"{labels[d.better]} is better" if d.better else "no difference shown"
        error, (low, high) = f"{d.difference:+.4f} ± {d.standard_error:.4f}", d.interval
        span = f"{low:+.4f} to {high:+.4f}"
        if np.isnan(low):
            span, verdict = "", "not decidable: some draws of the images leave it undefined"
        rows.append((d.metric, f"{d.a:.4f}", f"{d.b:.4f}", error, span, test, verdict))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    head = f"{a['protocol']} on {a['data']['name']}, {a['n']:,} images: A = {labels['a']}, B = {labels['b']}"
    note = (
        f"  paired bootstrap over images, {bootstrap.RESAMPLES:,} resamples; McNemar's exact test where a metric is a"
        " share of images"
    )
    by_chance = max(1, round(ALPHA * len(differences)))
    chance = (
        f"; of {len(differences)} metrics about {by_chance} would look different by chance"
        if len(differences) >= 10
        else ""
    )
    known = fingerprint.same(a["data"]["fingerprint"], b["data"]["fingerprint"])
    unsure = (
        [] if known else ["  whether the images are the same is not known: their fingerprints are of different kinds"]
    )
    ways = [r["data"].get("prepared", "not recorded") for r in (a, b)]
    if ways[0] != ways[1]:
        unsure.append(f"  the images were not prepared alike, which moves numbers too: A: {ways[0]}; B: {ways[1]}")
    return "\n".join(map(plain, [head, *lines, note + chance, *unsure]))


def _which(record: Record) -> str:
    """The data of a record; images that changed under the name have another number."""
    return f"{record['data']['name']} ({fingerprint.short(record['data']['fingerprint'], 8)})"


def _name(record: Record) -> str:
    return " ".join(record["label"].split())


def _json(a: Record, b: Record, differences: Sequence[Difference]) -> dict[str, Any]:
    keys = (
        "label",
        "model",
        "method",
        "weights",
        "checkpoint_sha256",
        "complete",
        "demonstration",
        "published",
        "seed",
    )
    return {
        "schema": 1,
        "task": "compare",
        "protocol": a["protocol"],
        "version": a["version"],
        "data": {key: a["data"][key] for key in ("name", "fingerprint", "split")},
        "n": a["n"],
        "settings": results.settings(a),
        "resamples": bootstrap.RESAMPLES,
        "a": {key: a[key] for key in keys},
        "b": {key: b[key] for key in keys},
        "metrics": {d.metric: {k: v for k, v in asdict(d).items() if k != "metric"} for d in differences},
    }
