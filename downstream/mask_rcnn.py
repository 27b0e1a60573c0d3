"""Mask R-CNN with FPN as mmdetection's and the PVT authors' configs have it, on any backbone with a pyramid of maps."""

import itertools
from typing import Any

from evalkit.errors import EvalkitError

from .about.det import DetConfig
from .backbone import Source

# pixels per place of the finest feature map: finer ones are left out, a coarser one cannot show small objects
FINEST, COARSEST = 4, 8
LEVELS = 5  # of the feature pyramid; the last are pooled from the one before


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


def model(cfg: DetConfig, source: Source, classes: int) -> dict[str, Any]:
    """The `model` of an mm config; what no key says is as in mmdetection's and the PVT authors' configs.

    Args:
        cfg: The recipe.
        source: The pre-trained backbone.
        classes: How many there are.
    """
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
