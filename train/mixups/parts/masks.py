"""Pixel masks, 1 where the own image shows and 0 where the partner does, and mixing by them."""

import math

import numpy as np
import torch
from torch import Tensor

from ..base import upload


def blend(x: Tensor, partner: Tensor, own: Tensor | float) -> Tensor:
    """own x + (1 - own) x[partner] in the dtype of `x`. Exact where `own` is 0 or 1.

    Args:
        x: Images or features (B, ...).
        partner: Index of the other image, (B,).
        own: Share of the own image, a number or a mask that broadcasts.
    """
    # the gathered copy is ours to write on: one batch-sized buffer
    return x[partner].lerp_(x, own if isinstance(own, float) else own.to(x.dtype))


def outer_mask(rows: np.ndarray, columns: np.ndarray, like: Tensor) -> Tensor:
    """(B, 1, H, W) float32: 1 - rows columns^T.

    Args:
        rows: The partner's share of each row, (B, H).
        columns: Its share of each column, (B, W).
        like: A tensor on the device of the result.
    """
    down, across = upload(rows, like, torch.float32), upload(columns, like, torch.float32)
    return torch.addcmul(down.new_ones(()), down[:, None, :, None], across[:, None, None, :], value=-1)


def token_count(grid: tuple[int, int], lam: float = 0.5, least: int | None = None) -> int:
    """How many tokens of a grid TokenMix takes from the partner.

    Args:
        grid: Rows and columns.
        lam: Share of the own image.
        least: Tokens that are taken beyond the partner's share; None: 14 for each 196.
    """
    tokens = grid[0] * grid[1]
    return min(tokens, int((1 - lam) * tokens) + (round(tokens / 14) if least is None else least))


def token_block_mask(rng: np.random.Generator, grid: tuple[int, int], count: int) -> np.ndarray:
    """(rows, columns) bool, False in blocks that the partner fills (TokenMix, arXiv:2207.08409; after BEiT).

    Blocks of area U(1, what is missing) and aspect ratio exp(U(ln 0.3, -ln 0.3)), smaller than the grid either way, are
    placed uniformly until `count` is reached or ten in a row do not fit: that is, would fill more than is missing, or
    nothing new.

    Args:
        rng: Where the blocks come from.
        grid: Rows and columns.
        count: The most tokens that the partner fills.
    """
    rows, columns = grid
    own = np.ones(grid, dtype=bool)
    missing, tries = count, 0
    while missing > 0 and tries < 10:
        tries += 1
        area = rng.uniform(1, missing)
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height >= rows or width >= columns:
            continue
        top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        block = own[top : top + height, left : left + width]
        new = int(block.sum())
        if 0 < new <= missing:
            block[:] = False
            missing, tries = missing - new, 0
    return own
