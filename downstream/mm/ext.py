"""`mmcv._ext` served by torchvision, so that mmcv-lite, which ships no compiled operators, runs Mask R-CNN on CPU and
GPU.

A compiled `_ext` is found first and wins. Non-maximum suppression and RoIAlign have the semantics of mmcv's own
operators; every other operator exists, since mmcv looks for all of them on import, and raises when it is called.
"""

import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from evalkit.errors import EvalkitError

NAME = "mmcv._ext"


def install() -> None:
    """Put the finder behind all others; must come before `mmcv.ops` is imported. Doing it twice is doing it once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())


class Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin="torchvision") if name == NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Operators(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(nms=nms, roi_align_forward=roi_align_forward, roi_align_backward=roi_align_backward)


class Operators(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise EvalkitError(
                f"mmcv's operator '{name}' needs compiled code, which this installation lacks; choose a model without"
                " it, or build mmcv"
            )

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes to keep, by falling score.

    Among equal scores mmcv's order is arbitrary; here the earlier box comes first.

    Args:
        boxes: (N, 4) corners: left, top, right, bottom.
        scores: (N,) confidences.
        iou_threshold: A box that overlaps a better one by more than this is left out.
        offset: 1 where the right and bottom edge pixels belong to a box, else 0.
    """
    shift = boxes.new_tensor([0, 0, offset, offset])
    # mmcv's threshold is a float32, torchvision's a float64: an overlap of exactly 0.7 would fall on the other side
    return torchvision.ops.nms(boxes + shift, scores, float(np.float32(iou_threshold)))


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` with the averages of `input` over the bins of boxes.

    Args:
        input: (B, C, H, W) maps.
        rois: (N, 5) boxes: image, left, top, right, bottom.
        output: (N, C, h, w), filled.
        argmax_y: Left alone: only a maximum needs it.
        argmax_x: Left alone: only a maximum needs it.
        aligned_height: h, bins of a box from top to bottom.
        aligned_width: w, bins from left to right.
        spatial_scale: Cells of the map per unit of the boxes.
        sampling_ratio: Samples per side of a bin; 0: as many as it has cells, rounded up.
        pool_mode: 1, the average; nothing else is taken.
        aligned: Whether boxes are moved by half a cell, so that corners mean pixel centres.
    """
    _only_average(pool_mode)
    input, rois = _same_type(input, rois)
    output.copy_(
        torchvision.ops.roi_align(input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` with the gradient of the input.

    Args:
        grad_output: (N, C, h, w), the gradient of the output.
        rois: (N, 5) boxes: image, left, top, right, bottom.
        argmax_y: Left alone: only a maximum needs it.
        argmax_x: Left alone: only a maximum needs it.
        grad_input: (B, C, H, W), filled.
        aligned_height: h, bins of a box from top to bottom.
        aligned_width: w, bins from left to right.
        spatial_scale: Cells of the map per unit of the boxes.
        sampling_ratio: Samples per side of a bin; 0: as many as it has cells, rounded up.
        pool_mode: 1, the average; nothing else is taken.
        aligned: Whether boxes are moved by half a cell, so that corners mean pixel centres.
    """
    _only_average(pool_mode)
    grad_output, rois = _same_type(grad_output, rois)
    size = aligned_height, aligned_width, *grad_input.shape
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(grad_output, rois, spatial_scale, *size, sampling_ratio, aligned)
    )


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise EvalkitError("RoIAlign with pool_mode='max' needs mmcv's compiled operators; use pool_mode='avg'")


def _same_type(features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type that torchvision wants them in: at least float32, since half-precision floats are too coarse for
    coordinates."""
    dtype = torch.promote_types(torch.promote_types(features.dtype, rois.dtype), torch.float32)
    return features.to(dtype), rois.to(dtype)
