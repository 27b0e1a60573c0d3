"""Semantic segmentation with mmsegmentation: a linear decoder or Segmenter's mask transformer on the last feature map
of the backbone.

Convention, source and what differs from it: `about.seg`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evalkit import bootstrap, keys
from evalkit.config import load
from evalkit.errors import EvalkitError
from evalkit.runtime import world_size

from . import config, readers, scenes, sheets, spread
from .about.seg import HEADS, SEG, SegConfig
from .backbone import Source
from .class_lists import IGNORE
from .readers_seg import SegData
from .task import Data, Scores, Task, mean_of_defined

PUBLISHED = ("deit_small_patch16_224",)  # the backbones that papers on mixing print numbers of


def find_data(cfg: SegConfig, run: Path) -> Data:
    """The set of `cfg`, checked; the embedded scenes are written into the run folder. With 59 classes background is a
    pixel of no class.

    Args:
        cfg: Which data, and where.
        run: The run folder.
    """
    found = readers.segmentation(cfg.data, run / "data", cfg.data_dir)
    without = cfg.classes == 59
    if without and len(found.classes) != 60:
        raise EvalkitError(
            f"classes=59 belongs to Pascal Context, but {found.name} has {len(found.classes)} classes; leave it out"
        )
    return Data(
        name=found.name,
        classes=found.classes[1:] if without else found.classes,
        counts={split: len(ids) for split, ids in found.ids.items()},
        fingerprint=found.fingerprint["val"],
        train_fingerprint=found.fingerprint["train"],
        published=found.published,
        train=_part(found, "train", without),
        val=_part(found, "val", without),
        notes=found.notes,
        demonstration=cfg.data == scenes.NAME,
    )


def _part(found: SegData, split: str, without_background: bool) -> dict[str, Any]:
    return {
        "type": "EvalkitSegDataset",
        "data_root": str(found.root),
        "data_prefix": {"img_path": found.images[split], "seg_map_path": found.masks[split]},
        "ann_file": found.lists[split] or "",
        "img_suffix": found.suffixes[0],
        "seg_map_suffix": found.suffixes[1],
        "metainfo": {"classes": found.classes[int(without_background) :]},
        "reduce_zero_label": without_background or found.zero_is_none,
        "nested": found.nested,
    }


def mm_config(cfg: SegConfig, source: Source, data: Data, run: Path) -> dict[str, Any]:
    """Everything mmsegmentation needs but `train_cfg`: model, data, schedule, test.

    Args:
        cfg: The recipe.
        source: The pre-trained backbone.
        data: Where images and label maps lie.
        run: The run folder.
    """
    crop, stride = config.given(cfg.crop), config.given(cfg.stride)
    loader = {"num_workers": cfg.workers, "persistent_workers": False}
    load, labels = {"type": "LoadImageFromFile"}, {"type": "EvalkitLabels", "classes": len(data.classes)}
    pack = {"type": "PackSegInputs"}
    test = {
        "dataset": data.val | {"pipeline": [load, *_resize(cfg.short_side), labels, pack]},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }
    return {
        "model": {
            "type": "EncoderDecoder",
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": [255 * v for v in source.mean],
                "std": [255 * v for v in source.std],
                "bgr_to_rgb": True,
                "pad_val": 0,
                "seg_pad_val": IGNORE,
                # of training crops alone: an image is tested as it is, and the backbone pads what its patches do not
                # divide
                "size": (crop, crop),
            },
            "backbone": {
                "type": "EvalkitTimmBackbone",
                "model": source.model,
                "model_args": source.model_args | ({"drop_path_rate": cfg.drop_path} if cfg.drop_path else {}),
                "img_size": crop,
                "out_indices": [len(source.channels) - 1],
                "norm": True,
                "checkpoint": source.checkpoint,
                "weights": source.weights,
            },
            "decode_head": _head(cfg, source.channels[-1], len(data.classes)),
            "train_cfg": {},
            "test_cfg": {"mode": "slide", "crop_size": (crop, crop), "stride": (stride, stride)},
        },
        "train_dataloader": {
            "batch_size": config.given(cfg.batch_size) // world_size(),
            "sampler": {"type": "InfiniteSampler", "shuffle": True, "seed": cfg.seed},
            "dataset": data.train | {"pipeline": [load, labels, *_augment(cfg), pack]},
            **loader,
        },
        "optim_wrapper": config.optimizer(cfg),
        "param_scheduler": [
            *config.warmup(cfg),
            {
                "type": "PolyLR",
                "power": cfg.power,
                "eta_min": cfg.min_lr,
                "begin": cfg.warmup_steps,
                "end": cfg.steps,
                "by_epoch": False,
            },
        ],
        "custom_hooks": [],
        "test_dataloader": {"batch_size": 1, **test, **loader},
        "test_evaluator": {"type": "EvalkitIoU", "collect_dir": str(run / "mm")},
        "tta_model": {"type": "SegTTAModel"},
        "tta_pipeline": [load, {"type": "TestTimeAug", "transforms": [_scales(cfg), _flips(cfg), [labels], [pack]]}],
    }


def _head(cfg: SegConfig, width: int, classes: int) -> dict[str, Any]:
    shared = {
        "in_channels": width,
        "in_index": 0,
        "channels": width,
        "num_classes": classes,
        "dropout_ratio": 0.0,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
    }
    if cfg.head == "linear":
        return {"type": "FCNHead", "num_convs": 0, "kernel_size": 1, "concat_input": False, **shared}
    transformer = {
        "num_layers": 2,
        "num_heads": max(1, width // 64),
        "embed_dims": width,
        "drop_rate": cfg.head_dropout,
        "drop_path_rate": 0.0,
    }
    return {"type": "SegmenterMaskTransformerHead", **transformer, **shared}


def _resize(short_side: int | None) -> list[dict[str, Any]]:
    """To the shorter side; the longer one may be up to eight times as long."""
    return [] if short_side is None else [{"type": "Resize", "scale": (8 * short_side, short_side), "keep_ratio": True}]


def _augment(cfg: SegConfig) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if cfg.short_side is not None:
        size = (8 * cfg.short_side, cfg.short_side)
        steps.append({"type": "RandomResize", "scale": size, "ratio_range": tuple(cfg.scale), "keep_ratio": True})
    steps.append({"type": "RandomCrop", "crop_size": (cfg.crop, cfg.crop), "cat_max_ratio": cfg.max_share})
    steps.append({"type": "RandomFlip", "prob": cfg.flip})
    return steps + ([{"type": "PhotoMetricDistortion"}] if cfg.photometric else [])


def _scales(cfg: SegConfig) -> list[dict[str, Any]]:
    """One resize per ratio, of the short side and not of the image on disk."""
    if cfg.short_side is None:
        return [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in cfg.ratios]
    return [step for ratio in cfg.ratios for step in _resize(int(cfg.short_side * ratio))]


def _flips(cfg: SegConfig) -> list[dict[str, Any]]:
    return [{"type": "RandomFlip", "prob": prob} for prob in ((0.0, 1.0) if cfg.flip else (0.0,))]


def measure(cfg: SegConfig, data: Data, evaluate: Callable[..., dict[str, Any]]) -> Scores:
    """Mean IoU over the classes that occur, pixel accuracy, IoU of each class; with `ms` also the mean IoU at several
    scales.

    Args:
        cfg: The recipe, which says whether several scales are measured too.
        data: The classes, in the order of the labels.
        evaluate: Runs the evaluation of the validation set and gives mm's metrics by name; with tta=True at several
            scales.
    """
    scores = {"": evaluate()} | ({"_ms": evaluate(tta=True)} if cfg.ms else {})
    metrics: dict[str, float] = {}
    rows: list[dict[str, Any]] = [{"class": name} for name in data.classes]
    for suffix, score in scores.items():
        metrics[f"miou{suffix}"] = mean_of_defined(score["seg/iou"])
        for row, iou in zip(rows, score["seg/iou"]):
            row[f"iou{suffix}"] = float(iou)
    score = scores[""]
    metrics |= {"mean_accuracy": mean_of_defined(score["seg/accuracy"]), "pixel_accuracy": float(score["seg/all"])}
    undefined = {
        name: "no pixel of the validation images has a class" for name, value in metrics.items() if np.isnan(value)
    }
    notes = []
    absent = int(np.isnan(score["seg/iou"]).sum())
    if absent:
        notes.append(
            f"{absent} of {len(data.classes)} classes occur neither in the truth nor in a prediction and are left out"
            " of the means"
        )
    if "seg/images" not in score:
        return Scores(metrics, rows, undefined, notes)
    kept = {f"images{suffix}": s["seg/images"] for suffix, s in scores.items()} | {"ids": score["seg/ids"]}
    errors, intervals = spread.over_images(kept["ids"], statistics(kept))
    return Scores(metrics, rows, undefined, notes, errors, intervals, kept)


def statistics(arrays: dict[str, np.ndarray]) -> list[bootstrap.Statistic]:
    """The metrics of what `measure` kept of each image, several scales last."""
    return [
        spread.Segmentation(arrays[f"images{suffix}"], suffix) for suffix in ("", "_ms") if f"images{suffix}" in arrays
    ]


def published(cfg: SegConfig, source: Source, data: Data) -> bool:
    """Whether this is what a paper prints: a backbone of theirs, all of the data, and the value of the Pascal Context
    recipe for every key that moves a number.

    Args:
        cfg: The recipe as it ran.
        source: The pre-trained backbone.
        data: The data as they were opened.
    """
    if not data.published or cfg.mm or source.model.partition(".")[0] not in PUBLISHED or not source.is_plain():
        return False
    reference = load(SegConfig, f"pascal-context-{cfg.head}", [], folder="seg")
    # `ms` is a further test, which moves no other number
    compared = keys.named(SegConfig, "setting") - {"ms"} | {"assumed"}
    return all(getattr(cfg, name) == getattr(reference, name) for name in compared)


def summary(outcome: Scores) -> str:
    """The scores in a line."""
    m = outcome.metrics
    return f"mIoU {100 * m['miou']:.2f} %" + (
        f", {100 * m['miou_ms']:.2f} % at several scales" if "miou_ms" in m else ""
    )


def recipe(overrides: list[str]) -> str:
    """The embedded scenes have one of their own; anything else is trained like Pascal Context."""
    given = dict(text.split("=", 1) for text in overrides)
    if "config" in given:
        return "stock-seg"
    if given.get("data", scenes.NAME) == scenes.NAME:
        return scenes.NAME
    head = given.get("head", "linear")
    # the config refuses another head by name
    return f"pascal-context-{head if head in HEADS else 'linear'}"


TASK = Task(
    about=SEG,
    scope="mmseg",
    recipe=recipe,
    data=find_data,
    config=mm_config,
    steps=lambda cfg, data: config.given(cfg.steps),
    measure=measure,
    statistics=statistics,
    published=published,
    sheet=sheets.segmentation,
    summary=summary,
)
