"""ImageNet-A: accuracy, calibration and selective prediction on natural adversarial examples.

The logits are restricted to the 200 classes of the set before the softmax. Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.
Differs from its code in: class folders matched by name; equal confidences count as one group, so the order of the files does not matter; confidences in
float64; the RMS calibration error also with the most confident bin, which the code leaves out (`rms_calibration_error_include`).
"""

from typing import Any

import numpy as np
import torch

from evalkit import metrics
from evalkit.inference import predict
from evalkit.models import Loaded

from . import layouts
from .config import ProtocolConfig
from .protocol import Arrays, Outcome, Plan, Protocol


def prepare(loaded: Loaded, cfg: ProtocolConfig, device: torch.device) -> Plan:
    """Open the images and find the model's classes among them. Raises EvalkitError for data that are missing, partial or of other classes."""
    return plan_for("imagenet-a", loaded, cfg, layouts.open_set("imagenet-a", layouts.choose("imagenet-a", cfg.data, loaded), loaded, cfg.allow_partial))


def plan_for(name: str, loaded: Loaded, cfg: ProtocolConfig, opened: layouts.Opened) -> Plan:
    """The plan of the protocol `name`, which classifies the images of `opened` among its classes."""
    restrict = layouts.class_indices(loaded, opened.classes)
    transform, preprocess = layouts.pipeline(loaded, opened.images, cfg.preprocess)
    notes = [layouts.check_line(opened, loaded)]
    return Plan(
        sets={"data": opened.images},
        rows={"data": layouts.spread(len(opened.images), cfg.limit)},
        transform=transform,
        settings={"preprocess": preprocess, "forward_batch": cfg.forward_batch, "restrict": restrict.tolist(), "limit": cfg.limit},
        resolved={"preprocess": preprocess["mode"]},
        complete=opened.complete,
        published=opened.published and layouts.is_published(preprocess) and cfg.limit is None,
        notes=notes + opened.notes,
        extra={"restrict": restrict, "labels": layouts.labels_in(opened.images, opened.classes), "what": f"{name} {loaded.label}"},
    )


def collect(loaded: Loaded, plan: Plan, cfg: ProtocolConfig, device: torch.device) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids (N,), labels (N,) among the restricted classes, logits (N, K) float32 of all classes, restrict (K',).

    With on_error="wrong" the unreadable images are rows too, at the end: logits of 0, which rank last, and `readable` (N,) bool tells them."""
    images, policy = plan.sets["data"], "fail" if cfg.on_error == "fail" else "skip"
    options: dict[str, Any] = {"forward_batch": cfg.forward_batch, "batch_size": cfg.batch_size, "workers": cfg.workers, "on_error": policy}
    got = predict(loaded.network, images, plan.transform, device=device, rows=plan.rows["data"], what=plan.extra["what"], **options)
    label = dict(zip(images.ids, plan.extra["labels"]))
    ids, logits, lost = got.ids, got.logits, [sample for sample, _ in got.bad] if cfg.on_error == "wrong" else []
    if lost:
        ids, logits = [*ids, *lost], np.concatenate([logits, np.zeros((len(lost), logits.shape[1]), np.float32)])
    labels = np.array([label[sample] for sample in ids], dtype=np.int64)
    arrays = {"ids": np.array(ids), "labels": labels, "logits": logits, "restrict": plan.extra["restrict"]}
    return arrays | ({"readable": np.arange(len(ids)) < len(got.ids)} if lost else {}), got.bad


def evaluate(arrays: Arrays) -> Outcome:
    """top1, top5, calibration errors, AURRA, mean confidence and negative log-likelihood over the restricted classes; top1 over all classes too.

    Rows that are not `readable` count as wrong with a confidence of 0; the likelihood is then not defined.
    """
    labels, restrict = arrays["labels"], arrays["restrict"]
    z = np.take(arrays["logits"], restrict, axis=1).astype(np.float64)
    readable = arrays.get("readable", np.full(len(labels), True))
    correct, confidence = metrics.top_k_correct(z, labels) & readable, metrics.confidence(z) * readable
    top5 = metrics.top_k_correct(z, labels, 5) & readable if len(restrict) > 5 else np.full(0, np.nan)
    numbers = {
        "top1": float(correct.mean()),
        "top5": float(top5.mean()) if top5.size else float("nan"),
        "rms_calibration_error": metrics.rms_calibration_error(confidence, correct),
        "rms_calibration_error_include": metrics.rms_calibration_error(confidence, correct, last_bin="include"),
        "aurra": metrics.aurra(metrics.log_confidence(z), correct),
        "mean_confidence": float(confidence.mean()),
        "nll": metrics.negative_log_likelihood(z, labels) if readable.all() else float("nan"),
    }
    if len(restrict) < arrays["logits"].shape[1]:
        numbers["top1_unrestricted"] = float((metrics.top_k_correct(arrays["logits"], restrict[labels]) & readable).mean())
    undefined = {
        "top5": "there are no more than five classes",
        "rms_calibration_error": "fewer than 200 images: no bin of 100 is left when the most confident one is skipped",
        "nll": "images that could not be read count as wrong, but have no likelihood",
    }
    errors = {"top1": metrics.standard_error(correct), "top5": metrics.standard_error(top5), "mean_confidence": metrics.standard_error(confidence)}
    defined = {name for name, value in numbers.items() if np.isfinite(value)}
    return Outcome(
        len(labels), numbers, {k: v for k, v in errors.items() if k in defined}, {k: v for k, v in undefined.items() if k not in defined}
    )


PROTOCOL = Protocol("imagenet-a", 1, prepare, collect, evaluate)
