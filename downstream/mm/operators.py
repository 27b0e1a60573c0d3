"""mmcv's compiled operators in the terms of torchvision and PyTorch, under their own names and signatures; `ext` serves
them. Each fills tensors that mmcv hands it, as the compiled ones do.
"""

import numpy as np
import torch
import torchvision
from torch import Tensor

from evalkit.errors import EvalkitError

from . import deformable
from .deformable import gradients, same_type


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


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft suppression (Bodla et al., ICCV 2017, arXiv 1704.04503) of (N, 4) corner boxes: fills the first rows of
    `dets` (N, 5) with boxes and their scores as they were picked, returns their indices. `method` 0: none is left of an
    overlap from `iou_threshold` on, 1: one minus the overlap of it, 2: exp(-overlap^2 / sigma) of any.

    Args:
        boxes: (N, 4) corners: left, top, right, bottom.
        scores: (N,) confidences.
        dets: (N, 5), whose first rows are filled.
        iou_threshold: The overlap from which a box loses.
        sigma: Width of method 2.
        min_score: Boxes that fall below it are left out.
        method: 0, 1 or 2, see above.
        offset: 1 where the right and bottom edge pixels belong to a box, else 0.
    """
    corners, left = boxes.float(), scores.float().clone()
    sides = corners[:, 2:] - corners[:, :2] + offset
    areas = sides.prod(dim=1)
    alive = torch.arange(len(boxes))
    picked: list[int] = []
    threshold = float(np.float32(iou_threshold))
    while len(alive):
        best = alive[left[alive].argmax()]
        dets[len(picked), :4], dets[len(picked), 4] = boxes[best], left[best]
        picked.append(int(best))
        alive = alive[alive != best]
        low = torch.maximum(corners[alive, :2], corners[best, :2])
        high = torch.minimum(corners[alive, 2:], corners[best, 2:])
        shared = (high - low + offset).clamp(min=0).prod(dim=1)
        overlap = shared / (areas[alive] + areas[best] - shared)
        if method == 2:
            weight = torch.exp(-(overlap**2) / sigma)
        else:
            weight = torch.where(overlap >= threshold, (1 - overlap) * (method == 1), torch.ones_like(overlap))
        left[alive] *= weight
        alive = alive[left[alive] >= min_score]
    return torch.tensor(picked, dtype=torch.long)


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
    input, rois = same_type(input, rois)
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
    grad_output, rois = same_type(grad_output, rois)
    size = aligned_height, aligned_width, *grad_input.shape
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(grad_output, rois, spatial_scale, *size, sampling_ratio, aligned)
    )


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise EvalkitError("RoIAlign with pool_mode='max' needs mmcv's compiled operators; use pool_mode='avg'")


# ---- focal loss


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """(N, C) focal loss (Lin et al., ICCV 2017, arXiv 1708.02002) of logits for classes (N,); C stands for none."""
    truth = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    loss: Tensor = torchvision.ops.sigmoid_focal_loss(logits, truth, alpha, gamma)
    return loss * weight[target][:, None] if weight.numel() else loss


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with `_focal` of `input`; `weight` (C,) by class or empty.

    Args:
        input: (N, C) logits.
        target: (N,) classes; C: none of them.
        weight: (C,) by class, or empty.
        output: What is filled.
        gamma: Power of the focus.
        alpha: Share of the positive class.
    """
    (logits,) = same_type(input)
    output.copy_(_focal(logits, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the derivative of each loss by its logit.

    Args:
        input: (N, C) logits.
        target: (N,) classes; C: none of them.
        weight: (C,) by class, or empty.
        grad_input: Filled with that of the input.
        gamma: Power of the focus.
        alpha: Share of the positive class.
    """
    (found,) = gradients(lambda x: _focal(x, target, weight, gamma, alpha).sum(), same_type(input))
    grad_input.copy_(found)


SERVED = {
    function.__name__: function
    for function in (
        *(nms, softnms, roi_align_forward, roi_align_backward, sigmoid_focal_loss_forward, sigmoid_focal_loss_backward),
        *deformable.SERVED,
    )
}
