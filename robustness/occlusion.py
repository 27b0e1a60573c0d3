"""Occlusion: accuracy while patches of the image are dropped at random, salient ones first, or non-salient ones first.

A dropped patch is black before normalisation. Random: the first floor(r N) patches of a random order of the image's own, so the masks of an image are
nested. Salient(Q): the patches that hold the upper Q of the saliency mass, with the one that crosses; non-salient(Q): the complement of Salient(1 - Q).

Source: Naseer et al., "Intriguing Properties of Vision Transformers", NeurIPS 2021. Differs from its code in: masks drawn per image instead of per batch,
seeded by the image's path and nested (same expected accuracy, smaller spread); the paper's five runs by default, where the code makes one; both saliency
modes against the share of mass dropped, where the code counts mass kept for one; saliency of the image normalised as its own model wants it.
"""

import numpy as np
import torch

from evalkit.bootstrap import Means
from evalkit.models import Loaded

from . import layouts
from .config import MODES, OcclusionConfig
from .masks import settings
from .protocol import Arrays, Outcome, Plan, Protocol, by_id, outcome
from .saliency import DINO_HEAD, open_saliency
from .sweep import check_grid, sweep

PUBLISHED_GRID = 14
PUBLISHED = {"modes": list(MODES), "levels": [i / 10 for i in range(10)], "repeats": 5, "grid": PUBLISHED_GRID}
EMBEDDED_GRID = 8  # on embedded sets, for models without patches or with fewer than 4 a side


def prepare(loaded: Loaded, cfg: OcclusionConfig, device: torch.device) -> Plan:
    """Open the images and settle grid and saliency. Raises EvalkitError for data that are missing, partial or of other classes, and for a wrong grid."""
    opened = layouts.open_set("val", layouts.choose("occlusion", cfg.data, loaded), loaded, cfg.allow_partial)
    indices = layouts.class_indices(loaded, opened.matched)
    transform, preprocess = layouts.pipeline(loaded, opened.images, cfg.preprocess)
    embedded = opened.images.native_size is not None
    grid = cfg.grid or (_embedded_grid(loaded, preprocess["side"]) if embedded else PUBLISHED_GRID)
    check_grid(grid, preprocess["side"])
    needed = any(mode != "random" for mode in cfg.modes)
    source = cfg.saliency or ("self" if embedded else "dino")
    saliency = open_saliency(source, cfg.head, loaded, device) if needed else None
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
            "saliency": saliency and saliency.settings,
        },
        resolved={"preprocess": preprocess["mode"], "grid": grid} | ({"saliency": source, "head": str(saliency.settings["head"])} if saliency else {}),
        complete=opened.complete,
        published=opened.published and layouts.is_published(preprocess) and cfg.limit is None and chosen == PUBLISHED and by_dino,
        notes=[layouts.check_line(opened, loaded), *opened.notes],
        extra={"labels": indices[labels], "saliency": saliency},
    )


def _embedded_grid(loaded: Loaded, side: int) -> int:
    patch = loaded.network.patch_size
    return side // patch if patch and side // patch >= 4 else EMBEDDED_GRID


def collect(loaded: Loaded, plan: Plan, cfg: OcclusionConfig, device: torch.device) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids and labels (N,) as the model's outputs, predictions (N, C) and dropped pixel shares (N, C), and mode, level, repeat (C,) of each column."""
    images = plan.sets["data"]
    columns = settings(cfg.modes, cfg.levels, cfg.repeats)
    got = sweep(
        loaded.network,
        images,
        plan.transform,
        columns,
        grid=plan.settings["grid"],
        saliency=plan.extra["saliency"],
        device=device,
        seed=cfg.seed,
        forward_batch=cfg.forward_batch,
        batch_size=cfg.batch_size,
        workers=cfg.workers,
        rows=plan.rows["data"],
        what=f"occlusion {loaded.label}",
    )
    arrays = {"ids": np.array(got.ids), "labels": plan.extra["labels"][got.positions], "predictions": got.predictions, "dropped": got.dropped}
    for name, kind in (("mode", np.str_), ("level", np.float64), ("repeat", np.int64)):
        arrays[name] = np.array([getattr(s, name) for s in columns], dtype=kind)
    return arrays, got.bad


def evaluate(arrays: Arrays) -> Outcome:
    """Accuracies and areas from the records: ids and labels (N,), predictions and dropped (N, C), mode, level and repeat (C,).

    The area under a curve is the trapezoid over its levels divided by their span. `sd` of a level is over the repeats; standard errors are over images.
    """
    arrays = by_id(arrays)
    labels, mode, level = arrays["labels"], arrays["mode"], arrays["level"]
    correct, dropped = arrays["predictions"] == labels[:, None], arrays["dropped"]
    samples, series = {"clean_top1": correct[:, 0]}, []
    for name in dict.fromkeys(mode[1:].tolist()):
        levels = sorted({0.0, *level[mode == name].tolist()})
        curve = []  # per level: (N,) accuracy of each image over the repeats
        for q in levels:
            at = np.flatnonzero((mode == name) & (level == q)) if q else np.array([0])
            runs = [float(correct[:, c].mean()) for c in at]
            curve.append(correct[:, at].mean(axis=1))
            spread = float(np.std(runs, ddof=1)) if len(runs) > 1 else None
            series.append({"mode": name, "level": q, "top1": float(np.mean(runs)), "sd": spread, "runs": runs, "dropped_share": float(dropped[:, at].mean())})
            if q:
                samples[f"top1_{name}_{q:g}"] = curve[-1]
        samples[f"auc_{name}"] = sum((b - a) * (f + g) / 2 for a, b, f, g in zip(levels, levels[1:], curve, curve[1:])) / (levels[-1] - levels[0])
    return outcome(arrays, [Means(samples)], series=series)


PROTOCOL = Protocol("occlusion", 1, prepare, collect, evaluate)
