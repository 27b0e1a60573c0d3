"""Other photographs and renditions of ImageNet's classes, measured as ImageNet-A is: ImageNet-R, ImageNet-Sketch,
ImageNetV2, and the clean images.

Conventions, sources and what differs from them: `about.shifts`.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.data import RealLabelsImagenet

from evalkit.bootstrap import Means
from evalkit.data.folders import FolderImages
from evalkit.models import Facts, Loaded

from . import imagenet_a, layouts
from .about.shifts import ImageNetValConfig
from .clean import open_clean
from .config import ProtocolConfig
from .protocol import Arrays, Measurement, Outcome, Plan, by_id, outcome
from .sets import wnids

VAL_IMAGES = 50_000
V2_SETS = ("matched-frequency", "threshold0.7", "top-images")


def prepare(kind: str, loaded: Loaded, cfg: ProtocolConfig, device: torch.device) -> Plan:
    """Open one of the shifted sets. Raises EvalkitError for data that are missing, partial or of other classes.

    Args:
        kind: Imagenet-r, imagenet-sketch or imagenet-v2.
        loaded: The model with its classes and preprocessing.
        cfg: Where the images lie and how many are measured.
        device: Where the passes will run.
    """
    opened = imagenet_a.open_data(kind, loaded, cfg)
    if kind == "imagenet-v2" and opened.published:
        opened = _which_v2(opened)
    return imagenet_a.plan_for(kind, loaded, cfg, opened)


def _which_v2(opened: layouts.Opened) -> layouts.Opened:
    """Papers print V2's matched-frequency set; the two easier ones, and a folder whose name does not tell, are not what
    a published value was made on."""
    assert isinstance(opened.images, FolderImages), "the published set is a folder"
    folder = Path(opened.images.root).resolve().name
    variant = next((v for v in V2_SETS if v in folder), "of unknown choice")
    opened.images.name = f"imagenet-v2 {variant}"
    if variant == V2_SETS[0]:
        return opened
    note = (
        f"the folder's name is not that of the {V2_SETS[0]} set, which papers print; the images are"
        f" {variant if variant in V2_SETS else 'one of three sets'}"
    )
    return dataclasses.replace(opened, published=False, notes=[*opened.notes, note])


IMAGENET_R, IMAGENET_SKETCH, IMAGENET_V2 = (
    Measurement(partial(prepare, kind), imagenet_a.collect, imagenet_a.evaluate, partial(imagenet_a.reads, kind))
    for kind in ("imagenet-r", "imagenet-sketch", "imagenet-v2")
)


# ---- the clean images


def prepare_val(loaded: Loaded, cfg: ImageNetValConfig, device: torch.device) -> Plan:
    """Open the clean images, all or those of another set's classes, and their reassessed labels. Raises EvalkitError as
    `prepare` does.

    Args:
        loaded: The model with its classes and preprocessing.
        cfg: Where the images lie and which classes are measured.
        device: Where the passes will run.
    """
    opened = _open_val(loaded, cfg)
    plan = imagenet_a.plan_for("imagenet-val", loaded, cfg, opened, own=True)
    if opened.published and not cfg.classes:
        plan.extra["real"] = real_labels(loaded, opened.images.ids)
    return plan


def _open_val(loaded: Facts, cfg: ImageNetValConfig) -> layouts.Opened:
    return open_clean(loaded, cfg, wnids(cfg.classes) if cfg.classes else None)


def reads_val(loaded: Facts, cfg: ImageNetValConfig) -> dict[str, str]:
    """Role -> fingerprint of the clean images, all or those of another set's classes.

    Args:
        loaded: The model, whose classes they must be.
        cfg: Where they lie and which classes are measured.
    """
    return {"data": _open_val(loaded, cfg).images.fingerprint}


def real_labels(loaded: Loaded, ids: Sequence[str]) -> np.ndarray | None:
    """The reassessed labels of images as the model's outputs, (N, L) int16 filled up with -1; None unless all images
    are called as in ImageNet val.

    Args:
        loaded: The model with the names of its outputs.
        ids: Ids of the N images.
    """
    known = RealLabelsImagenet(range(VAL_IMAGES)).real_labels
    names = [sample.rpartition("/")[2] for sample in ids]
    if not all(name in known for name in names):
        return None
    position = layouts.class_indices(loaded, sorted(layouts.check_known(loaded)))
    table = np.full((len(ids), max(map(len, known.values()))), -1, np.int16)
    for row, name in zip(table, names):
        row[: len(known[name])] = position[known[name]]
    return table


def collect_val(
    loaded: Loaded, plan: Plan, cfg: ImageNetValConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """The records of ImageNet-A, and `real` (N, L), see `real_labels`, where it is known.

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `prepare_val` made.
        cfg: How images are read.
        device: Where the passes run.
    """
    arrays, bad = imagenet_a.collect(loaded, plan, cfg, device)
    if (real := plan.extra.get("real")) is not None:
        row = {sample: i for i, sample in enumerate(plan.sets["data"].ids)}
        arrays["real"] = real[[row[sample] for sample in arrays["ids"].tolist()]]
    return arrays, bad


def evaluate_val(arrays: Arrays) -> Outcome:
    """The numbers of ImageNet-A, and real_top1: the share of images with a reassessed label whose prediction is one of
    them."""
    clean = imagenet_a.evaluate(arrays)
    if "real" not in arrays:
        return clean
    arrays = by_id(arrays)
    labelled = np.asarray((arrays["real"] >= 0).any(axis=1))
    right = (arrays["real"] == arrays["logits"].argmax(axis=1)[:, None]).any(axis=1) & arrays.get("readable", True)
    statistics = [*clean.statistics, Means({"real_top1": right}, rows=labelled)]
    known = {
        name: value for name, value in clean.metrics.items() if not any(name in s.values for s in clean.statistics)
    }
    reasons = clean.undefined | {"real_top1": "no image has a reassessed label"}
    return outcome(arrays, statistics, more=known, reasons=reasons, data={"n_real": int(labelled.sum())})


IMAGENET_VAL = Measurement(prepare_val, collect_val, evaluate_val, reads_val)
