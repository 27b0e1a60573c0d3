"""ImageNet-A: accuracy, calibration and selective prediction on natural adversarial examples.

The logits are restricted to the 200 classes of the set before the softmax. Source: Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.
Differs from its code in: class folders matched by name; equal confidences count as one group, so the order of the files does not matter; confidences in
float64; the RMS calibration error also with the most confident bin, which the code leaves out (`rms_calibration_error_include`).
"""

from typing import Any

import numpy as np
import torch

from evalkit import metrics
from evalkit.bootstrap import Aurra, Calibration, Means
from evalkit.inference import predict
from evalkit.models import Loaded

from . import layouts
from .config import ImageNetAConfig
from .masks import path_hash
from .protocol import Arrays, Outcome, Plan, Protocol, by_id, outcome


def prepare(loaded: Loaded, cfg: ImageNetAConfig, device: torch.device) -> Plan:
    """Open the images and find the model's classes among them. Raises EvalkitError for data that are missing, partial or of other classes."""
    opened = layouts.open_set("imagenet-a", layouts.choose("imagenet-a", cfg.data, loaded), loaded, cfg.allow_partial)
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
        extra={"restrict": restrict, "labels": layouts.labels_in(opened.images, opened.classes)},
    )


def collect(loaded: Loaded, plan: Plan, cfg: ImageNetAConfig, device: torch.device) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids (N,), labels (N,) among the restricted classes, logits (N, K) float32 of all classes, restrict (K',)."""
    images = plan.sets["data"]
    what = f"imagenet-a {loaded.label}"
    options: dict[str, Any] = {"forward_batch": cfg.forward_batch, "batch_size": cfg.batch_size, "workers": cfg.workers, "on_error": cfg.on_error}
    got = predict(loaded.network, images, plan.transform, device=device, rows=plan.rows["data"], what=what, parts=plan.parts("data"), **options)
    label = dict(zip(images.ids, plan.extra["labels"]))
    labels = np.array([label[sample] for sample in got.ids], dtype=np.int64)
    return {"ids": np.array(got.ids), "labels": labels, "logits": got.logits, "restrict": plan.extra["restrict"]}, got.bad


def evaluate(arrays: Arrays) -> Outcome:
    """Over the restricted classes: top1, top5, calibration errors, AURRA, mean confidence, negative log-likelihood and Brier score; top1 over all classes too.

    Extras beyond the published protocol: `ece`; AURRA with samples ranked by other scores (`aurra_max_logit`, ...); and, ending in `_temperature`, the
    calibration after temperature scaling: the images fall into two halves by a hash of their ids, and each half is scaled by the temperature that fits
    the other one (their mean is `temperature`; the spread of these numbers takes it as given).
    """
    arrays = by_id(arrays)
    labels, restrict = arrays["labels"], arrays["restrict"]
    z = np.take(arrays["logits"], restrict, axis=1).astype(np.float64)
    correct, confidence = metrics.top_k_correct(z, labels), metrics.confidence(z)
    top5 = metrics.top_k_correct(z, labels, 5) if len(restrict) > 5 else np.zeros(0)
    means = {"mean_confidence": confidence, "nll": metrics.sample_nll(z, labels), "brier": metrics.sample_brier(z, labels)}
    if len(restrict) < arrays["logits"].shape[1]:
        means["top1_unrestricted"] = metrics.top_k_correct(arrays["logits"], restrict[labels])
    scaled, temperature = _cross_scaled(arrays["ids"], z, labels)
    statistics = [
        Means({"top1": correct, "top5": top5}),
        Calibration(confidence, correct),
        Aurra("aurra", metrics.log_confidence(z), correct),
        Means(means),
        *(Aurra(f"aurra_{name}", score(z), correct) for name, score in metrics.SCORES.items() if name != "msp"),
    ]
    if scaled is not None:
        statistics += [Calibration(metrics.confidence(scaled), correct, "_temperature"), Means({"nll_temperature": metrics.sample_nll(scaled, labels)})]
    few = "fewer than 200 images: no bin of 100 is left when the most confident one is skipped"
    reasons = {"top5": "there are no more than five classes", "rms_calibration_error": few, "rms_calibration_error_temperature": few}
    return outcome(arrays, statistics, more={} if scaled is None else {"temperature": temperature}, reasons=reasons)


def _cross_scaled(ids: np.ndarray, z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray | None, float]:
    """`z` (N, K), each half over the temperature fitted on the other one, and the mean of the two; None if a half is empty."""
    half = np.array([path_hash(sample) % 2 for sample in ids.tolist()])
    if len(set(half.tolist())) < 2:
        return None, float("nan")
    fitted = np.array([metrics.fit_temperature(z[half != h], labels[half != h]) for h in (0, 1)])
    return z / fitted[half][:, None], float(fitted.mean())


PROTOCOL = Protocol("imagenet-a", 1, prepare, collect, evaluate)
