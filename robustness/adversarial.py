"""Accuracy under attack: FGSM and PGD with the model's own gradients, on the clean images of ImageNet or a stand-in.

Convention, sources and what differs from them: `about.attacks`.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.bootstrap import Means
from evalkit.inference import Pass
from evalkit.models import Loaded

from . import attacks, layouts
from .about.attacks import FGSMConfig, PGDConfig
from .clean import open_clean, reads
from .protocol import Arrays, Measurement, Outcome, Plan, by_id, outcome

HALF_A_GREY_LEVEL = 0.5  # in 1/255


def prepare(name: str, loaded: Loaded, cfg: FGSMConfig, device: torch.device) -> Plan:
    """Open the clean images. Raises EvalkitError for data that are missing, partial or of other classes.

    Args:
        name: fgsm or pgd, as records name the protocol.
        loaded: The model with its classes and preprocessing.
        cfg: Where the images lie, how many are measured, and the strengths.
        device: Where the passes will run.
    """
    opened = open_clean(loaded, cfg)
    indices = layouts.class_indices(loaded, opened.matched)
    transform, preprocess = layouts.pipeline(loaded, opened.images, cfg.preprocess)
    own = {key: getattr(cfg, key) for key in ("steps", "alpha", "seed") if hasattr(cfg, key)}
    return Plan(
        sets={"data": opened.images},
        rows={"data": layouts.spread(len(opened.images), cfg.limit)},
        transform=transform,
        settings={
            "preprocess": preprocess,
            "forward_batch": cfg.forward_batch,
            "limit": cfg.limit,
            "eps": cfg.eps,
            **own,
        },
        resolved={"preprocess": preprocess["mode"]},
        complete=opened.complete,
        published=False,
        notes=[layouts.check_line(opened, loaded), *opened.notes, *_tiny(cfg)],
        extra={"labels": indices[layouts.labels_in(opened.images, opened.matched)], "what": f"{name} {loaded.label}"},
    )


def _tiny(cfg: FGSMConfig) -> list[str]:
    """A sentence for each strength that was meant as a share of the range, perhaps."""
    given = {f"eps={eps:g}": eps for eps in cfg.eps if 0 < eps < HALF_A_GREY_LEVEL}
    if isinstance(cfg, PGDConfig) and cfg.alpha is not None and cfg.alpha < HALF_A_GREY_LEVEL / cfg.steps:
        given[f"alpha={cfg.alpha:g}"] = cfg.alpha
    return [
        f"{name} counts 1/255, less than half a grey level in all; if a share of the range was meant, give"
        f" {255 * value:g}"
        for name, value in given.items()
    ]


def collect_fgsm(
    loaded: Loaded, plan: Plan, cfg: FGSMConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records: ids and labels (N,) as the model's outputs, predictions (N, 1 + E) for the clean and the attacked
    images, eps (1 + E,) in 1/255.

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `prepare` made.
        cfg: The strengths, and how images are read.
        device: Where the passes run.
    """
    return _collect(loaded, plan, cfg, device, lambda gradient, x, eps, start: attacks.fgsm(gradient, x, eps))


def collect_pgd(
    loaded: Loaded, plan: Plan, cfg: PGDConfig, device: torch.device
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Records as those of `collect_fgsm`.

    Args:
        loaded: The model, its network in evaluation mode on `device`.
        plan: What `prepare` made.
        cfg: Strengths, steps, step size and seed, and how images are read.
        device: Where the passes run.
    """

    def make(gradient: attacks.Gradient, x: Tensor, eps: float, start: Tensor) -> Tensor:
        return attacks.pgd(
            gradient, x, eps, alpha=eps / 4 if cfg.alpha is None else cfg.alpha / 255, steps=cfg.steps, start=start
        )

    return _collect(loaded, plan, cfg, device, make, cfg.seed)


def _collect(
    loaded: Loaded, plan: Plan, cfg: FGSMConfig, device: torch.device, make: Any, seed: int | None = None
) -> tuple[Arrays, list[tuple[str, str]]]:
    got = attacks.attack_all(
        loaded.network,
        plan.sets["data"],
        plan.extra["labels"],
        plan.transform,
        attacks.Attack(make, [e / 255 for e in cfg.eps], seed),
        Pass.of(cfg, device, plan.extra["what"]),
        plan.rows["data"],
    )
    arrays = {"ids": np.array(got.ids), "labels": plan.extra["labels"][got.positions], "predictions": got.predictions}
    return arrays | {"eps": np.array([0.0, *cfg.eps])}, got.bad


def evaluate(name: str, arrays: Arrays) -> Outcome:
    """clean_top1 and top1_eps_<eps> with standard errors over the images; the same as series.

    Args:
        name: fgsm or pgd, as records name the protocol.
        arrays: The records of `collect_fgsm` or `collect_pgd`, in any order.
    """
    arrays = by_id(arrays)
    correct = arrays["predictions"] == arrays["labels"][:, None]
    names = ["clean_top1", *(f"top1_eps_{eps:g}" for eps in arrays["eps"][1:])]
    accuracy = Means({key: correct[:, i] for i, key in enumerate(names)})
    series = [
        {"mode": name, "level": float(eps), "top1": accuracy.values[key]} for eps, key in zip(arrays["eps"], names)
    ]
    return outcome(arrays, [accuracy], series=series)


FGSM = Measurement(partial(prepare, "fgsm"), collect_fgsm, partial(evaluate, "fgsm"), reads)
PGD = Measurement(partial(prepare, "pgd"), collect_pgd, partial(evaluate, "pgd"), reads)
