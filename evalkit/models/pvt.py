"""Pyramid Vision Transformer v1 (Wang et al., ICCV 2021, arXiv 2102.12122), in timm style; reads the authors' published
weights as they are.

Four stages at strides 4, 8, 16 and 32; keys and values are reduced spatially (8, 4, 2, 1). A class token joins in stage
4 only. Differs from the official code in the positional embeddings: each stage's are resampled (bilinear) whenever its
own grid differs from the one it was made for; there every stage is compared with stage 1.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, resample_abs_pos_embed, to_2tuple, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .common import StagedClassifier, build_staged, config, init_linear

Grid = tuple[int, int]
STAGES = 4


class SpatialReductionAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced by a strided convolution (paper, equations 1-3).

    Args:
        dim: Channels of the tokens.
        num_heads: Attention heads.
        reduction: How many times the map is reduced per side; 1: not.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int):
        super().__init__()
        self.num_heads, self.reduction = num_heads, reduction
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, T, D) tokens to (B, T, D); without reduction the tokens may include a class token."""
        source = self.norm(to_tokens(self.sr(to_map(x, grid)))) if self.reduction > 1 else x
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(source).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP, each with a residual.

    Args:
        dim: Channels of the tokens.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP per channel.
        reduction: As `SpatialReductionAttention` takes it.
        drop_path: Rate of stochastic depth.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SpatialReductionAttention(dim, num_heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens.

    What is left over at the right and at the bottom is cut off, as in the official code; with `dynamic_img_pad` (timm's
    name for it) it is padded to a patch with zeros.

    Args:
        in_chans: Channels of the map.
        dim: Channels of the tokens.
        patch: Pixels per side of a patch.
        grid: Rows and columns of patches at the size the model was made for.
    """

    dynamic_img_pad = False

    def __init__(self, in_chans: int, dim: int, patch: int, grid: Grid):
        super().__init__()
        self.grid, self.patch = grid, patch
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        if self.dynamic_img_pad:
            x = F.pad(x, (0, -x.shape[3] % self.patch, 0, -x.shape[2] % self.patch))
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class PyramidVisionTransformer(StagedClassifier):
    """(B, in_chans, H, W) images to logits.

    The maps for dense tasks (`forward_intermediates`, `features_only`) are those of the official detection code:
    without class token, without final norm.

    Args:
        depths: Blocks of each stage.
        embed_dims: Channels of each stage.
        num_heads: Attention heads of each stage.
        mlp_ratios: Hidden channels of the MLPs per channel, of each stage.
        reductions: Spatial reduction of each stage.
        img_size: The size the positional embeddings are made for; any size of at least 32 runs.
        in_chans: Channels of the images.
        num_classes: How many classes it tells apart; 0: no head.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the last block, rising from 0.
    """

    pooling = "token"

    def __init__(
        self,
        depths: tuple[int, ...],
        embed_dims: tuple[int, ...] = (64, 128, 320, 512),
        num_heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        reductions: tuple[int, ...] = (8, 4, 2, 1),
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__(embed_dims, "block")
        self.num_prefix_tokens = 1
        drop_path = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        grid, chans = to_2tuple(img_size), in_chans
        for i, dim in enumerate(embed_dims):
            patch = 4 if i == 0 else 2
            grid = (grid[0] // patch, grid[1] // patch)
            tokens = grid[0] * grid[1] + (i == 3)
            blocks = [Block(dim, num_heads[i], mlp_ratios[i], reductions[i], next(drop_path)) for _ in range(depths[i])]
            setattr(self, f"patch_embed{i + 1}", PatchEmbed(chans, dim, patch, grid))
            setattr(self, f"pos_embed{i + 1}", nn.Parameter(torch.empty(1, tokens, dim)))
            setattr(self, f"block{i + 1}", nn.ModuleList(blocks))
            chans = dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, chans))
        self.norm = nn.LayerNorm(chans, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of deviation 0.02 for tokens, positions and linear layers; convolutions keep PyTorch's
        default."""
        for weight in (self.cls_token, *(getattr(self, f"pos_embed{i + 1}") for i in range(STAGES))):
            trunc_normal_(weight, std=0.02)
        for module in self.modules():
            init_linear(module)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"cls_token"}  # as the official code, which does decay the positional embeddings

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers as timm counts them: the first patch embedding, then stages, or blocks with the patch embedding of a
        later stage before its first."""
        stages = r"^(?:block|patch_embed|pos_embed)(\d+)"
        fine = [
            (r"^block(\d+)\.(\d+)", None),
            (r"^(?:patch_embed|pos_embed)([2-4])", (0,)),
            (r"^norm|^cls_token", (99999,)),
        ]
        return {
            "stem": r"^(?:patch_embed1|pos_embed1)",
            "blocks": [(stages, None), (r"^norm|^cls_token", (99999,))] if coarse else fine,
        }

    def _stage(self, i: int, x: Tensor, class_token: bool = False) -> tuple[Tensor, Grid]:
        """Stage `i` (0-3) of a (B, C, H, W) map: (B, T, D) tokens and their grid, with the class token first if asked
        for."""
        embed, position = getattr(self, f"patch_embed{i + 1}"), getattr(self, f"pos_embed{i + 1}")
        x, grid = embed(x)
        prefix = int(i == 3)
        position = resample_abs_pos_embed(
            position, grid, embed.grid, num_prefix_tokens=prefix, interpolation="bilinear", antialias=False
        )
        if class_token:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        else:
            position = position[:, prefix:]
        x = x + position
        for block in getattr(self, f"block{i + 1}"):
            x = checkpoint(block, x, grid, use_reentrant=False) if self.grad_checkpointing else block(x, grid)
        return x, grid

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """The maps of the four stages, of which none has a class token."""
        for i in range(STAGES):
            x = to_map(*self._stage(i, x))
            yield x

    def stage_map(self, i: int, out: Tensor, norm: bool) -> Tensor:
        return self.norm(out.movedim(1, -1)).movedim(-1, 1).contiguous() if norm and i == STAGES - 1 else out

    def features_of(self, outs: Sequence[Tensor]) -> Tensor:
        return self.norm(self._stage(STAGES - 1, outs[STAGES - 2], class_token=True)[0])

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 1 + N, D) normalised tokens of stage 4, the class token first."""
        return self.features_of(list(islice(self.stages(x), STAGES - 1)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.head_drop(x[:, 0])
        return x if pre_logits else self.head(x)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """(B, C, h, w) map of tokens.

    Args:
        x: (B, h w, C).
        grid: h and w.
    """
    return x.transpose(1, 2).unflatten(2, grid).contiguous()


def checkpoint_filter_fn(state_dict: dict[str, Any], model: PyramidVisionTransformer) -> dict[str, Tensor]:
    """Resample the positional embeddings (square grids) to the size that a model was made for.

    Args:
        state_dict: The weights.
        model: The model that they go to.
    """
    out = dict(state_dict.get("model", state_dict))
    for i in range(4):
        key, grid = f"pos_embed{i + 1}", getattr(model, f"patch_embed{i + 1}").grid
        if key in out:
            out[key] = resample_abs_pos_embed(
                out[key], grid, num_prefix_tokens=int(i == 3), interpolation="bilinear", antialias=False
            )
    return out


def _cfg(file: str) -> dict[str, Any]:
    url = f"https://github.com/whai362/PVT/releases/download/v2/{file}"
    return config(url=url, crop_pct=0.875, first_conv="patch_embed1.proj", license="apache-2.0")


default_cfgs = generate_default_cfgs(
    {f"pvt_{size}.in1k": _cfg(f"pvt_{size}.pth") for size in ("tiny", "small", "medium", "large")}
)


def _pvt(name: str, depths: tuple[int, ...], pretrained: bool, **kwargs: Any) -> PyramidVisionTransformer:
    weights = {"pretrained_filter_fn": checkpoint_filter_fn}
    return build_staged(PyramidVisionTransformer, name, pretrained, depths=depths, **weights, **kwargs)


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Tiny: two blocks per stage.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    return _pvt("pvt_tiny", (2, 2, 2, 2), pretrained, **kwargs)


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Small: 3, 4, 6 and 3 blocks.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    return _pvt("pvt_small", (3, 4, 6, 3), pretrained, **kwargs)


@register_model
def pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Medium: 3, 4, 18 and 3 blocks.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    return _pvt("pvt_medium", (3, 4, 18, 3), pretrained, **kwargs)


@register_model
def pvt_large(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Large: 3, 8, 27 and 3 blocks.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    return _pvt("pvt_large", (3, 8, 27, 3), pretrained, **kwargs)
