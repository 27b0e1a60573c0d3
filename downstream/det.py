"""Object detection and instance segmentation with mmdetection: Mask R-CNN (He et al., ICCV 2017) with FPN on the
feature pyramid of the backbone.

Convention, source and what differs from it: `about.det`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evalkit import bootstrap, keys
from evalkit.config import load
from evalkit.errors import EvalkitError
from evalkit.runtime import world_size

from . import config, mask_rcnn, readers, scenes, sheets, spread
from .about.det import DET, DetConfig
from .backbone import Source
from .readers_det import MIN_SIDE, DetData, left_out
from .task import Data, Scores, Task, mean_of_defined

# backbone -> the recipe that its authors released and papers on mixing print numbers of
PUBLISHED = {"pvt_tiny": "coco", "pvt_small": "coco", "pvt_medium": "coco-large", "pvt_large": "coco-pvt-large"}


def find_data(cfg: DetConfig, run: Path) -> Data:
    """The set of `cfg`, checked; the embedded scenes are written into the run folder. Images without objects or below
    `MIN_SIDE` are not trained on.

    Args:
        cfg: Which data, and where.
        run: The run folder.
    """
    found = readers.detection(cfg.data, run / "data", cfg.data_dir)
    if cfg.config is None and not found.masks:
        raise EvalkitError(
            f"{found.name} has boxes alone, but Mask R-CNN needs masks; use config=faster-rcnn_r50_fpn_1x_coco or"
            " another detector of boxes"
        )
    empty = found.count["train"] - found.with_objects["train"]
    return Data(
        name=found.name,
        classes=found.classes,
        counts={"train": found.with_objects["train"], "val": found.count["val"], "all": found.count["train"]},
        masks=found.masks,
        fingerprint=found.fingerprint["val"],
        train_fingerprint=found.fingerprint["train"],
        published=found.published,
        train=_part(found, "train") | {"filter_cfg": {"filter_empty_gt": True, "min_size": MIN_SIDE}},
        val=_part(found, "val") | {"test_mode": True},
        notes=found.notes + [left_out(empty, found.count["train"])] * (cfg.config is None and empty > 0),
        demonstration=cfg.data == scenes.NAME,
    )


def _part(found: DetData, split: str) -> dict[str, Any]:
    return {
        "type": "CocoDataset",
        "data_root": str(found.root),
        "ann_file": found.annotations[split],
        "data_prefix": {"img": found.images[split]},
        "metainfo": {"classes": found.classes},
    }


def _steps_per_epoch(cfg: DetConfig, data: Data) -> int:
    return math.ceil(data.counts["train"] / config.given(cfg.batch_size))


def _steps(cfg: DetConfig, data: Data) -> int:
    return config.given(cfg.epochs) * _steps_per_epoch(cfg, data)


def mm_config(cfg: DetConfig, source: Source, data: Data, run: Path) -> dict[str, Any]:
    """Everything mmdetection needs but `train_cfg`: model, data, schedule, test.

    Args:
        cfg: The recipe.
        source: The pre-trained backbone.
        data: Where images and annotations lie.
        run: The run folder, where predictions go.
    """
    epoch, total = _steps_per_epoch(cfg, data), _steps(cfg, data)
    if cfg.warmup_steps >= total:
        raise EvalkitError(
            f"warmup_steps={cfg.warmup_steps} leaves nothing of the {total} steps of {cfg.epochs} epochs; use fewer"
        )
    load, labels = {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
    size = {"scale_factor": 1.0} if cfg.image_size is None else {"scale": tuple(cfg.image_size)}
    resize = {"type": "Resize", "keep_ratio": True, **size}
    pack = {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")}
    loader = {"num_workers": cfg.workers, "persistent_workers": False}
    optimizer = config.optimizer(cfg)
    if cfg.lr_batch is not None:
        optimizer["optimizer"]["lr"] = config.given(cfg.lr) * config.given(cfg.batch_size) / cfg.lr_batch
    return {
        "model": mask_rcnn.model(cfg, source, len(data.classes)),
        "train_dataloader": {
            "batch_size": config.given(cfg.batch_size) // world_size(),
            "sampler": {"type": "InfiniteSampler", "shuffle": True, "seed": cfg.seed},
            # lying and upright images apart, so that little is padded
            "batch_sampler": {"type": "AspectRatioBatchSampler"},
            "dataset": (
                data.train
                | {
                    "pipeline": [
                        load,
                        labels,
                        resize,
                        {"type": "RandomFlip", "prob": cfg.flip},
                        {"type": "PackDetInputs"},
                    ]
                }
            ),
            **loader,
        },
        "optim_wrapper": optimizer,
        "param_scheduler": [
            *config.warmup(cfg),
            {
                "type": "MultiStepLR",
                "milestones": [e * epoch for e in config.given(cfg.decay_epochs)],
                "gamma": 0.1,
                "begin": 0,
                "end": total,
                "by_epoch": False,
            },
        ],
        "custom_hooks": [],
        "test_dataloader": {
            "batch_size": 1,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": data.val | {"pipeline": [load, resize, labels, pack]},  # the truth at its own size
            **loader,
        },
        "test_evaluator": {
            "type": "EvalkitCoco",
            "ann_file": str(Path(data.val["data_root"]) / data.val["ann_file"]),
            "collect_dir": str(run / "mm"),
        },
    }


def measure(cfg: DetConfig, data: Data, evaluate: Callable[..., dict[str, Any]]) -> Scores:
    """COCO's average precision of boxes and of masks: mean over IoU 0.50 to 0.95, at 0.50, at 0.75; and the first of
    these for each class.

    Args:
        cfg: The recipe, which says whether there are masks.
        data: The classes, in the order of the annotations.
        evaluate: Runs the evaluation of the validation set and gives mm's metrics by name.
    """
    scores = evaluate()
    rows: list[dict[str, Any]] = [{"class": name} for name in data.classes]
    metrics: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for kind in ("box", "mask"):
        if f"det/{kind}" not in scores:
            why = "the detector predicts boxes alone" if data.masks else f"{data.name} has boxes alone"
            metrics |= {f"{kind}_ap{suffix}": float("nan") for suffix in ("", "50", "75")}
            undefined |= {f"{kind}_ap{suffix}": why for suffix in ("", "50", "75")}
            continue
        ap = np.asarray(scores[f"det/{kind}"])  # (classes, 3), NaN for a class without an object
        for suffix, column in zip(("", "50", "75"), ap.T):
            metrics[f"{kind}_ap{suffix}"] = mean_of_defined(column)
        for row, value in zip(rows, ap[:, 0]):
            row[f"{kind}_ap"] = float(value)
    absent = int(np.isnan(scores["det/box"][:, 0]).sum())
    for name in (name for name, value in metrics.items() if np.isnan(value)):
        undefined.setdefault(name, "no object of the validation images counts")
    notes = [f"{absent} of {len(rows)} classes have no object in the validation images"] if absent else []
    kinds = {kind: scores[f"det/{kind}_matches"] for kind in ("box", "mask") if f"det/{kind}_matches" in scores}
    if not kinds:
        return Scores(metrics, rows, undefined, notes)
    kept = spread.packed(kinds) | {"ids": scores["det/ids"]}
    errors, intervals = spread.over_images(kept["ids"], statistics(kept))
    return Scores(metrics, rows, undefined, notes, errors, intervals, kept)


def statistics(arrays: dict[str, np.ndarray]) -> list[bootstrap.Statistic]:
    """The metrics of what `measure` kept of each image."""
    return [spread.Detection(spread.unpacked(arrays))]


def published(cfg: DetConfig, source: Source, data: Data) -> bool:
    """Whether this is what a paper prints: a backbone of theirs, all of the data, and the value of the recipe for this
    very backbone for every key that moves a number.

    Args:
        cfg: The recipe as it ran.
        source: The pre-trained backbone.
        data: The data as they were opened.
    """
    recipe = PUBLISHED.get(source.model.partition(".")[0])
    if recipe is None or not data.published or cfg.mm or not source.is_plain():
        return False
    reference = load(DetConfig, recipe, [], folder="det")
    compared = keys.named(DetConfig, "setting") | {"assumed"}
    return all(getattr(cfg, name) == getattr(reference, name) for name in compared)


def summary(outcome: Scores) -> str:
    """The scores in a line."""
    known = {kind: outcome.metrics[f"{kind}_ap"] for kind in ("box", "mask")}
    return ", ".join(f"{kind} AP {100 * ap:.1f} %" for kind, ap in known.items() if kind == "box" or not np.isnan(ap))


def recipe(overrides: list[str]) -> str:
    """The embedded scenes have one of their own; anything else is trained like COCO."""
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    if "config" in given:
        return "stock-det"
    return f"{scenes.NAME}-det" if given.get("data", scenes.NAME) == scenes.NAME else "coco"


TASK = Task(
    about=DET,
    scope="mmdet",
    recipe=recipe,
    data=find_data,
    config=mm_config,
    steps=_steps,
    measure=measure,
    statistics=statistics,
    published=published,
    sheet=sheets.detection,
    summary=summary,
)
