"""mmcv's deformable convolutions and attention by torchvision and PyTorch, under their own names and signatures.

Gradients are those of PyTorch, computed by running the operator again.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
import torchvision
from torch import Tensor


def same_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the type that torchvision wants them in: at least float32, since half-precision floats are too coarse for
    coordinates."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], outer: Tensor | None = None) -> list[Tensor]:
    """Of a function by each of its inputs.

    Args:
        function: What is differentiated.
        inputs: What it is called with.
        outer: The gradient of what it returns; None: it returns one number.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
        return list(torch.autograd.grad(out, leaves, outer, allow_unused=False))


# ---- deformable convolution (Dai et al., ICCV 2017, arXiv 1703.06211; modulated: Zhu et al., CVPR 2019)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **shape: int
) -> None:
    """Fill `output`; the strides, paddings and dilations in `shape` are mmcv's.

    Args:
        input: The maps, (B, C, H, W).
        weight: Of the kernel, (out, in, h, w).
        offset: (B, 2 * groups * h * w, H', W'), rows before columns.
        output: What is filled.
        columns: A buffer, left alone.
        ones: A buffer, left alone.
        shape: Kernel, stride, padding, dilation and groups, by mmcv's names.
    """
    output.copy_(_plain_deform(shape)(*same_type(input, offset, weight)))


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
    """Fill `grad_input` and `grad_offset`.

    Args:
        input: The maps, (B, C, H, W).
        offset: (B, 2 * groups * h * w, H', W'), rows before columns.
        grad_output: Gradient of the output.
        grad_input: Filled with that of the input.
        grad_offset: Filled with that of the offsets.
        weight: Of the kernel, (out, in, h, w).
        columns: A buffer, left alone.
        shape: Kernel, stride, padding, dilation and groups, by mmcv's names.
    """
    *inputs, outer = same_type(input, offset, weight, grad_output)
    found = gradients(_plain_deform(shape), inputs, outer)
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
    """Add `scale` times the gradient to `grad_weight`.

    Args:
        input: The maps, (B, C, H, W).
        offset: (B, 2 * groups * h * w, H', W'), rows before columns.
        grad_output: Gradient of the output.
        grad_weight: What is added to.
        columns: A buffer, left alone.
        ones: A buffer, left alone.
        scale: Factor on what is added.
        shape: Kernel, stride, padding, dilation and groups, by mmcv's names.
    """
    x, offset, outer, weight = same_type(input, offset, grad_output, grad_weight)
    (found,) = gradients(lambda w: _plain_deform(shape)(x, offset, w), [torch.zeros_like(weight)], outer)
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
    **shape: int,
) -> None:
    """Fill `output`; the strides, paddings and dilations in `shape` are mmcv's.

    Args:
        input: The maps, (B, C, H, W).
        weight: Of the kernel, (out, in, h, w).
        bias: (out,), or empty.
        ones: A buffer, left alone.
        offset: (B, 2 * groups * h * w, H', W'), rows before columns.
        mask: Factors on the samples.
        output: What is filled.
        columns: A buffer, left alone.
        shape: Kernel, stride, padding, dilation and groups, by mmcv's names.
    """
    inputs = same_type(input, offset, mask, weight, *([bias] if shape["with_bias"] else []))
    output.copy_(_modulated(shape)(*inputs))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    *gradients_: Tensor,
    **shape: int,
) -> None:
    """Fill the five gradients.

    Args:
        input: The maps, (B, C, H, W).
        weight: Of the kernel, (out, in, h, w).
        bias: (out,), or empty.
        ones: A buffer, left alone.
        offset: (B, 2 * groups * h * w, H', W'), rows before columns.
        mask: Factors on the samples.
        columns: A buffer, left alone.
        gradients_: Those of input, weight, bias, offset and mask, which are filled, and that of the output.
        shape: Kernel, stride, padding, dilation and groups, by mmcv's names, and whether there is a bias.
    """
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask, grad_output = gradients_
    *inputs, outer = same_type(input, offset, mask, weight, *([bias] if shape["with_bias"] else []), grad_output)
    targets = (grad_input, grad_offset, grad_mask, grad_weight, grad_bias)
    for target, found in zip(targets, gradients(_modulated(shape), inputs, outer)):
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
    """(B, queries, channels): the sums of `value` at `locations`, by mmcv's own form of it with grid_sample.

    Args:
        value: (B, keys, heads, d).
        shapes: (levels, 2), height and width of each map.
        starts: (levels,), the first key of each map.
        locations: (B, queries, heads, levels, points, 2) in [0, 1].
        weights: The same without its last axis.
        im2col_step: Left alone: how the compiled one splits its work.
    """
    return _attend(shapes)(*same_type(value, locations, weights)).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    *gradients_: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients.

    Args:
        value: (B, keys, heads, d).
        shapes: (levels, 2), height and width of each map.
        starts: (levels,), the first key of each map.
        locations: (B, queries, heads, levels, points, 2) in [0, 1].
        weights: The same without its last axis.
        gradients_: That of the output, and those of value, locations and weights, which are filled.
        im2col_step: Left alone: how the compiled one splits its work.
    """
    grad_output, *targets = gradients_
    *inputs, outer = same_type(value, locations, weights, grad_output)
    for target, found in zip(targets, gradients(_attend(shapes), inputs, outer)):
        target.copy_(found)


def _attend(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    attend: Any = import_module("mmcv.ops.multi_scale_deform_attn").multi_scale_deformable_attn_pytorch
    sizes = shapes.tolist()
    return lambda value, locations, weights: attend(value, sizes, locations, weights)


SERVED = (
    *(deform_conv_forward, deform_conv_backward_input, deform_conv_backward_parameters),
    *(modulated_deform_conv_forward, modulated_deform_conv_backward),
    *(ms_deform_attn_forward, ms_deform_attn_backward),
)
