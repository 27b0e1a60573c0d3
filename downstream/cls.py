"""`evalkit transfer cls`: another set's classes from the frozen features of a network. Fine-tuning is training, which
the command line is told to do instead."""

import csv
import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import yaml
from threadpoolctl import threadpool_limits

from evalkit import bootstrap, data, inference, models, plain_yaml, results, run_folder
from evalkit.data.known import KNOWN
from evalkit.data.splits import check_splits, hold_out
from evalkit.errors import EvalkitError
from evalkit.preparation import preparation
from evalkit.protocols import Protocol
from evalkit.records import DataUsed, Made, Numbers, Subject, make_record
from evalkit.runtime import environment, init_processes, is_main, pick_device, write_atomic
from evalkit.text import cell, say

from .about.cls import CLS, FINETUNE, ClsConfig
from .features import Extractor, extractor, features
from .probes import Features
from .readouts import MEASURE, Probed
from .spread import PerClass

SHOWN = 20  # unreadable images that are named


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
        given = [word.partition("=")[2] for word in overrides if word.startswith("data=")] or ["digits"]
        name = _unquoted(given[-1])
        where = ["data=folder", f"data_dir={given[-1]}"] if _is_folder(name) else [f"data={given[-1]}"]
        if name in KNOWN:
            known = {word.partition("=")[0] for word in kept}
            parts = zip(("train_split", "val_split"), KNOWN[name].parts)
            where += [f"{key}={part}" for key, part in parts if key not in known]
        start = [f"init={spec}"]
        if not Path(spec).exists() and timm.is_model(spec.partition(".")[0]):
            start = [f"model={spec}", "init=pretrained"]
        return ["finetune", *start, *where, *kept]

    def per_image(self, path: Path) -> tuple[np.ndarray, list[bootstrap.Statistic]]:
        """(ids in order, metrics as functions of how often each image counts) of the predictions that a record names.
        Raises OSError, ValueError, KeyError, IndexError or TypeError where they are gone or damaged.

        Args:
            path: The file.
        """
        try:
            with path.open(newline="", encoding="utf-8") as f:
                rows = {row["file_name"]: row for row in csv.DictReader(f)}
        except csv.Error as e:
            raise ValueError(str(e)) from e
        ids = sorted(rows)
        names = {"top1": "correct"} | {name: name for name in next(iter(rows.values()), {}) if CLS.find(name)}
        right = {name: np.array([float(rows[id][column]) for id in ids]) for name, column in names.items()}
        return np.array(ids), _statistics(np.array([rows[id]["label"] for id in ids]), right)

    def reads(self, cfg: ClsConfig, run: Path) -> dict[str, str]:
        """Split -> fingerprint of the images that lie there now.

        Args:
            cfg: The keys.
            run: The run folder, which holds no images.
        """
        return {name: _images(cfg, part).fingerprint for name, part in zip(("train", "val"), _parts(cfg))}

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
    parts, known = _parts(cfg), KNOWN.get(cfg.data)
    train_images, test_images = (_images(cfg, part) for part in parts)  # before the weights, which may be a download
    of = extractor(spec, cfg)
    of.loaded.network.to(device)
    said = models.describe(of.loaded.report)
    said += check_splits(train_images, test_images, parts)
    if known:
        printed = "mean accuracy of the classes" if known.per_class else "top-1"
        said.append(f"publications train on {known.parts[0]} of {known.title} and print {printed} on {known.parts[1]}")
    label = cfg.label or of.loaded.label
    folder = out or Path("runs") / re.sub(r"[^\w.-]+", "-", f"cls-{test_images.name}-{label}-seed{cfg.seed}")
    if is_main():
        run_folder.make(folder)
    if cfg.seed and cfg.mode != "fewshot" and cfg.init != "random":
        said.append(f"seed={cfg.seed} draws nothing with mode={cfg.mode} and weights of a file; it is in names alone")
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
        (outcome, found[1]),
        Made(
            cfg,
            environment(device),
            time.monotonic() - began,
            not bad,
            seed=cfg.seed,
            resolved={"preprocess": mode, "train_split": parts[0], "val_split": parts[1]},
            records=name,
            notes=notes,
        ),
        str(transform),
    )
    results.append(folder, record)
    say(*notes)
    shown = {"top1": "top-1"} | ({"mean_per_class": "mean of the classes"} if known and known.per_class else {})
    value = ", ".join(
        f"{title} {100 * record['metrics'][m]:.2f} % +- {100 * record['standard_errors'].get(m, float('nan')):.2f}"
        for m, title in shown.items()
    )
    say(
        f"{label}, {cfg.mode}: {value}  on {record['n']} images of {test_images.name};"
        f" {folder / results.FILE}, {folder / name}"
    )
    return 2 if bad else 0


def _unquoted(text: str) -> str:
    """The value of a word of a command line, whose paths a study puts into quotes."""
    try:
        return str(plain_yaml.parse(text)) if text[:1] in ("'", '"') else text
    except yaml.YAMLError:
        return text


def _is_folder(name: str) -> bool:
    return name not in data.NAMES and Path(name).is_dir()


def _parts(cfg: ClsConfig) -> tuple[str, str]:
    """What is learned from and what is measured on: of a published set those that publications use."""
    train, val = KNOWN[cfg.data].parts if cfg.data in KNOWN else ("train", "val")
    return cfg.train_split or train, cfg.val_split or val


def _statistics(labels: np.ndarray, right: dict[str, np.ndarray]) -> list[bootstrap.Statistic]:
    """Means over images, and the mean of the classes.

    Args:
        labels: Of the images, (N,).
        right: Metric -> whether each is right, or how often, (N,).
    """
    return [bootstrap.Means(right), PerClass(labels, right["top1"])]


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
    found: tuple[Probed, Features],
    made: Made,
    prepared: str,
) -> dict[str, Any]:
    (train, test), (outcome, seen) = sets, found
    statistics = _statistics(seen.labels, outcome.right)
    spread = bootstrap.spread(statistics, seen.ids)
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
        DataUsed(test.name, test.fingerprint, made.resolved["val_split"], test.demonstration, more),
        Numbers(
            len(outcome.predicted),
            {name: value for s in statistics for name, value in s.values.items()} | outcome.more,
            standard_errors=spread.standard_errors,
            intervals=spread.intervals,
            series=outcome.series,
        ),
        made,
        published=False,
    )


def write_predictions(path: Path, test: Features, outcome: Probed, classes: list[str]) -> None:
    """One row per image: id, label, prediction, whether it is right (over draws: how often), and the same by every
    other metric.

    Args:
        path: The file.
        test: Ids and labels.
        outcome: What was predicted.
        classes: Names of the classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [name for name in outcome.right if name != "top1"]
    writer.writerow(["file_name", "label", "predicted_class", "correct", *more])
    rights = zip(*(outcome.right[name].tolist() for name in ("top1", *more)))
    for id, label, predicted, right in zip(test.ids, test.labels, outcome.predicted, rights):
        writer.writerow([cell(id), cell(classes[label]), cell(classes[predicted]), *(repr(float(v)) for v in right)])
    write_atomic(path, lambda f: f.write(text.getvalue().encode()))
