"""ImageNet-A: accuracy, calibration and selective prediction on natural adversarial examples.

Convention, source and what differs from it: `about.imagenet_a`.
"""

from functools import partial

import numpy as np
import torch

from evalkit import metrics
from evalkit.bootstrap import Aurra, Calibration, Means, Statistic
from evalkit.inference import Pass, predict
from evalkit.models import Facts, Loaded

from . import layouts
from .config import ProtocolConfig
from .masks import path_hash
from .protocol import Arrays, Measurement, Outcome, Plan, by_id, outcome


def prepare(loaded: Loaded, cfg: ProtocolConfig, device: torch.device) -> Plan:
    """Open the images and find the model's classes among them. Raises EvalkitError for data that are missing, partial
    or of other classes.

    Args:
        loaded: The model with its classes and preprocessing.
        cfg: Where the images lie and how many are measured.
        device: Where the passes will run.
    """
    return plan_for("imagenet-a", loaded, cfg, open_data("imagenet-a", loaded, cfg))


def open_data(kind: str, loaded: Facts, cfg: ProtocolConfig) -> layouts.Opened:
    """The images of a protocol that reads one published set, or what stands in for it.

    Args:
        kind: The data set, a name in SETS.
        loaded: The model, whose classes they must be.
        cfg: Where they lie.
    """
    return layouts.open_set(kind, layouts.choose(kind, cfg.data, loaded), loaded, cfg.allow_partial)


def reads(kind: str, loaded: Facts, cfg: ProtocolConfig) -> dict[str, str]:
    """Role -> fingerprint of what such a protocol reads.

    Args:
        kind: The data set, a name in SETS.
        loaded: The model, whose classes they must be.
        cfg: Where they lie.
    """
    return {"data": open_data(kind, loaded, cfg).images.fingerprint}


def plan_for(name: str, loaded: Loaded, cfg: ProtocolConfig, opened: layouts.Opened, own: bool = False) -> Plan:
    """The plan of a protocol that classifies images among the classes of their set.

    Args:
        name: The protocol, as records name it.
        loaded: The model with its classes and preprocessing.
        cfg: How images are prepared and how many are measured.
        opened: The checked data set.
        own: Whether a checkpoint of a run sees the images as the run validated itself, unless the configuration says
            otherwise.
    """
    restrict = layouts.class_indices(loaded, opened.classes)
    transform, preprocess = layouts.pipeline(loaded, opened.images, cfg.preprocess, own)
    notes = [layouts.check_line(opened, loaded)]
    return Plan(
        sets={"data": opened.images},
        rows={"data": layouts.spread(len(opened.images), cfg.limit)},
        transform=transform,
        settings={
            "preprocess": preprocess,
            "forward_batch": cfg.forward_batch,
            "restrict": restrict.tolist(),
            "limit": cfg.limit,
        },
        resolved={"preprocess": preprocess["mode"]},
        complete=opened.complete,
        published=opened.published and layouts.is_published(preprocess) and cfg.limit is None,
        notes=notes + opened.notes,
        extra={
            "restrict": restrict,
            "labels": layouts.labels_in(opened.images, opened.classes),
            "what": f"{name} {loaded.label}",
        },
    )


def collect(
    loaded: Loaded, plan: Plan, cfg: ProtocolConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids (N,), labels (N,) among the restricted classes, logits (N, K) float32 of all classes, restrict
    (K',).

    With on_error="wrong" the unreadable images are rows too, at the end: logits of 0, which rank last, and `readable`
    (N,) bool tells them.

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `plan_for` made.
        cfg: How images are read, and what becomes of unreadable ones.
        device: Where the passes run.
    """
    images, policy = plan.sets["data"], "fail" if cfg.on_error == "fail" else "skip"
    run, parts = Pass.of(cfg, device, plan.extra["what"]), plan.parts("data")
    got = predict(loaded.network, images, plan.transform, run, rows=plan.rows["data"], on_error=policy, parts=parts)
    label = dict(zip(images.ids, plan.extra["labels"]))
    ids, logits, lost = got.ids, got.logits, [sample for sample, _ in got.bad] if cfg.on_error == "wrong" else []
    if lost:
        ids, logits = [*ids, *lost], np.concatenate([logits, np.zeros((len(lost), logits.shape[1]), np.float32)])
    labels = np.array([label[sample] for sample in ids], dtype=np.int64)
    arrays = {"ids": np.array(ids), "labels": labels, "logits": logits, "restrict": plan.extra["restrict"]}
    return arrays | ({"readable": np.arange(len(ids)) < len(got.ids)} if lost else {}), got.bad


def evaluate(arrays: Arrays) -> Outcome:
    """Over the restricted classes: top1, top5, calibration errors, AURRA and mean confidence; top1 over all classes
    too; and the extras of `_extras`.

    Rows that are not `readable` count as wrong with a confidence of 0; the likelihood is then not defined and there are
    no extras.
    """
    arrays = by_id(arrays)
    labels, restrict = arrays["labels"], arrays["restrict"]
    z = np.take(arrays["logits"], restrict, axis=1).astype(np.float64)
    readable = arrays.get("readable", np.full(len(labels), True))
    correct, confidence = metrics.top_k_correct(z, labels) & readable, metrics.confidence(z) * readable
    top5 = metrics.top_k_correct(z, labels, 5) & readable if len(restrict) > 5 else np.zeros(0)
    means = {"mean_confidence": confidence}
    if len(restrict) < arrays["logits"].shape[1]:
        means["top1_unrestricted"] = metrics.top_k_correct(arrays["logits"], restrict[labels]) & readable
    statistics: list[Statistic] = [
        Means({"top1": correct, "top5": top5}),
        Calibration(confidence, correct),
        Aurra("aurra", metrics.log_confidence(z), correct),
        Means(means),
    ]
    extras, more = _extras(arrays["ids"], z, labels, correct) if readable.all() else ([], {"nll": float("nan")})
    few = "fewer than 200 images: no bin of 100 is left when the most confident one is skipped"
    reasons = {
        "top5": "there are no more than five classes",
        "rms_calibration_error": few,
        "rms_calibration_error_temperature": few,
        "nll": "images that could not be read count as wrong, but have no likelihood",
    }
    return outcome(arrays, [*statistics, *extras], more=more, reasons=reasons)


def _extras(
    ids: np.ndarray, z: np.ndarray, labels: np.ndarray, correct: np.ndarray
) -> tuple[list[Statistic], dict[str, float]]:
    """Beyond the published protocol: negative log-likelihood and Brier score; AURRA with samples ranked by other scores
    (`aurra_max_logit`, ...); and, ending in `_temperature`, the calibration after temperature scaling: the images fall
    into two halves by a hash of their ids, and each half is scaled by the temperature that fits the other one (their
    mean is `temperature`; the spread of these numbers takes it as given).
    """
    statistics: list[Statistic] = [
        Means({"nll": metrics.sample_nll(z, labels), "brier": metrics.sample_brier(z, labels)}),
        *(Aurra(f"aurra_{name}", score(z), correct) for name, score in metrics.SCORES.items() if name != "msp"),
    ]
    scaled, temperature = _cross_scaled(ids, z, labels)
    if scaled is None:
        return statistics, {}
    statistics += [
        Calibration(metrics.confidence(scaled), correct, "_temperature"),
        Means({"nll_temperature": metrics.sample_nll(scaled, labels)}),
    ]
    return statistics, {"temperature": temperature}


def _cross_scaled(ids: np.ndarray, z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray | None, float]:
    """`z` (N, K), each half over the temperature fitted on the other one, and the mean of the two; None if a half is
    empty."""
    half = np.array([path_hash(sample) % 2 for sample in ids.tolist()])
    if len(set(half.tolist())) < 2:
        return None, float("nan")
    fitted = np.array([metrics.fit_temperature(z[half != h], labels[half != h]) for h in (0, 1)])
    return z / fitted[half][:, None], float(fitted.mean())


PROTOCOL = Measurement(prepare, collect, evaluate, partial(reads, "imagenet-a"))
