"""Occlusion: accuracy while patches of the image are dropped at random, salient ones first, or non-salient ones first.

Convention, source and what differs from it: `about.occlusion`.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from evalkit.bootstrap import Means
from evalkit.errors import EvalkitError
from evalkit.fingerprint import FULL
from evalkit.models import Facts, Loaded
from evalkit.ordered import each_once
from evalkit.runtime import gather_objects, is_main

from . import layouts, store
from .about.occlusion import MODES, OcclusionConfig
from .clean import open_clean
from .masks import settings
from .protocol import Arrays, Measurement, Outcome, Plan, by_id, outcome
from .saliency import DINO_HEAD, cached, known_by, open_saliency
from .sweep import check_grid, sweep

PUBLISHED_GRID = 14
PUBLISHED = {"modes": list(MODES), "levels": [i / 10 for i in range(10)], "repeats": 5, "grid": PUBLISHED_GRID}
VARIANTS = {"offset": 0, "fill": "black", "shuffle": []}  # with another value it is not the paper's main figure
EMBEDDED_GRID = 8  # on embedded sets, for models without patches or with fewer than 4 a side


def prepare(loaded: Loaded, cfg: OcclusionConfig, device: torch.device) -> Plan:
    """Open the images and settle grid and saliency. Raises EvalkitError for data that are missing, partial or of other
    classes, and for a wrong grid.

    Args:
        loaded: The model with its classes and preprocessing.
        cfg: Where the images and saliency come from, what is dropped and how.
        device: Where the passes will run, those of a saliency model too.
    """
    opened = open_clean(loaded, cfg)
    indices = layouts.class_indices(loaded, opened.matched)
    transform, preprocess = layouts.pipeline(loaded, opened.images, cfg.preprocess)
    embedded = opened.images.native_size is not None
    grid = cfg.grid or (_embedded_grid(loaded, preprocess["side"]) if embedded else PUBLISHED_GRID)
    for patches in (grid, *cfg.shuffle):
        check_grid(patches, preprocess["side"])
    if cfg.offset >= preprocess["side"] // grid:
        raise EvalkitError(
            f"offset={cfg.offset} is a whole patch of {preprocess['side'] // grid} pixels or more; choose a smaller one"
        )
    source = _saliency(cfg, opened)
    saliency = open_saliency(source, cfg.head, loaded, device) if source else None
    variants = {key: getattr(cfg, key) for key, usual in VARIANTS.items() if getattr(cfg, key) != usual}
    chosen = {"modes": cfg.modes, "levels": cfg.levels, "repeats": cfg.repeats, "grid": grid}
    by_dino = saliency is not None and (saliency.settings["source"], saliency.settings["head"]) == ("dino", DINO_HEAD)
    labels = layouts.labels_in(opened.images, opened.matched)
    return Plan(
        sets={"data": opened.images},
        rows={"data": layouts.spread(len(opened.images), cfg.limit)},
        transform=transform,
        settings={
            "preprocess": preprocess,
            "forward_batch": cfg.forward_batch,
            "limit": cfg.limit,
            "seed": cfg.seed,
            **chosen,
            **variants,
            "saliency": saliency and saliency.settings,
        },
        resolved={"preprocess": preprocess["mode"], "grid": grid}
        | ({"saliency": source, "head": str(saliency.settings["head"])} if saliency else {}),
        complete=opened.complete,
        published=opened.published
        and layouts.is_published(preprocess)
        and cfg.limit is None
        and chosen == PUBLISHED
        and by_dino
        and not variants,
        notes=[layouts.check_line(opened, loaded), *opened.notes, *(saliency.said if saliency is not None else ())],
        extra={"labels": indices[labels], "saliency": saliency},
        files={"saliency": (str(source), f"{FULL}:{known}")} if saliency and (known := saliency.by_file) else {},
    )


def _saliency(cfg: OcclusionConfig, opened: layouts.Opened) -> str | None:
    """Where saliency maps come from; None: no mode asks for them."""
    if all(mode == "random" for mode in cfg.modes):
        return None
    return cfg.saliency or ("self" if opened.images.native_size is not None else "dino")


def reads(loaded: Facts, cfg: OcclusionConfig) -> dict[str, str]:
    """Role -> fingerprint of the clean images, and of the file that saliency maps come from.

    Args:
        loaded: The model, whose classes the images must be.
        cfg: Where images and saliency come from.
    """
    opened = open_clean(loaded, cfg)
    source = _saliency(cfg, opened)
    found = {"data": opened.images.fingerprint}
    return found | ({"saliency": f"{FULL}:{known}"} if source and (known := known_by(source)) else {})


def _embedded_grid(loaded: Loaded, side: int) -> int:
    patch = loaded.network.patch_size
    return side // patch if patch and side // patch >= 4 else EMBEDDED_GRID


def collect(
    loaded: Loaded, plan: Plan, cfg: OcclusionConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids and labels (N,) as the model's outputs, predictions (N, C) and dropped pixel shares (N, C), and
    mode, level, repeat (C,) of each column.

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `prepare` made.
        cfg: How images are read and how many rows a forward pass has.
        device: Where the passes run.
    """
    images = plan.sets["data"]
    columns = settings(cfg.modes, cfg.levels, cfg.repeats, cfg.shuffle)
    saliency, cache = plan.extra["saliency"], _cache(plan, cfg)
    if cache is not None:
        # The first process looks whether an earlier pass left the saliency of all these images; all do as it says: read
        # that file, or make the saliency anew and keep it.
        wanted = [images.ids[i] for i in plan.rows["data"]]
        there = is_main() and cached(cache, saliency, wanted) is not None
        if gather_objects(there)[0]:
            saliency, cache = cached(cache, saliency, []), None
    got = sweep(
        loaded.network,
        images,
        plan.transform,
        columns,
        grid=plan.settings["grid"],
        saliency=saliency,
        device=device,
        seed=cfg.seed,
        forward_batch=cfg.forward_batch,
        batch_size=cfg.batch_size,
        workers=cfg.workers,
        rows=plan.rows["data"],
        what=f"occlusion {loaded.label}",
        offset=cfg.offset,
        fill=loaded.network.mean if cfg.fill == "mean" else None,
        keep_saliency=cache is not None,
        parts=plan.parts("data-saliency" if cache is not None else "data"),
    )
    if cache is not None and got.saliency is not None and is_main():
        side = round(got.saliency.shape[1] ** 0.5)
        if side * side == got.saliency.shape[1]:
            kept = {"ids": np.array(got.ids), "saliency": got.saliency, "grid": np.array([side, side])}
            store.write(cache, kept, plan.extra["saliency"].settings)
    arrays = {
        "ids": np.array(got.ids),
        "labels": plan.extra["labels"][got.positions],
        "predictions": got.predictions,
        "dropped": got.dropped,
    }
    for name, kind in (("mode", np.str_), ("level", np.float64), ("repeat", np.int64)):
        arrays[name] = np.array([getattr(s, name) for s in columns], dtype=kind)
    return arrays, got.bad


def _cache(plan: Plan, cfg: OcclusionConfig) -> Path | None:
    """Where the saliency of these images is kept for the next model and the next settings; None for what has no
    checksum or is a file already."""
    saliency = plan.extra["saliency"]
    if saliency is None or saliency.settings.get("sha256") is None or saliency.settings["source"] == "file":
        return None
    kept = {key: plan.settings[key] for key in ("preprocess", "forward_batch", "limit")}
    # the checksum says it, whatever its name
    identity = {"data": plan.sets["data"].fingerprint, **kept, **saliency.settings, "source": None}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path(cfg.out) / "saliency" / f"{digest[:16]}.npz"


def evaluate(arrays: Arrays) -> Outcome:
    """Accuracies and areas from the records: ids and labels (N,), predictions and dropped (N, C), mode, level and
    repeat (C,).

    The area under a curve is the trapezoid over its levels divided by their span. `sd` of a level is over the repeats;
    standard errors are over images.
    """
    arrays = by_id(arrays)
    labels, mode, level = arrays["labels"], arrays["mode"], arrays["level"]
    correct, dropped = arrays["predictions"] == labels[:, None], arrays["dropped"]
    samples, series = {"clean_top1": correct[:, 0]}, []
    for name in each_once(mode[1:].tolist()):
        levels = sorted({*([] if name == "shuffle" else [0.0]), *level[mode == name].tolist()})
        curve = []  # per level: (N,) accuracy of each image over the repeats
        for q in levels:
            at = np.flatnonzero((mode == name) & (level == q)) if q else np.array([0])
            runs = [float(correct[:, c].mean()) for c in at]
            curve.append(correct[:, at].mean(axis=1))
            spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else None
            series.append(
                {
                    "mode": name,
                    "level": q,
                    "top1": float(np.mean(runs)),
                    "sd": spread,
                    "runs": runs,
                    "dropped_share": float(dropped[:, at].mean()),
                }
            )
            if q:
                samples[f"top1_{name}_{q:g}"] = curve[-1]
        if name == "shuffle":  # its levels are grids: no axis to take an area over
            continue
        samples[f"auc_{name}"] = sum(
            (b - a) * (f + g) / 2 for a, b, f, g in zip(levels, levels[1:], curve, curve[1:])
        ) / (levels[-1] - levels[0])
    return outcome(arrays, [Means(samples)], series=series)


PROTOCOL = Measurement(prepare, collect, evaluate, reads)
