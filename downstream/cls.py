"""`evalkit transfer cls`: another set's classes from the frozen features of a network. Fine-tuning is training, which
the command line is told to do instead."""

import csv
import io
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
from threadpoolctl import threadpool_limits

from evalkit import data, inference, metrics, models, results, run_folder
from evalkit.data.splits import check_splits, hold_out
from evalkit.errors import EvalkitError
from evalkit.preparation import preparation
from evalkit.protocols import Protocol
from evalkit.records import DataUsed, Made, Numbers, Subject, make_record
from evalkit.runtime import environment, init_processes, is_main, pick_device, write_atomic
from evalkit.text import cell, say

from .about.cls import CLS, FINETUNE, ClsConfig
from .features import Extractor, extractor, features
from .probes import STRENGTH, Features, Linear, centroids, drawn, neighbours

SHOWN = 20  # unreadable images that are named


@dataclass(frozen=True)
class Probed:
    """What a mode measured.

    Args:
        right: Metric -> whether each image is right, or how often over draws, (N,) in [0, 1].
        predicted: Class of each image, by the metric of the table, (N,).
        more: Metrics that are no means over images.
        series: One row per strength, k or number of shots.
        notes: What a reader of the numbers should know, one sentence each.
    """

    right: dict[str, np.ndarray]
    predicted: np.ndarray
    more: dict[str, float] = field(default_factory=dict)
    series: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def linear(cfg: ClsConfig, train: Features, test: Features, held: set[str], names: list[str]) -> Probed:
    """A linear probe: the strength that is best on the held-out training images (of equals the strongest penalty), then
    fitted to all of them.

    Args:
        cfg: The keys.
        train: The training images.
        test: Those that are measured on.
        held: Ids of the training images that choose.
        names: Of the classes.
    """
    chooses = np.array([sample in held for sample in train.ids])
    series: list[dict[str, Any]] = []
    notes = []
    for strength in sorted(cfg.sweep):
        fitted = Linear(train[~chooses], strength, cfg.iterations)
        right = metrics.top_k_correct(fitted.scores(train[chooses].values, len(names)), train[chooses].labels, 1)
        series.append({"mode": "sweep", "level": strength, "top1": float(right.mean())})
        if not fitted.converged:
            notes.append(f"C={strength:g}: lbfgs stopped after {cfg.iterations} iterations, before its end")
    best = float(max(series, key=lambda row: row["top1"])["level"])
    notes.insert(0, f"C={best:g} of {len(series)} is the best on {chooses.sum():,} training images held out")
    if len(series) > 1 and best in (series[0]["level"], series[-1]["level"]):
        notes.append(f"C={best:g} is at the edge of the sweep; a wider one may find a better one")
    fitted = Linear(train, best, cfg.iterations)
    if not fitted.converged:
        notes.append(f"the final fit: lbfgs stopped after {cfg.iterations} iterations, before its end")
    scores = fitted.scores(test.values, len(names))
    right = {"top1": metrics.top_k_correct(scores, test.labels, 1)}
    if len(names) > 5:
        right["top5"] = metrics.top_k_correct(scores, test.labels, 5)
    return Probed(right, scores.argmax(1), {"c": best}, series, notes)


def knn(cfg: ClsConfig, train: Features, test: Features, held: set[str], names: list[str]) -> Probed:
    """DINO's weighted nearest neighbours, for each k.

    Args:
        cfg: The keys.
        train: The training images.
        test: Those that are measured on.
        held: Not used: nothing is chosen.
        names: Of the classes.
    """
    counts = [k for k in cfg.k if k <= len(train.ids)]
    if not counts:
        raise EvalkitError(f"k={cfg.k} are all more than the {len(train.ids)} training images; give smaller ones")
    notes = [f"k={k} is more than the {len(train.ids)} training images and left out" for k in cfg.k if k not in counts]
    found = neighbours(train, test.values, counts, cfg.temperature, len(names))
    by = {k: metrics.top_k_correct(scores, test.labels, 1) for k, scores in found.items()}
    series = [{"mode": "knn", "level": k, "top1": float(by[k].mean())} for k in sorted(by)]
    notes.append(f"top1 is that of k={counts[0]}")
    right = {"top1": by[counts[0]], **{f"top1_k{k}": values for k, values in by.items()}}
    return Probed(right, found[counts[0]].argmax(1), {}, series, notes)


def fewshot(cfg: ClsConfig, train: Features, test: Features, held: set[str], names: list[str]) -> Probed:
    """A few images of each class, drawn again and again: means over the draws.

    Args:
        cfg: The keys.
        train: The training images that are drawn from.
        test: Those that are measured on.
        held: Not used: nothing is chosen.
        names: Of the classes.
    """
    right: dict[str, np.ndarray] = {}
    more: dict[str, float] = {}
    series: list[dict[str, Any]] = []
    notes: list[str] = []
    stopped = 0
    votes = np.zeros((len(test.ids), len(names)))
    for shots in sorted(cfg.shots):
        draws = []
        votes[:] = 0
        for few in drawn(train, shots, cfg.seed, cfg.draws, names):
            if cfg.head == "centroid":
                scores = centroids(few, test.values, len(names))
            else:
                fitted = Linear(few, STRENGTH, cfg.iterations)
                stopped += not fitted.converged
                scores = fitted.scores(test.values, len(names))
            draws.append(metrics.top_k_correct(scores, test.labels, 1))
            votes[np.arange(len(votes)), scores.argmax(1)] += 1
        right[f"top1_shots{shots}"] = np.mean(draws, axis=0)
        means = [float(d.mean()) for d in draws]
        if cfg.draws > 1:
            more[f"sd_shots{shots}"] = float(np.std(means, ddof=1))
        series += [{"mode": f"{shots}-shot", "level": i, "top1": value} for i, value in enumerate(means)]
    right["top1"] = right[f"top1_shots{max(cfg.shots)}"]
    if stopped:
        notes.append(f"lbfgs stopped after {cfg.iterations} iterations, before its end, in {stopped} fits")
    notes.append(f"means over {cfg.draws} draws of training images; top1 is that of {max(cfg.shots)} of a class")
    notes.append(
        "standard errors are over images, sd_* over draws; a class in the predictions is the one most draws say"
    )
    return Probed(right, votes.argmax(1), more, series, notes)


MEASURE = {"linear": linear, "knn": knn, "fewshot": fewshot}


class Classification:
    """The transfer as the command line runs it."""

    about: Protocol = CLS

    def recipe(self, overrides: list[str]) -> None:
        """None: every key has a value of its own."""

    def training(self, spec: str, overrides: list[str]) -> list[str] | None:
        """The words of `evalkit train` that fine-tune a checkpoint; None for the other modes.

        Args:
            spec: The checkpoint.
            overrides: `key=value` as typed.
        """
        if f"mode={FINETUNE}" not in overrides:
            return None
        kept = [word for word in overrides if word.partition("=")[0] not in ("mode", "data")]
        named = [word.partition("=")[2] for word in overrides if word.startswith("data=")] or ["digits"]
        where = [f"data=folder data_dir={named[-1]}"] if _is_folder(named[-1]) else [f"data={named[-1]}"]
        start = [f"init={spec}"]
        if not Path(spec).exists() and timm.is_model(spec.partition(".")[0]):
            start = [f"model={spec}", "init=pretrained"]
        return ["finetune", *start, *(part for text in where for part in text.split(" ", 1)), *kept]

    def transfer(
        self, spec: str | None, cfg: ClsConfig | None, out: Path | None, resume: Path | None, overrides: list[str]
    ) -> int:
        """Measure a checkpoint. Returns 0, or 2 if images could not be read.

        Args:
            spec: The checkpoint.
            cfg: The keys.
            out: Where results and features go; None: a folder below runs/ named after data and network.
            resume: Must be None: there is no training to go on with.
            overrides: Not used: `cfg` holds them.
        """
        if resume is not None or spec is None or cfg is None:
            raise EvalkitError(
                "transfer cls has nothing to resume: the same command again uses the features that were made; a"
                " fine-tuning goes on by `evalkit train --resume DIR`"
            )
        return measure(spec, cfg, out)


TASK = Classification()


def measure(spec: str, cfg: ClsConfig, out: Path | None = None) -> int:
    """Measure a checkpoint by `cfg.mode` and append to results.jsonl. Returns 0, or 2 if images could not be read.

    Args:
        spec: The checkpoint.
        cfg: The keys.
        out: Where results go; None: below runs/.
    """
    if cfg.mode == FINETUNE:
        raise EvalkitError("mode=finetune is a training: `evalkit train finetune init=CKPT`")
    began = time.monotonic()
    device = pick_device(cfg.device)
    init_processes(device)
    of = extractor(spec, cfg)
    of.loaded.network.to(device)
    train_images, test_images = _images(cfg, cfg.train_split), _images(cfg, cfg.val_split)
    said = models.describe(of.loaded.report)
    said += check_splits(train_images, test_images, (cfg.train_split, cfg.val_split))
    label = cfg.label or of.loaded.label
    folder = out or Path("runs") / re.sub(r"[^\w.-]+", "-", f"cls-{test_images.name}-{label}-seed{cfg.seed}")
    if is_main():
        run_folder.make(folder)
    mode, transform = preparation(of.loaded, test_images, cfg.preprocess)
    found, bad = [], []
    for what, images in (("train", train_images), ("val", test_images)):
        got, notes, unread = features(of, images, transform, inference.Pass.of(cfg, device, what), folder)
        found.append(got)
        said += notes
        bad += [f"unreadable: {id}: {reason}" for id, reason in unread]
    if not is_main():
        return 2 if bad else 0
    held = set(hold_out(train_images, cfg.holdout)[1].ids) if cfg.mode == "linear" else set()
    with threadpool_limits(cfg.threads):
        outcome = MEASURE[cfg.mode](cfg, found[0], found[1], held, train_images.classes)
    name = f"predictions-{cfg.mode}-{of.sha256[:8]}-seed{cfg.seed}.csv"
    write_predictions(folder / name, found[1], outcome, train_images.classes)
    sets = (train_images, test_images)
    notes = [*said, *outcome.notes, *bad[:SHOWN]]
    record = _record(
        of,
        cfg,
        sets,
        outcome,
        Made(
            cfg,
            environment(device),
            time.monotonic() - began,
            not bad,
            seed=cfg.seed,
            resolved={"preprocess": mode},
            records=name,
            notes=notes,
        ),
        str(transform),
    )
    if not results.holds(folder, record):
        results.append(folder, record)
    say(*notes)
    error = record["standard_errors"]["top1"]
    say(
        f"{label}, {cfg.mode}: top-1 {100 * record['metrics']['top1']:.2f} % +- {100 * error:.2f}  on"
        f" {record['n']} images of {test_images.name}; {folder / results.FILE}, {folder / name}"
    )
    return 2 if bad else 0


def _is_folder(name: str) -> bool:
    return name not in data.NAMES and Path(name).is_dir()


def _images(cfg: ClsConfig, split: str) -> data.Images:
    if _is_folder(cfg.data):
        if cfg.data_dir is not None:
            raise EvalkitError(f"data={cfg.data} is a folder itself; leave out data_dir")
        images = data.load("folder", split, root=cfg.data)
    else:
        images = data.load(cfg.data, split, root=cfg.data_dir)
    if (images.labels < 0).any():
        raise EvalkitError(f"{cfg.data} holds images of no class, which cannot be learned; give data of classes alone")
    return images


def _record(
    of: Extractor,
    cfg: ClsConfig,
    sets: tuple[data.Images, data.Images],
    outcome: Probed,
    made: Made,
    prepared: str,
) -> dict[str, Any]:
    train, test = sets
    own = of.loaded.subject(of.sha256)
    subject = Subject(own.model, own.method, cfg.label or own.label, own.sha256, own.weights, own.recipe)
    if cfg.init == "random":
        subject = Subject(own.model, None, cfg.label or own.label, of.sha256)
    more = {
        "prepared": prepared,
        "train_fingerprint": train.fingerprint,
        "train_images": len(train),
        "classes": len(train.classes),
    }
    return make_record(
        "transfer",
        CLS,
        subject,
        DataUsed(test.name, test.fingerprint, cfg.val_split, test.demonstration, more),
        Numbers(
            len(outcome.predicted),
            {name: float(right.mean()) for name, right in outcome.right.items()} | outcome.more,
            standard_errors={name: metrics.standard_error(right) for name, right in outcome.right.items()},
            series=outcome.series,
        ),
        made,
        published=False,
    )


def write_predictions(path: Path, test: Features, outcome: Probed, classes: list[str]) -> None:
    """One row per image: id, label, prediction, whether it is right (over draws: how often).

    Args:
        path: The file.
        test: Ids and labels.
        outcome: What was predicted.
        classes: Names of the classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file_name", "label", "predicted_class", "correct"])
    for id, label, predicted, right in zip(test.ids, test.labels, outcome.predicted, outcome.right["top1"]):
        writer.writerow([cell(id), cell(classes[label]), cell(classes[predicted]), repr(float(right))])
    write_atomic(path, lambda f: f.write(text.getvalue().encode()))
