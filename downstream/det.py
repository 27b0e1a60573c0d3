"""Object detection and instance segmentation with mmdetection: Mask R-CNN (He et al., ICCV 2017) with FPN on the
feature pyramid of the backbone.

The recipe for COCO is the 1x schedule that the authors of PVT released for Mask R-CNN (arXiv 2102.12122), the one whose
PVT-S row MixPro and TransMix print. Differs from it in the order of the images, which never ends instead of being
padded to whole epochs. As there, each process puts images of one orientation together, so that the number of processes
decides which images share a step.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evalkit import keys
from evalkit.config import load
from evalkit.errors import EvalkitError
from evalkit.runtime import world_size

from . import config, readers, scenes, sheets
from .about.det import DET, DetConfig
from .backbone import Source
from .readers_det import MIN_SIDE, DetData
from .task import Data, Scores, Task, mean_of_defined

# pixels per place of the finest feature map: finer ones are left out, a coarser one cannot show small objects
FINEST, COARSEST = 4, 8
LEVELS = 5  # of the feature pyramid; the last are pooled from the one before
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
    return Data(
        name=found.name,
        classes=found.classes,
        counts={"train": found.with_objects["train"], "val": found.count["val"]},
        fingerprint=found.fingerprint["val"],
        train_fingerprint=found.fingerprint["train"],
        published=found.published,
        train=_part(found, "train") | {"filter_cfg": {"filter_empty_gt": True, "min_size": MIN_SIDE}},
        val=_part(found, "val") | {"test_mode": True},
        notes=found.notes,
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
    return math.ceil(data.counts["train"] / cfg.batch_size)


def _steps(cfg: DetConfig, data: Data) -> int:
    return cfg.epochs * _steps_per_epoch(cfg, data)


def pyramid(source: Source) -> tuple[list[int], list[int], list[int]]:
    """Which of the backbone's maps the pyramid is built on: their indices, channels and strides. Raises EvalkitError
    for a model without a fine one."""
    # of several maps of one stride the last
    last = {stride: i for i, stride in enumerate(source.strides) if stride >= FINEST}
    indices = sorted(last.values())
    found = [source.strides[i] for i in indices]
    if not found or found[0] > COARSEST or any(b != 2 * a for a, b in itertools.pairwise(found)):
        what = ", ".join(map(str, sorted(set(source.strides))))
        raise EvalkitError(
            f"detection needs feature maps from stride 4 or 8 on, but those of model '{source.model}' have {what}; use"
            " a PVT, Swin or ResNet"
        )
    return indices, [source.channels[i] for i in indices], found


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
        optimizer["optimizer"]["lr"] = cfg.lr * cfg.batch_size / cfg.lr_batch
    return {
        "model": _model(cfg, source, len(data.classes)),
        "train_dataloader": {
            "batch_size": cfg.batch_size // world_size(),
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
                "milestones": [e * epoch for e in cfg.decay_epochs],
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


def _model(cfg: DetConfig, source: Source, classes: int) -> dict[str, Any]:
    """Mask R-CNN; what no key says is as in mmdetection's and the PVT authors' configs."""
    indices, channels, strides = pyramid(source)
    levels = [strides[0] * 2**i for i in range(LEVELS)]
    pooled = {"type": "SingleRoIExtractor", "out_channels": cfg.channels, "featmap_strides": levels[:4]}
    align = {"type": "RoIAlign", "sampling_ratio": 0}
    assigner = {"type": "MaxIoUAssigner", "match_low_quality": True, "ignore_iof_thr": -1}
    proposal = {"max_per_img": cfg.proposals, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [255 * v for v in source.mean],
            "std": [255 * v for v in source.std],
            "bgr_to_rgb": True,
            "pad_mask": True,
            "pad_size_divisor": 32,
        },
        "backbone": {
            "type": "EvalkitTimmBackbone",
            "model": source.model,
            "model_args": source.model_args | ({"drop_path_rate": cfg.drop_path} if cfg.drop_path else {}),
            # positional embeddings keep their size and are resampled for every image, as in the PVT authors' code
            "img_size": None,
            "out_indices": indices,
            # the last tokens of a ViT are made to be normalised, the maps of a pyramid are used as they are
            "norm": len(indices) == 1,
            # of batch normalisation: the batches of detection are too small to keep them
            "freeze_statistics": source.checkpoint is not None,
            "checkpoint": source.checkpoint,
            "weights": source.weights,
        },
        "neck": {"type": "FPN", "in_channels": channels, "out_channels": cfg.channels, "num_outs": LEVELS},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": cfg.channels,
            "feat_channels": cfg.channels,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [cfg.anchor_scale],
                "ratios": [0.5, 1.0, 2.0],
                "strides": levels,
            },
            "bbox_coder": _coder(1.0, 1.0),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": pooled | {"roi_layer": align | {"output_size": 7}},
            "bbox_head": {
                "type": "Shared2FCBBoxHead",
                "in_channels": cfg.channels,
                "fc_out_channels": cfg.fc_channels,
                "roi_feat_size": 7,
                "num_classes": classes,
                "bbox_coder": _coder(0.1, 0.2),
                "reg_class_agnostic": False,
                "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
                "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
            },
            "mask_roi_extractor": pooled | {"roi_layer": align | {"output_size": 14}},
            "mask_head": {
                "type": "FCNMaskHead",
                "num_convs": cfg.mask_convs,
                "in_channels": cfg.channels,
                "conv_out_channels": cfg.channels,
                "num_classes": classes,
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
            },
        },
        "train_cfg": {
            "rpn": {
                "assigner": assigner | {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
                "sampler": _sampler(256, 0.5, add_truth=False),
                "allowed_border": -1,
                "pos_weight": -1,
            },
            "rpn_proposal": proposal | {"nms_pre": 2 * cfg.proposals},
            "rcnn": {
                "assigner": assigner | {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5},
                "sampler": _sampler(cfg.rois, 0.25, add_truth=True),
                "mask_size": 28,
                "pos_weight": -1,
            },
        },
        "test_cfg": {
            "rpn": proposal | {"nms_pre": cfg.proposals},
            "rcnn": {
                "score_thr": 0.05,
                "nms": {"type": "nms", "iou_threshold": 0.5},
                "max_per_img": 100,
                "mask_thr_binary": 0.5,
            },
        },
    }


def _coder(centre: float, side: float) -> dict[str, Any]:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [centre, centre, side, side]}


def _sampler(count: int, positive: float, add_truth: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler",
        "num": count,
        "pos_fraction": positive,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": add_truth,
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
    for kind in ("box", "mask"):
        ap = np.asarray(scores[f"det/{kind}"])  # (classes, 3), NaN for a class without an object
        for suffix, column in zip(("", "50", "75"), ap.T):
            metrics[f"{kind}_ap{suffix}"] = mean_of_defined(column)
        for row, value in zip(rows, ap[:, 0]):
            row[f"{kind}_ap"] = float(value)
    absent = int(np.isnan(ap[:, 0]).sum())
    undefined = {
        name: "no object of the validation images counts" for name, value in metrics.items() if np.isnan(value)
    }
    return Scores(
        metrics,
        rows,
        undefined,
        [f"{absent} of {len(rows)} classes have no object in the validation images"] if absent else [],
    )


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
    return ", ".join(f"{kind} AP {100 * outcome.metrics[f'{kind}_ap']:.1f} %" for kind in ("box", "mask"))


def recipe(overrides: list[str]) -> str:
    """The embedded scenes have one of their own; anything else is trained like COCO."""
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    return f"{scenes.NAME}-det" if given.get("data", scenes.NAME) == scenes.NAME else "coco"


TASK = Task(
    about=DET,
    scope="mmdet",
    recipe=recipe,
    data=find_data,
    config=mm_config,
    steps=_steps,
    measure=measure,
    published=published,
    sheet=sheets.detection,
    summary=summary,
)
