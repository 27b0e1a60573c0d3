"""Images as grids of square blocks: mix blocks of a batch, enlarge a grid to pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError

from ..base import laid_out_like


def check_grid(method: str, height: int, width: int, grid: int) -> int:
    """Side in pixels of a block of a grid x grid division of images; raises EvalkitError where there is none.

    Args:
        method: Name of the method, for the error.
        height: H of the images.
        width: W of the images.
        grid: Blocks per side.
    """
    if height != width or height % grid:
        raise EvalkitError(
            f"{method} with a {grid} x {grid} grid needs square images whose side is a multiple of {grid}, but got"
            f" {height}x{width}"
        )
    return height // grid


def enlarge(cells: Tensor, block: int) -> Tensor:
    """(B, G, G) -> (B, 1, G block, G block), each cell a block of pixels.

    Args:
        cells: A value of each cell, (B, G, G).
        block: Pixels per side of a cell.
    """
    return cells.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, None]


def mix_blocks(x: Tensor, image: Tensor, cell: Tensor, weight: Tensor) -> Tensor:
    """Images whose block p of sample i is sum_k weight[i, p, k] times block cell[i, p, k] of image image[i, p, k], (M,
    C, S, S).

    One pass over the sources: every row of pixels of a block is a weighted sum of K such rows.

    Args:
        x: The sources, (B, C, S, S).
        image: Which source, (M, G, G, K) int64.
        cell: Which of its blocks, counted row by row, (M, G, G, K) int64.
        weight: How much of it, (M, G, G, K).
    """
    channels, side = x.shape[1:3]
    count, grid = weight.shape[:2]
    block = side // grid
    rows = x.reshape(-1, block)  # row ((image * channels + channel) * side + y) * grid + column of the block
    first = (image * channels * side + cell // grid * block) * grid + cell % grid
    channel = torch.arange(channels, device=x.device).view(-1, 1, 1, 1, 1) * side
    y = torch.arange(block, device=x.device).view(-1, 1, 1)
    index = first[:, None, :, None] + (channel + y) * grid  # (M, C, G, block, G, K)
    weight = weight.to(x.dtype)[:, None, :, None].expand(index.shape)
    mixed = F.embedding_bag(index.flatten(0, 4), rows, per_sample_weights=weight.flatten(0, 4), mode="sum")
    return laid_out_like(x, mixed.view(count, channels, side, side))
