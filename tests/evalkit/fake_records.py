"""Made-up records and per-sample files for the tests of results and report."""

from pathlib import Path

import numpy as np

from evalkit import metrics, records, results

MODES = ("random", "salient", "nonsalient")
LEVELS = [i / 10 for i in range(10)]


def record(**changes):
    """A valid record of a training run; `changes` replace fields."""
    fields = {
        "task": "train",
        "protocol": "accuracy",
        "version": 1,
        "model": "vit_tiny",
        "method": "mixpro",
        "label": "mixpro",
        "checkpoint_sha256": "a" * 64,
        "weights": "raw",
        "data": {"name": "digits-photo", "fingerprint": "f" * 64, "split": "val"},
        "n": 400,
        "metrics": {"top1": 0.9},
        "undefined": {},
        "standard_errors": {"top1": 0.015},
        "seed": 0,
        "config": {"lr": 0.001, "mixup": "mixpro", "seed": 0, "workers": 2},
        "environment": {"python": "3.11", "device": "cpu"},
        "seconds": 1.5,
        "complete": True,
        "published": False,
        "records": None,
        "series": None,
        "notes": [],
        "schema": records.SCHEMA,
        "recipe": None,
        "demonstration": True,
        "intervals": {},
        "idle_keys": ["workers", "out"],
        "assumed": [],
    }
    made = records.plain(fields | changes)
    made["undefined"] = {k: "not defined" for k, v in made["metrics"].items() if v is None} | made["undefined"]
    results.check(made)
    return made


def occlusion(**changes):
    """An occlusion record whose random curve falls from 0.9 by 0.05 a level, with sd 0.02."""
    spread = lambda mode, level: 0.02 if mode == "random" and level else None  # noqa: E731
    rows = [
        {"mode": m, "level": q, "top1": 0.9 - 0.5 * q, "sd": spread(m, q), "runs": [], "dropped_share": q}
        for m in MODES
        for q in LEVELS
    ]
    values = {"clean_top1": 0.9, "auc_random": 0.675, "auc_salient": 0.675, "auc_nonsalient": 0.675}
    settings = {"repeats": 5, "seed": 0, "grid": 8, "out": "x"}
    return record(
        **(
            {
                "task": "robustness",
                "protocol": "occlusion",
                "metrics": values,
                "standard_errors": {},
                "series": rows,
                "config": settings,
            }
            | changes
        )
    )


def imagenet_a(folder: Path, name: str = "a.npz", n: int = 250, seed: int = 0, **changes):
    """An imagenet-a record with its per-sample file in `folder`: 12 outputs of which 10 count."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, 12)).astype(np.float32), rng.integers(0, 10, n)
    restrict = np.arange(2, 12)
    logits[np.arange(n), restrict[labels]] += 1.5
    write_npz(folder / name, ids=np.array([f"{i}" for i in range(n)]), labels=labels, logits=logits, restrict=restrict)
    z = logits[:, restrict]
    confidence, correct = metrics.confidence(z), metrics.top_k_correct(z, labels)
    values = {
        "top1": float(correct.mean()),
        "rms_calibration_error": metrics.rms_calibration_error(confidence, correct),
        "aurra": metrics.aurra(confidence, correct),
    }
    data = {"name": "digits-a", "fingerprint": "b" * 64, "split": "val"}
    fields = {
        "task": "robustness",
        "protocol": "imagenet-a",
        "data": data,
        "n": n,
        "metrics": values,
        "records": name,
        "config": {"limit": None},
    }
    return record(**(fields | {"standard_errors": {"top1": 0.03, "aurra": 0.03}} | changes))


def imagenet_o(folder: Path, name: str = "o.npz", n: int = 200, seed: int = 0, **changes):
    """An imagenet-o record with its per-sample file: n out-of-distribution and 2n in-distribution samples."""
    rng = np.random.default_rng(seed)
    logits, ood = rng.normal(size=(3 * n, 10)).astype(np.float32), np.arange(3 * n) < n
    logits[~ood, 0] += 2
    write_npz(
        folder / name, ids=np.array([f"{i}" for i in range(3 * n)]), ood=ood, logits=logits, restrict=np.arange(10)
    )
    scores = -metrics.log_confidence(logits)
    sides = scores[ood], scores[~ood]
    values = {
        "aupr": metrics.aupr(*sides),
        "auroc": metrics.auroc(*sides),
        "fpr95_hendrycks": metrics.fpr95(*sides, "nearest"),
    }
    data = {"name": "digits-o", "fingerprint": "c" * 64, "split": "val"}
    fields = {
        "task": "robustness",
        "protocol": "imagenet-o",
        "data": data,
        "n": 3 * n,
        "metrics": values,
        "records": name,
        "config": {"limit": None},
    }
    return record(**(fields | {"standard_errors": {}} | changes))


def seg(head="linear", **changes):
    """A segmentation record of 60 scenes."""
    data = {"name": "digits-scenes", "fingerprint": "d" * 64, "split": "val"}
    values = {"miou": 0.5, "miou_ms": 0.52, "pixel_accuracy": 0.9, "mean_accuracy": 0.6}
    config = {"head": head, "lr": 0.001, "seed": 0, "init": "checkpoint", "workers": 2}
    return record(
        **(
            {
                "task": "transfer",
                "protocol": "seg",
                "data": data,
                "n": 60,
                "metrics": values,
                "standard_errors": {},
                "config": config,
            }
            | changes
        )
    )


def det(**changes):
    """A detection record of 60 scenes."""
    data = {"name": "digits-scenes", "fingerprint": "d" * 64, "split": "val"}
    values = {
        "box_ap": 0.4,
        "box_ap50": 0.6,
        "box_ap75": 0.45,
        "mask_ap": 0.3,
        "mask_ap50": 0.55,
        "mask_ap75": 0.35,
        "parameters": 44_139_072,
    }
    config = {"lr": 0.0002, "seed": 0, "init": "checkpoint", "workers": 2}
    return record(
        **(
            {
                "task": "transfer",
                "protocol": "det",
                "data": data,
                "n": 60,
                "metrics": values,
                "standard_errors": {},
                "config": config,
            }
            | changes
        )
    )


def cls(mode="linear", **changes):
    """A record of classification transfer onto 450 digits."""
    fields = {
        "task": "transfer",
        "protocol": "cls",
        "data": {"name": "digits", "fingerprint": "9" * 64, "split": "val"},
        "n": 450,
        "metrics": {"top1": 0.7, "mean_per_class": 0.69},
        "standard_errors": {},
        "config": {"mode": mode, "k": [20], "seed": 0, "init": "checkpoint", "workers": 2},
    }
    return record(**(fields | changes))


def write_npz(path: Path, **arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def write_mixed(folder: Path) -> None:
    """mixed.npz with 8 samples of a batch of 8, each 0.75 of its own label and 0.25 of the next one's."""
    weights = 0.75 * np.eye(8, dtype=np.float32) + 0.25 * np.roll(np.eye(8, dtype=np.float32), 1, axis=1)
    x = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
    write_npz(
        folder / "mixed.npz", x=x, weights=weights, labels=np.arange(8), classes=np.array([str(i) for i in range(10)])
    )


def write_run(folder: Path, label: str, seed: int = 0, *, accuracy: float = 0.9, **changes) -> str:
    """A run folder with all four kinds of records, per-sample files and mixed samples; returns the checkpoint's
    sha256."""
    sha = f"{label}{seed}".encode().hex().ljust(64, "0")[:64]
    same = {"label": label, "method": label, "checkpoint_sha256": sha, **changes}
    config = {"lr": 0.001, "mixup": label, "seed": seed, "workers": 2}
    results.append(folder, record(**same, seed=seed, config=config, metrics={"top1": accuracy}))
    for made in (occlusion(**same), imagenet_a(folder, seed=seed, **same), imagenet_o(folder, seed=seed, **same)):
        results.append(folder, made)
    write_mixed(folder)
    return sha
