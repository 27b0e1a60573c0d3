"""ImageNet-C: error under 15 common corruptions of the validation images at five severities, from the published files.

Convention, source and what differs from it: `about.imagenet_c`.
"""

from pathlib import Path

import numpy as np
import torch

from evalkit import data
from evalkit.bootstrap import Means
from evalkit.data.folders import FolderImages
from evalkit.errors import EvalkitError, suggest
from evalkit.inference import Pass, predict
from evalkit.models import Facts, Loaded
from evalkit.ordered import each_once

from . import layouts
from .about.imagenet_c import CORRUPTIONS, SEVERITIES, ImageNetCConfig
from .protocol import Arrays, Measurement, Outcome, Plan, by_id, outcome

ALEXNET = {  # AlexNet's error, mean over the severities
    **{
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
    },
    **{
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
    },
    **{"contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840, "jpeg_compression": 0.606500},
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # validation corruptions of the set: no part of mCE
GROUPS = ("noise", "blur", "weather", "digital", "extra")  # the archives, often unpacked into folders of their names
SIDE = 224


def prepare(loaded: Loaded, cfg: ImageNetCConfig, device: torch.device) -> Plan:
    """Open every corruption at every severity. Raises EvalkitError for data that are missing, partial or of other
    classes, and for another input size.

    Args:
        loaded: The model with its classes and preprocessing.
        cfg: Where the images lie, which corruptions and severities are measured.
        device: Where the passes will run.
    """
    sets, problems, notes = _open(loaded, cfg)
    side = loaded.input_size[0]
    if cfg.preprocess is None and side != SIDE:
        raise EvalkitError(
            f"the files of ImageNet-C have {SIDE} pixels and {loaded.label} takes {side}; choose preprocess=published"
            " or model to resize them"
        )
    first = next(iter(sets.values()))
    transform, preprocess = layouts.pipeline(loaded, first, cfg.preprocess or "native")
    whole = tuple(cfg.corruptions) == CORRUPTIONS and tuple(cfg.severities) == SEVERITIES
    published = layouts.is_imagenet(loaded)
    what = (
        f"{len(sets)} of {len(CORRUPTIONS) * len(SEVERITIES)} pairs of a corruption and a severity,"
        f" {len(first.classes)} classes matched by name"
    )
    return Plan(
        sets=dict(sets),
        rows={name: layouts.spread(len(images), cfg.limit) for name, images in sets.items()},
        transform=transform,
        settings={
            "preprocess": preprocess,
            "forward_batch": cfg.forward_batch,
            "cells": list(sets),
            "limit": cfg.limit,
        },
        resolved={"preprocess": preprocess["mode"]},
        complete=not problems,
        published=published and whole and preprocess == {"mode": "native", "side": SIDE} and cfg.limit is None,
        notes=[what, *notes, *(f"imagenet-c is partial: {p}" for p in problems)],
    )


def _open(loaded: Facts, cfg: ImageNetCConfig) -> tuple[dict[str, FolderImages], list[str], list[str]]:
    """See `_cells`."""
    root = layouts.class_root(_existing(layouts.choose("imagenet-c", cfg.data, loaded)), "imagenet-c")
    layouts.check_known(loaded)
    sets, problems, notes = _cells(root, loaded, cfg)
    if problems and not cfg.allow_partial:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise EvalkitError(
            f"{root} is not complete: {'; '.join(problems[:3])}{more}. Complete it, or accept it as partial with"
            " allow_partial=true"
        )
    if not sets:
        raise EvalkitError(f"{root} holds none of the corruptions; expected {root}/gaussian_noise/1/CLASS/image.JPEG")
    return sets, problems, notes


def reads(loaded: Facts, cfg: ImageNetCConfig) -> dict[str, str]:
    """Role -> fingerprint of every corruption at every severity.

    Args:
        loaded: The model, whose classes they must be.
        cfg: Where the images lie, which corruptions and severities are measured.
    """
    return {cell: images.fingerprint for cell, images in _open(loaded, cfg)[0].items()}


def _existing(spec: str) -> Path:
    if not Path(spec).is_dir():
        raise EvalkitError(f"no such folder: {spec}; imagenet-c has no embedded stand-in")
    return Path(spec)


def _cells(root: Path, loaded: Facts, cfg: ImageNetCConfig) -> tuple[dict[str, FolderImages], list[str], list[str]]:
    """corruption/severity -> its images, what is missing, and what a person should know."""
    published, sets, problems = layouts.is_imagenet(loaded), {}, []
    folders = _corruption_folders(root)
    for corruption in cfg.corruptions:
        if corruption not in folders:
            problems.append(f"{corruption} is missing")
            continue
        for severity in cfg.severities:
            cell, folder = f"{corruption}/{severity}", folders[corruption] / str(severity)
            if not folder.is_dir():
                problems.append(f"{cell} is missing")
                continue
            images = data.folder(folder, classes=loaded.classes, name=f"imagenet-c {cell}", allow_partial=True)
            sets[cell] = images
            if published:
                count = np.bincount(images.labels, minlength=len(images.classes)).tolist()
                found = layouts.find_problems(
                    "imagenet-c", sorted(layouts.check_known(loaded)), dict(zip(images.classes, count))
                )
                problems += [f"{cell}: {problem}" for problem in found]
    for images in sets.values():  # the same files 75 times: keep their names once
        first = next(iter(sets.values()))
        if images.ids == first.ids:
            images.ids = first.ids
    notes = [] if published else [f"{root} is a folder of the model's own classes, not a benchmark"]
    extra = [name for name in EXTRA if name in folders]
    return sets, problems, notes + ([f"no part of mCE and passed over: {', '.join(extra)}"] if extra else [])


def _corruption_folders(root: Path) -> dict[str, Path]:
    """Corruption -> its folder, in `root` or in that of its group. Raises EvalkitError for a folder that is neither."""
    known = {*CORRUPTIONS, *EXTRA}
    found: dict[str, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.name in GROUPS:
            found |= _corruption_folders(folder)
        elif folder.name in known:
            found[folder.name] = folder
        elif folder.name != "__MACOSX":
            raise EvalkitError(
                f"the folder '{folder.name}' in {root} is none of the corruptions; rename it or move it"
                f" away.{suggest(folder.name, known)}"
            )
    return found


def collect(
    loaded: Loaded, plan: Plan, cfg: ImageNetCConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids and labels (N,) as the model's outputs, predictions (N, C) int16 with -1 where the image is missing,
    corruption and severity (C,).

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `prepare` made.
        cfg: How images are read.
        device: Where the passes run.
    """
    labels = {images.ids[i]: int(images.labels[i]) for cell, images in plan.sets.items() for i in plan.rows[cell]}
    row = {sample: i for i, sample in enumerate(sorted(labels))}
    predictions, bad = np.full((len(row), len(plan.sets)), -1, np.int16), []
    for column, (cell, images) in enumerate(plan.sets.items()):
        got = predict(
            loaded.network,
            images,
            plan.transform,
            Pass.of(cfg, device, f"imagenet-c {cell} {loaded.label}"),
            rows=plan.rows[cell],
            on_error=cfg.on_error,
            parts=plan.parts(cell.replace("/", "-")),
        )
        predictions[[row[sample] for sample in got.ids], column] = got.logits.argmax(axis=1)
        bad += [(f"{cell}/{sample}", reason) for sample, reason in got.bad]
    seen = (predictions >= 0).any(axis=1)
    arrays = {
        "ids": np.array(list(row))[seen],
        "labels": np.array([labels[sample] for sample in row], dtype=np.int64)[seen],
        "predictions": predictions[seen],
        "corruption": np.array([cell.partition("/")[0] for cell in plan.sets]),
        "severity": np.array([int(cell.partition("/")[2]) for cell in plan.sets]),
    }
    return arrays, bad


def evaluate(arrays: Arrays) -> Outcome:
    """mce, mean_error (plain mean over the corruptions), error_<corruption>, and the accuracy of every corruption and
    severity as series."""
    arrays = by_id(arrays)
    labels, predictions, corruption, severity = (arrays[k] for k in ("labels", "predictions", "corruption", "severity"))
    wrong = np.where(predictions >= 0, predictions != labels[:, None], np.nan)  # (N, C)
    errors = np.nanmean(wrong, axis=0)
    names = each_once(corruption.tolist())
    mean = {name: float(errors[corruption == name].mean()) for name in names}
    whole = set(names) == set(CORRUPTIONS) and all(
        set(severity[corruption == name].tolist()) == set(SEVERITIES) for name in names
    )
    numbers = {
        "mce": float(np.mean([mean[c] / ALEXNET[c] for c in CORRUPTIONS])) if whole else float("nan"),
        "mean_error": float(np.mean(list(mean.values()))),
    }
    numbers |= {f"error_{name}": value for name, value in mean.items()}
    statistics = []
    if not np.isnan(wrong).any():  # every image in every cell: the numbers are means over the images
        by_image = np.stack([wrong[:, corruption == name].mean(axis=1) for name in names], axis=1)  # (N, corruptions)
        samples = {"mean_error": by_image.mean(axis=1)} | {
            f"error_{name}": column for name, column in zip(names, by_image.T)
        }
        if whole:
            samples["mce"] = (by_image / [ALEXNET[name] for name in names]).mean(axis=1)
        statistics = [Means(samples)]
    series = [
        {"mode": c, "level": int(s), "top1": 1 - float(e)} for c, s, e in zip(corruption.tolist(), severity, errors)
    ]
    undefined = {} if whole else {"mce": "not all 15 corruptions at all five severities were evaluated"}
    return outcome(arrays, statistics, more=numbers, reasons=undefined, series=series)


PROTOCOL = Measurement(prepare, collect, evaluate, reads)
