"""ImageNet-O: does the confidence tell images of unknown classes from those of known ones?

Convention, source and what differs from it: `about.imagenet_o`.
"""

import numpy as np
import torch

from evalkit import fingerprint, metrics
from evalkit.bootstrap import Detection, Means, Statistic
from evalkit.data.folders import same_files
from evalkit.errors import EvalkitError
from evalkit.inference import Pass, predict
from evalkit.models import Facts, Loaded

from . import layouts
from .about.imagenet_o import ImageNetOConfig
from .protocol import Arrays, Measurement, Outcome, Plan, by_id, outcome

EXTRA = ("aupr", "auroc", "fpr95_hendrycks")  # of the scores that are not the published one


def prepare(loaded: Loaded, cfg: ImageNetOConfig, device: torch.device) -> Plan:
    """Open both sides and the classes they share. Raises EvalkitError for data that are missing, partial or of other
    classes.

    Args:
        loaded: The model with its classes and preprocessing.
        cfg: Where the images of both sides lie and how many are measured.
        device: Where the passes will run.
    """
    ood, ind = _open(loaded, cfg)
    restrict = layouts.class_indices(loaded, ood.matched)
    transform, preprocess = layouts.pipeline(loaded, ood.images, cfg.preprocess)
    if preprocess != layouts.pipeline(loaded, ind.images, cfg.preprocess)[1]:
        raise EvalkitError(
            f"{ood.images.name} and {ind.images.name} are prepared differently; use two embedded sets or two folders of"
            " images"
        )
    if fingerprint.same(ood.images.fingerprint, ind.images.fingerprint):
        raise EvalkitError(
            f"the images to find, {ood.images.name}, are the known ones as well; give others with --data or id_data"
        )
    rows = np.flatnonzero(layouts.labels_in(ind.images, ood.matched) >= 0)
    id_rows, ood_rows = rows[layouts.spread(len(rows), cfg.limit)], layouts.spread(len(ood.images), cfg.limit)
    shared = same_files(ind.images, id_rows, ood.images, ood_rows)
    notes = [
        layouts.check_line(ood, loaded),
        (
            f"{len(ood_rows)} out-of-distribution images of {ood.images.name} against {len(id_rows)} in-distribution"
            f" images of {ind.images.name}"
        ),
    ]
    return Plan(
        sets={"ood": ood.images, "id": ind.images},
        rows={"ood": ood_rows, "id": id_rows},
        transform=transform,
        settings={
            "preprocess": preprocess,
            "forward_batch": cfg.forward_batch,
            "restrict": restrict.tolist(),
            "limit": cfg.limit,
        },
        resolved={"preprocess": preprocess["mode"]},
        complete=ood.complete and ind.complete,
        published=ood.published and ind.published and layouts.is_published(preprocess) and cfg.limit is None,
        notes=notes + ood.notes + ind.notes + ([_overlap(shared)] if shared else []),
        extra={"restrict": restrict},
    )


def _open(loaded: Facts, cfg: ImageNetOConfig) -> tuple[layouts.Opened, layouts.Opened]:
    """The images of unknown classes, and those of known ones."""
    ood = layouts.open_set("imagenet-o", layouts.choose("imagenet-o", cfg.data, loaded), loaded, cfg.allow_partial)
    ind = layouts.open_set(
        "val",
        layouts.choose("val", cfg.id_data, loaded, "--id"),
        loaded,
        cfg.allow_partial,
        only=ood.matched,
        labels=cfg.val_labels,
    )
    return ood, ind


def reads(loaded: Facts, cfg: ImageNetOConfig) -> dict[str, str]:
    """Role -> fingerprint of both sides.

    Args:
        loaded: The model, whose classes the known ones must be.
        cfg: Where the images of both sides lie.
    """
    return dict(zip(("ood", "id"), (opened.images.fingerprint for opened in _open(loaded, cfg))))


def _overlap(shared: list[tuple[str, str]]) -> str:
    known, unknown = shared[0]
    return (
        f"warning: {len(shared)} images are on both sides, e.g. id/{known} is the file ood/{unknown}; they cannot be"
        " told apart, clean the data"
    )


def collect(
    loaded: Loaded, plan: Plan, cfg: ImageNetOConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records of both sides: ids (N,) as role/path, ood (N,) bool, logits (N, K) float32 of all classes, restrict
    (K',).

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `prepare` made.
        cfg: How images are read.
        device: Where the passes run.
    """
    got = {}
    for role, images in plan.sets.items():
        got[role] = predict(
            loaded.network,
            images,
            plan.transform,
            Pass.of(cfg, device, f"imagenet-o ({role}) {loaded.label}"),
            rows=plan.rows[role],
            on_error=cfg.on_error,
            parts=plan.parts(role),
        )
    arrays = {
        "ids": np.array([f"{role}/{sample}" for role, records in got.items() for sample in records.ids]),
        "ood": np.concatenate([np.full(len(records.ids), role == "ood") for role, records in got.items()]),
        "logits": np.concatenate([records.logits for records in got.values()]),
        "restrict": plan.extra["restrict"],
    }
    return arrays, [(f"{role}/{sample}", reason) for role, records in got.items() for sample, reason in records.bad]


def evaluate(arrays: Arrays) -> Outcome:
    """aupr, auroc, fpr95 (first threshold) and fpr95_hendrycks (nearest recall), aupr_in (in-distribution positive),
    mean confidences, chance of aupr.

    Extras beyond the published protocol: AUPR, AUROC and FPR95 of the scores max_logit, energy and entropy over the
    restricted classes, and, ending in `_all`, of every score over all classes of the model.
    """
    arrays = by_id(arrays)
    ood, z_all = arrays["ood"], arrays["logits"].astype(np.float64)
    z = np.take(z_all, arrays["restrict"], axis=1)
    log_confidence, confidence = metrics.log_confidence(z), metrics.confidence(z)
    statistics: list[Statistic] = [
        Detection(-log_confidence, ood),
        Detection(log_confidence, ~ood, "_in", only=("aupr",)),
    ]
    statistics += [
        Means({"mean_confidence_ood": confidence}, rows=ood),
        Means({"mean_confidence_id": confidence}, rows=~ood),
    ]
    statistics += [
        Detection(-score(z), ood, f"_{name}", EXTRA) for name, score in metrics.SCORES.items() if name != "msp"
    ]
    if z.shape[1] < z_all.shape[1]:
        statistics += [Detection(-score(z_all), ood, f"_{name}_all", EXTRA) for name, score in metrics.SCORES.items()]
    return outcome(
        arrays,
        statistics,
        more={"chance": float(ood.mean())},
        data={"n_ood": int(ood.sum()), "n_id": int((~ood).sum())},
    )


PROTOCOL = Measurement(prepare, collect, evaluate, reads)
