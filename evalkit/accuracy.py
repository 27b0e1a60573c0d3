"""`evalkit eval`: accuracy of a checkpoint on labelled images, with every prediction written down."""

import csv
import io
import os
import time
from pathlib import Path

import numpy as np
import torch

from . import checkpoint, config, data, fingerprint, inference, metrics, models, results, run_folder, zoo
from .about import ACCURACY, EvalConfig
from .data.published import published_set, sets_of_recipe
from .data.splits import absent_classes, contradictions
from .errors import EvalkitError
from .models.load import of_timm
from .preparation import preparation, recipe_of
from .records import DataUsed, Made, Numbers, make_record
from .runtime import environment, init_processes, is_main, pick_device, write_atomic
from .text import cell, say

PREDICTIONS = "predictions.csv"
NO_DATA = "which images? Give --data DIR, a folder of class folders, or the name of an embedded set"
FAULTS, SHOWN = "faults.txt", 20  # where all missing classes and unreadable images stand, and how many are printed


def evaluate(spec: str, data_spec: str | None, out: Path | None, overrides: list[str]) -> int:
    """Print top-1 and top-5 of a checkpoint, write predictions.csv and a results record. Returns 0, or 2 if images or
    classes are missing.

    Args:
        spec: A run or checkpoint folder, a weights file or a timm name.
        data_spec: A folder of class folders, or an embedded set; None: what it was trained on.
        out: Where results go; None: the run folder, see `results_folder`.
        overrides: `key=value` of the evaluation's keys.
    """
    began = time.monotonic()
    cfg = config.load(EvalConfig, None, overrides)
    device = pick_device(cfg.device)
    init_processes(device)
    if data_spec is not None:
        data.check_exists(data_spec)
    elif of_timm(spec):
        raise EvalkitError(NO_DATA)
    loaded = models.load(spec, model=cfg.model, model_args=cfg.model_args, weights=cfg.weights)
    network = loaded.network.to(device)
    split = cfg.split or recipe_of(loaded).get("val_split", "val")
    if cfg.split is not None and data_spec is not None and Path(data_spec).is_dir():
        raise EvalkitError(
            f"split={cfg.split} belongs to data by name; --data {data_spec} is a folder of classes: give the folder of"
            " that split"
        )
    images = open_images(loaded, data_spec, (cfg.data_dir, split), cfg.allow_partial)
    out = Path(out) if out else results_folder(Path(spec), loaded.label)
    if is_main():
        run_folder.make(out)  # before the work whose results it is for
    mode, transform = preparation(loaded, images, cfg.preprocess)
    records = inference.predict(network, images, transform, inference.Pass.of(cfg, device, "eval"))
    k = min(5, network.num_classes)
    correct = {
        1: metrics.top_k_correct(records.logits, records.labels, 1),
        k: metrics.top_k_correct(records.logits, records.labels, k),
    }
    complete = records.complete and not images.problems
    if not is_main():
        return 0 if complete else 2
    remarks = [*models.describe(loaded.report), *images.remarks, *absent_classes(images), *contradictions(images)]
    remarks += [f"{what} in {n:,} of the {len(images):,} images" for what, n in images.notes.items()]
    remarks += seen_in_training(loaded, images)
    remarks += (of_weights := other_weights(loaded))
    faults = [*images.problems, *(f"unreadable: {id}: {reason}" for id, reason in records.bad)]
    shown = faults[:SHOWN]
    if len(faults) > SHOWN:
        write_atomic(out / FAULTS, lambda f: f.write("\n".join([*faults, ""]).encode("utf-8", "backslashreplace")))
        shown.append(f"and {len(faults) - SHOWN} more, listed in {FAULTS}")
    write_predictions(out / PREDICTIONS, records, loaded.classes or images.classes, correct[1])
    part = split if images.native_size else ""
    record = make_record(
        "eval",
        ACCURACY,
        loaded.subject(),
        DataUsed(images.name, images.fingerprint, part, images.demonstration, {"prepared": str(transform)}),
        Numbers(
            len(records.ids),
            {f"top{n}": float(c.mean()) for n, c in correct.items()},
            standard_errors={f"top{n}": metrics.standard_error(c) for n, c in correct.items()},
        ),
        Made(
            cfg,
            environment(device),
            time.monotonic() - began,
            complete,
            resolved={"preprocess": mode, "split": split},
            notes=[*remarks, *shown],
        ),
        published=complete and is_published(loaded, images, mode),
    )
    results.append(out, record)
    say(*(line for line in remarks if line not in of_weights), *shown)
    share = "  ".join(
        f"top-{n} {100 * c.mean():.2f} % +- {100 * metrics.standard_error(c):.2f}" for n, c in correct.items()
    )
    where = f"{len(records.ids)} images of {images.name} ({transform})"
    say(f"{share}{which_weights(loaded)}  on {where}; predictions: {out / PREDICTIONS}", *of_weights)
    return 0 if complete else 2


def which_weights(loaded: models.Loaded) -> str:
    """Of which of a checkpoint's weights a number is, after a comma; "" where there is no other.

    Args:
        loaded: The weights that were measured.
    """
    several = len(loaded.meta.get("sha256", {}).keys() & set(checkpoint.FILES.values())) > 1
    return f", {checkpoint.WORDS[loaded.weights]}" if several or loaded.weights == "ema" else ""


def other_weights(loaded: models.Loaded) -> list[str]:
    """What a reader must know of a checkpoint that holds raw and averaged weights, or of a short run: which are the
    others, their top-1 as the training recorded it, and what it noted of these. One sentence each.

    Args:
        loaded: The weights that were measured.
    """
    sums = loaded.meta.get("sha256", {})
    path = results_folder(zoo.located(loaded.source), loaded.label) / results.FILE
    trained = {}
    if sums and path.is_file():
        trained = {r["checkpoint_sha256"]: r for r in results.scan([path])[0] if r["task"] == "train"}
    found = []
    for name, file in checkpoint.FILES.items():
        if name != loaded.weights and file in sums:
            top1 = trained[sums[file]]["metrics"].get("top1") if sums[file] in trained else None
            said = "training recorded no accuracy" if top1 is None else f"training recorded top-1 {100 * top1:.2f} %"
            found.append(f"weights={name} measures the checkpoint's {checkpoint.WORDS[name]}, of which {said}")
    record = trained.get(loaded.sha256 or "", {"notes": [], "config": {}})
    picked = record["config"].get("picked") or []  # sizes that it chose, which say nothing of the weights
    return [*found, *(f"training noted: {note}" for note in record["notes"] if note not in picked)]


def seen_in_training(loaded: models.Loaded, images: data.Images) -> list[str]:
    """A sentence where the images are the very ones that the checkpoint was trained on.

    Args:
        loaded: The checkpoint.
        images: What it is measured on.
    """
    known = loaded.meta.get("data", {}).get("fingerprint")
    if not isinstance(known, str) or not fingerprint.same(known, images.fingerprint):
        return []
    return [f"the images of {images.name} are those that the checkpoint was trained on"]


def is_published(loaded: models.Loaded, images: data.Images, mode: str) -> bool:
    """Whether this is the published measurement: all validation images of the recipe of the run, or of ImageNet for
    other weights, prepared as the recipe says or, of ImageNet, in the published way, of weights that published values
    may stand beside.

    Args:
        loaded: The weights and where they come from.
        images: The images that were measured.
        mode: How they were prepared.
    """
    name = loaded.subject().recipe
    wanted = sets_of_recipe(config.read(config.find(name)) if name in config.recipes() else None)[1]
    modes = ("published", "run") if wanted == "imagenet-val" else ("run",)
    return loaded.published and mode in modes and published_set(images) == wanted


def results_folder(source: Path, label: str) -> Path:
    """Where results go unless --out says: the run folder that `source` is or lies in (its checkpoints come and go),
    else a folder beside runs.

    Args:
        source: The checkpoint.
        label: The run's name.
    """
    if not source.is_dir():
        return Path("runs") / label
    folder = source.resolve()
    return Path(os.path.relpath(folder.parent.parent)) if folder.parent.name == "checkpoints" else source


def open_images(
    loaded: models.Loaded, spec: str | None, where: tuple[str | None, str], allow_partial: bool
) -> data.Images:
    """The images of a set, labelled by the class names of the checkpoint.

    Args:
        loaded: The checkpoint with its classes.
        spec: A folder or an embedded set; None: what the checkpoint was trained on.
        where: The folder of a set that is given by name, if any, and the part of the set.
        allow_partial: Whether class folders may be missing.
    """
    root, split = where
    spec = spec or (recipe_of(loaded).get("data") if root else None) or loaded.meta.get("data", {}).get("name")
    if spec is None:
        raise EvalkitError(NO_DATA)
    if root is not None and not data.has_parts(spec):
        raise EvalkitError(f"data_dir belongs to data by name, such as cifar100; {spec} is none: give --data DIR alone")
    if root is None and Path(spec).is_dir():
        if loaded.classes is None:
            return in_order(loaded, data.folder(spec))
        return data.folder(spec, classes=loaded.classes, allow_partial=allow_partial)
    data.check_exists(spec)
    images = data.load(spec, split, root=root)
    if (images.labels < 0).any():
        raise EvalkitError(
            f"{spec} holds images of no class, which have no accuracy; it is for `evalkit robustness imagenet-o`"
        )
    if loaded.network.num_classes != len(images.classes) or (
        loaded.classes is not None and loaded.classes != images.classes
    ):
        raise EvalkitError(
            f"{loaded.source} has {loaded.network.num_classes} classes, {spec} has {len(images.classes)} others; give"
            " images of its classes"
        )
    return images


def in_order(loaded: models.Loaded, images: data.Images) -> data.Images:
    """A folder of as many classes as a file has outputs that does not name them, with a remark. Raises EvalkitError for
    another number.

    Args:
        loaded: The weights.
        images: The folder.
    """
    n, found = loaded.network.num_classes, len(images.classes)
    if n != found:
        raise EvalkitError(
            f"{loaded.source} does not name its {n} classes, and {images.name} has {found} class folders; give a folder"
            " of exactly its classes, or name them in Python: dataclasses.replace(models.load(...), classes=[...])"
        )
    said = (
        f"{Path(loaded.source).name} does not name its classes: its {n} outputs were taken for the class folders in the"
        " order of their names, as torchvision and timm number them"
    )
    images.remarks = [*images.remarks, said]
    return images


def write_predictions(path: Path, records: inference.Records, classes: list[str], correct: np.ndarray) -> None:
    """One row per image: id, label, prediction, its probability, whether it is right.

    Args:
        path: The file.
        records: Ids, labels and logits.
        classes: Names of the model's outputs.
        correct: (N,) bool.
    """
    probability = torch.from_numpy(records.logits).double().softmax(1).numpy()
    predicted = probability.argmax(1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file_name", "label", "predicted_class", "predicted_probability", "correct"])
    for i, id in enumerate(records.ids):
        writer.writerow(
            [
                cell(id),
                cell(classes[records.labels[i]]),
                cell(classes[predicted[i]]),
                f"{probability[i, predicted[i]]:.6f}",
                int(correct[i]),
            ]
        )
    write_atomic(path, lambda f: f.write(text.getvalue().encode()))


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ids (N,) in order, whether each image is right (N,) float64) of a file that `write_predictions` wrote; empty
    where it is not there or damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as f:
            lines = {line["file_name"]: float(line["correct"]) for line in csv.DictReader(f)}
    except (OSError, ValueError, KeyError, TypeError):
        lines = {}
    ids = sorted(lines)
    return np.array(ids), np.array([lines[id] for id in ids])
