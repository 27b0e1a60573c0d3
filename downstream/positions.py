"""Position embeddings of a vision transformer at another grid than they were made for, resampled as mmsegmentation's
own transformer resamples them: bicubic, without the smoothing filter that timm applies."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

Grid = tuple[int, int]


def resampled(model: nn.Module) -> bool:
    """Whether `resample_everywhere` and `fit` concern this model: one of timm's plain transformers with absolute
    positions."""
    return type(model) in (VisionTransformer, VisionTransformerDistilled) and model.pos_embed is not None


def resample_everywhere(model: Any) -> None:
    """Let the transformer `model`, built with dynamic_img_size, resample its positions for every image as said above.
    Other models keep their own way."""
    if resampled(model):
        model._pos_embed = partial(_add_positions, model)


def fit(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose positions, of a square grid, are resampled to the grid of a model.

    Args:
        model: The model that they are for.
        tensors: Weights by name.
    """
    positions = tensors.get("pos_embed")
    if not resampled(model) or positions is None or positions.shape == model.pos_embed.shape:
        return tensors
    prefix = _prefix(model)
    side = math.isqrt(max(0, positions.shape[1] - prefix))
    if positions.ndim != 3 or side == 0 or side * side + prefix != positions.shape[1]:
        return tensors  # not the file of such a model, as the check of its shape will say
    return tensors | {"pos_embed": _resample(positions, (side, side), tuple(model.patch_embed.grid_size), prefix)}


def _prefix(model: Any) -> int:
    """Tokens before those of the patches that have a position."""
    return 0 if model.no_embed_class else model.num_prefix_tokens


def _resample(positions: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """(1, prefix + h w, D) for the grid `old` to the same for the grid `new`."""
    if old == new:
        return positions
    grid = positions[:, prefix:].float().transpose(1, 2).unflatten(2, old)
    moved = F.interpolate(grid, size=new, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return torch.cat([positions[:, :prefix], moved.to(positions.dtype)], dim=1)


def _add_positions(model: Any, patches: Tensor) -> Tensor:
    """(B, h, w, D) patches to (B, T, D) tokens with their positions; it stands in for timm's `_pos_embed`."""
    before = [model.cls_token, getattr(model, "dist_token", None), model.reg_token]
    prefix = [token.expand(len(patches), -1, -1) for token in before if token is not None]
    grid = (patches.shape[1], patches.shape[2])
    positions = _resample(model.pos_embed, tuple(model.patch_embed.grid_size), grid, _prefix(model))
    tokens = patches.flatten(1, 2)
    if model.no_embed_class:
        return model.pos_drop(torch.cat([*prefix, tokens + positions], dim=1))
    return model.pos_drop(torch.cat([*prefix, tokens], dim=1) + positions)
