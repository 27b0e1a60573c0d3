"""mmcv's compiled operators in the terms of torchvision and PyTorch, under their own names and signatures; `ext` serves
them. Each fills tensors that mmcv hands it, as the compiled ones do.

Gradients are those of PyTorch, computed by running the operator again where it has no backward of its own.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from evalkit.errors import EvalkitError


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the (N, 4) corner boxes to keep, by falling score; with offset 1 the right and bottom edge pixels
    belong to a box.

    Among equal scores mmcv's order is arbitrary; here the earlier box comes first."""
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
    overlap from `iou_threshold` on, 1: one minus the overlap of it, 2: exp(-overlap^2 / sigma) of any."""
    corners, left = boxes.float(), scores.float().clone()
    sides = corners[:, 2:] - corners[:, :2] + offset
    areas = sides.prod(dim=1)
    alive, picked = torch.arange(len(boxes)), []
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
    """Fill `output` (N, C, h, w) with the averages of `input` (B, C, H, W) over the bins of `rois` (N, 5): image, left,
    top, right, bottom."""
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
    """Fill `grad_input` (B, C, H, W) with the gradient of the input for `grad_output` (N, C, h, w)."""
    _only_average(pool_mode)
    grad_output, rois = _same_type(grad_output, rois)
    size = aligned_height, aligned_width, *grad_input.shape
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(grad_output, rois, spatial_scale, *size, sampling_ratio, aligned)
    )


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise EvalkitError("RoIAlign with pool_mode='max' needs mmcv's compiled operators; use pool_mode='avg'")


def _same_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the type that torchvision wants them in: at least float32, since half-precision floats are too coarse for
    coordinates."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


# ---- focal loss


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """(N, C) focal loss (Lin et al., ICCV 2017, arXiv 1708.02002) of logits for classes (N,); C stands for none."""
    truth = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    loss: Tensor = torchvision.ops.sigmoid_focal_loss(logits, truth, alpha, gamma)
    return loss * weight[target][:, None] if weight.numel() else loss


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with `_focal` of `input`; `weight` (C,) by class or empty."""
    output.copy_(_focal(*_same_type(input), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the derivative of each loss by its logit."""
    (found,) = _gradients(lambda x: _focal(x, target, weight, gamma, alpha).sum(), _same_type(input))
    grad_input.copy_(found)


def _gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], outer: Tensor | None = None) -> list[Tensor]:
    """Of `function` by each of its inputs, for the gradient `outer` of what it returns."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
        return list(torch.autograd.grad(out, leaves, outer, allow_unused=False))


# ---- deformable convolution (Dai et al., ICCV 2017, arXiv 1703.06211; modulated: Zhu et al., CVPR 2019)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **shape: int
) -> None:
    """Fill `output`; the strides, paddings and dilations in `shape` are mmcv's."""
    output.copy_(_plain_deform(shape)(*_same_type(input, offset, weight)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **shape: int,
) -> None:
    """Fill `grad_input` and `grad_offset`."""
    *inputs, outer = _same_type(input, offset, weight, grad_output)
    found = _gradients(_plain_deform(shape), inputs, outer)
    grad_input.copy_(found[0])
    grad_offset.copy_(found[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **shape: int,
) -> None:
    """Add `scale` times the gradient to `grad_weight`."""
    x, offset, outer, weight = _same_type(input, offset, grad_output, grad_weight)
    (found,) = _gradients(lambda w: _plain_deform(shape)(x, offset, w), [torch.zeros_like(weight)], outer)
    grad_weight.add_(found.to(grad_weight.dtype), alpha=scale)


def _plain_deform(shape: dict[str, int]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    stride, padding, dilation = ((shape[f"{k}H"], shape[f"{k}W"]) for k in ("d", "pad", "dilation"))
    return lambda x, offset, weight: torchvision.ops.deform_conv2d(x, offset, weight, None, stride, padding, dilation)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **shape: int,
) -> None:
    """Fill `output`; the strides, paddings and dilations in `shape` are mmcv's."""
    inputs = _same_type(input, offset, mask, weight, *([bias] if with_bias else []))
    output.copy_(_modulated(shape)(*inputs))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **shape: int,
) -> None:
    """Fill the five gradients."""
    *inputs, outer = _same_type(input, offset, mask, weight, *([bias] if with_bias else []), grad_output)
    targets = (grad_input, grad_offset, grad_mask, grad_weight, grad_bias)
    for target, found in zip(targets, _gradients(_modulated(shape), inputs, outer)):
        target.copy_(found)


def _modulated(shape: dict[str, int]) -> Callable[..., Tensor]:
    stride, padding, dilation = ((shape[f"{k}_h"], shape[f"{k}_w"]) for k in ("stride", "pad", "dilation"))

    def convolve(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torchvision.ops.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    return convolve


# ---- deformable attention (Zhu et al., ICLR 2021, arXiv 2010.04159)


def ms_deform_attn_forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, *, im2col_step: int
) -> Tensor:
    """(B, queries, channels): the sums of `value` at `locations`, by mmcv's own form of it with grid_sample."""
    return _attend(shapes)(*_same_type(value, locations, weights)).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_locations: Tensor,
    grad_weights: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Fill the three gradients."""
    *inputs, outer = _same_type(value, locations, weights, grad_output)
    for target, found in zip((grad_value, grad_locations, grad_weights), _gradients(_attend(shapes), inputs, outer)):
        target.copy_(found)


def _attend(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    attend: Any = import_module("mmcv.ops.multi_scale_deform_attn").multi_scale_deformable_attn_pytorch
    sizes = shapes.tolist()
    return lambda value, locations, weights: attend(value, sizes, locations, weights)


SERVED = {
    function.__name__: function
    for function in (
        *(nms, softnms, roi_align_forward, roi_align_backward, sigmoid_focal_loss_forward, sigmoid_focal_loss_backward),
        *(deform_conv_forward, deform_conv_backward_input, deform_conv_backward_parameters),
        *(modulated_deform_conv_forward, modulated_deform_conv_backward),
        *(ms_deform_attn_forward, ms_deform_attn_backward),
    )
}
