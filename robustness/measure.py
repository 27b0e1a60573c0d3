"""Run a protocol on models: per-sample records once, numbers from the records, one line in results.jsonl per model."""

import contextlib
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evalkit import accuracy, bootstrap, data, fingerprint, models, results
from evalkit.data.splits import contradictions
from evalkit.errors import EvalkitError, unknown
from evalkit.models.load import of_timm
from evalkit.ordered import each_once
from evalkit.parts import Parts
from evalkit.protocols import Protocol
from evalkit.records import DataUsed, Made, Numbers, make_record
from evalkit.runtime import environment, gather_objects, init_processes, is_main, pick_device
from evalkit.text import plain

from . import layouts, store
from .about import PROTOCOLS
from .config import ProtocolConfig
from .protocol import Arrays, Outcome, Plan

ABOUT = {"bad": list, "notes": dict, "seconds": int | float, "environment": dict}  # what is kept beside records
SHOWN = 20  # unreadable images listed by name on the terminal; the record's side file lists all


class Refused(EvalkitError):
    """A protocol that cannot be run as asked. Every process raises it, before any has begun a pass."""


def run(protocol: str, specs: Sequence[str | models.Loaded], cfg: ProtocolConfig) -> int:
    """Evaluate models and append to `cfg.out`/results.jsonl. Returns 0, or 2 if images could not be read or data were
    partial.

    Per-sample records go to `cfg.out`/records and are used again when model, data, settings and protocol version are
    the same; a pass over images that was killed goes on where it was saved last, a few seconds before (attacks start
    again). Started by torchrun, the processes share the images.

    Args:
        protocol: Name of the protocol.
        specs: The models: anything `evalkit.models.load` takes, or what it or `evalkit.models.wrap` returns.
        cfg: The keys of the protocol.

    Raises Refused for anything wrong before the pass, in every process; another EvalkitError may be of one process
    alone, which must then end, so that torchrun ends those that wait for it.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    device = pick_device(cfg.device)
    init_processes(device)
    return 0 if all([_evaluate(PROTOCOLS[protocol], spec, cfg, device) for spec in specs]) else 2


def _evaluate(protocol: Protocol, spec: str | models.Loaded, cfg: ProtocolConfig, device: torch.device) -> bool:
    """One model; whether the result is complete."""
    folder = Path(cfg.out) / "records"
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        loaded, plan = _agreed(lambda: _prepare(protocol, spec, cfg, device))
    except Refused:
        for place in made if is_main() else ():
            with contextlib.suppress(OSError):  # never made, or no longer empty
                place.rmdir()
        raise
    sets = ", ".join(images.name for images in plan.sets.values())
    say(
        f"{protocol.name}: {loaded.label}{accuracy.which_weights(loaded)} on {sets}",
        *(f"  {note}" for note in [*models.describe(loaded.report), *plan.notes, *_remarks(plan, loaded)]),
        *(f"  {line}" for line in accuracy.other_weights(loaded)),
    )
    checksum = loaded.sha256 or _sha256_of(loaded.network)
    identity = {
        "protocol": protocol.name,
        "version": protocol.version,
        "model": loaded.name,
        "sha256": checksum,
        "mean": loaded.network.mean,
        "std": loaded.network.std,
        "data": {role: images.fingerprint for role, images in plan.sets.items()},
        **({"model_args": loaded.asked} if loaded.asked else {}),
        **plan.settings,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    slug = re.sub(r"[^\w.-]+", "-", loaded.label).strip("-.") or "model"
    path = folder / f"{protocol.name}-{slug}-{digest[:12]}.npz"
    found = gather_objects(_read(protocol, path) if is_main() else None)[0]
    if found is None:

        def parts(role: str) -> Parts:
            return Parts(path.with_suffix(".parts"), f"{role}-{_kind(device)}")

        plan = replace(plan, parts=parts)
        arrays, about = _collect(protocol, loaded, plan, cfg, device)
        if is_main():
            store.write(path, arrays, about)
        parts("").remove()
    else:
        arrays, about, _ = found
        said = [f"{role}: {text}" for role, i in plan.sets.items() if (text := fingerprint.remark(i.fingerprint))]
        say(f"  records of an earlier run used again: {path}", *(f"  the images of {text}" for text in said))
    if is_main():
        outcome = found[2] if found else protocol.load().evaluate(arrays)
        record = _record(protocol, loaded, checksum, plan, cfg, outcome, about, f"records/{path.name}")
        results.append(cfg.out, record)
        say(*(f"  {what} in {n} images" for what, n in about["notes"].items()))
        _report(outcome, about["bad"], _fate(cfg), Path(cfg.out) / results.FILE)
    return plan.complete and (not about["bad"] or cfg.on_error != "fail")


def _prepare(
    protocol: Protocol, spec: str | models.Loaded, cfg: ProtocolConfig, device: torch.device
) -> tuple[models.Loaded, Plan]:
    folder = Path(cfg.out) / "records"
    if is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise EvalkitError(
                f"cannot write to {folder}: {e.strerror or e}; choose another output folder with --out"
            ) from e
    if isinstance(spec, models.Loaded):
        loaded = spec
    else:
        _check_data(protocol, spec, cfg)
        loaded = models.load(spec, model=cfg.model, model_args=cfg.model_args, weights=cfg.weights)
    loaded.network.to(device)
    return loaded, protocol.load().prepare(loaded, cfg, device)


def _check_data(protocol: Protocol, spec: str, cfg: ProtocolConfig) -> None:
    """Refuse data that are not there before weights are loaded, which may be a download."""
    named = of_timm(spec) and getattr(cfg, "data_dir", None) is None
    for key, kind in protocol.needs.items():
        if (given := getattr(cfg, key)) is not None:
            data.check_exists(given)
        elif named:
            raise layouts.no_default(kind, spec, f"--{key.removesuffix('_data')}")


def _agreed(prepare: Callable[[], tuple[models.Loaded, Plan]]) -> tuple[models.Loaded, Plan]:
    """What `prepare` returns; if it fails in any process, Refused in all of them."""
    found: tuple[models.Loaded, Plan] | None = None
    error: EvalkitError | None = None
    try:
        found = prepare()
    except EvalkitError as e:
        error = e
    first = next((message for message in gather_objects(error and str(error)) if message is not None), None)
    if found is None or first is not None:
        raise Refused(str(first)) from error
    return found


def _kind(device: torch.device) -> str:
    """Of the software and hardware that the last bits of a forward pass depend on."""
    kept = {k: v for k, v in environment(device).items() if k not in ("processes", "threads")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _collect(
    protocol: Protocol, loaded: models.Loaded, plan: Plan, cfg: ProtocolConfig, device: torch.device
) -> tuple[Arrays, dict[str, Any]]:
    start = time.monotonic()
    arrays, bad = protocol.load().collect(loaded, plan, cfg, device)
    notes: Counter[str] = Counter()
    for part in gather_objects(
        [
            f"{images.name}: {what}"
            for images in plan.sets.values()
            for what, n in images.notes.items()
            for _ in range(n)
        ]
    ):
        notes.update(part)
    about = {
        "bad": [list(b) for b in bad],
        "notes": dict(sorted(notes.items())),
        "seconds": time.monotonic() - start,
        "environment": environment(device),
    }
    return arrays, about


def _record(
    protocol: Protocol,
    loaded: models.Loaded,
    checksum: str,
    plan: Plan,
    cfg: ProtocolConfig,
    outcome: Outcome,
    about: dict[str, Any],
    records: str,
) -> dict[str, Any]:
    sets = {role: {"name": images.name, "fingerprint": images.fingerprint} for role, images in plan.sets.items()}
    sets |= {role: {"name": name, "fingerprint": known} for role, (name, known) in plan.files.items()}
    main = next(iter(plan.sets.values()))
    whole = (
        main.fingerprint
        if len(sets) == 1
        else fingerprint.combined({f"{role} {one['name']}": one["fingerprint"] for role, one in sets.items()})
    )
    skipped = 0 if cfg.on_error == "wrong" else len(about["bad"])
    notes = [
        *models.describe(loaded.report),
        *accuracy.other_weights(loaded),
        *plan.notes,
        *_remarks(plan, loaded),
        *(f"{what} in {n} images" for what, n in about["notes"].items()),
    ]
    if outcome.intervals:
        notes.append(
            f"standard errors and 95 % intervals over images: {bootstrap.RESAMPLES:,} bootstrap resamples, standard"
            " errors of means in closed form"
        )
    if about["bad"]:
        notes.append(f"{len(about['bad'])} images could not be read and {_fate(cfg)}")
    complete = plan.complete and (not about["bad"] or cfg.on_error != "fail")
    more = {"prepared": str(plan.transform), "sets": sets, **outcome.data, "n_skipped": skipped}
    return make_record(
        "robustness",
        protocol,
        loaded.subject(checksum),
        DataUsed(main.name, whole, "val", any(i.demonstration for i in plan.sets.values()), more),
        Numbers(
            outcome.n,
            outcome.metrics,
            outcome.undefined,
            outcome.standard_errors,
            outcome.intervals,
            outcome.series,
        ),
        Made(
            cfg,
            about["environment"],
            about["seconds"],
            complete,
            seed=getattr(cfg, "seed", None),
            resolved=plan.resolved,
            records=records,
            notes=notes,
        ),
        published=plan.published and plan.complete and not about["bad"] and loaded.published,
    )


def _read(protocol: Protocol, path: Path) -> tuple[Arrays, dict[str, Any], Outcome] | None:
    """The records at `path`, and their numbers; None where there are none, they are damaged, or images were unreadable:
    these may have been mended since."""
    arrays, about = store.read(path) or ({}, {})
    if not all(isinstance(about.get(key), kind) for key, kind in ABOUT.items()) or about["bad"]:
        return None
    outcome = store.evaluated(protocol, arrays)
    return None if outcome is None else (arrays, about, outcome)


def _sha256_of(network: torch.nn.Module) -> str:
    """Of the weights, for models that come from no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- what a person reads


def say(*lines: str) -> None:
    """Print, from the first process."""
    if is_main():
        print("\n".join(map(plain, lines)), flush=True)


def _remarks(plan: Plan, loaded: models.Loaded) -> list[str]:
    """What a reader must know of the images that are read, each once."""
    return each_once(
        remark
        for images in plan.sets.values()
        for remark in [*images.remarks, *contradictions(images), *accuracy.seen_in_training(loaded, images)]
    )


def _fate(cfg: ProtocolConfig) -> str:
    return "count as wrong" if cfg.on_error == "wrong" else "were left out"


def _report(outcome: Outcome, bad: list[list[str]], fate: str, file: Path) -> None:
    curves: dict[str, list[str]] = {}
    for row in outcome.series or []:
        curves.setdefault(row["mode"], []).append(f"{row['level']:g}: {row['top1']:.3f}")
    for mode, points in curves.items():
        print(f"  top-1 by level, {mode}: {'  '.join(points)}")
    for name, value in outcome.metrics.items():
        if curves and name.startswith("top1_"):
            continue
        error = outcome.standard_errors.get(name)
        reason = outcome.undefined.get(name)
        text = f"undefined: {reason}" if reason else f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")
        print(f"  {name:42} {text}")
    print(f"  n = {outcome.n}; recorded in {plain(str(file))}", flush=True)
    if bad:
        print(f"  {len(bad)} images could not be read and {fate}:")
        for sample, reason in bad[:SHOWN]:
            print(plain(f"    {sample}: {reason}"))
        if len(bad) > SHOWN:
            print(f"    and {len(bad) - SHOWN} more, listed beside the records")
