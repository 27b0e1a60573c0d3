"""Pixel masks, 1 where the own image shows and 0 where the partner does, and mixing by them."""

import numpy as np
import torch
from torch import Tensor

from .base import upload


def blend(x: Tensor, partner: Tensor, own: Tensor | float) -> Tensor:
    """own x + (1 - own) x[partner] in the dtype of `x` (B, ...); `own` is a number or a mask that broadcasts. Exact where `own` is 0 or 1."""
    return x[partner].lerp_(x, own if isinstance(own, float) else own.to(x.dtype))  # the gathered copy is ours to write on: one batch-sized buffer


def outer_mask(rows: np.ndarray, columns: np.ndarray, like: Tensor) -> Tensor:
    """(B, 1, H, W) float32 on the device of `like`: 1 - rows columns^T, of the partner's shares by row (B, H) and by column (B, W)."""
    rows, columns = upload(rows, like, torch.float32), upload(columns, like, torch.float32)
    return torch.addcmul(rows.new_ones(()), rows[:, None, :, None], columns[:, None, None, :], value=-1)
