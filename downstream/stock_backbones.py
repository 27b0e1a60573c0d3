"""mm's own backbones for timm's models: the config, and the weights under mm's names.

What is returned is a candidate: whoever uses it compares the maps, since not every variant of a family is the same
function. A window transformer is none at all: mm's pads maps before it shifts windows, timm's and the authors' after.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

Tensors = dict[str, Tensor]
DEPTHS: dict[
    tuple[tuple[int, ...], bool], int
] = {  # of mm's residual networks, by blocks per stage and whether these are bottlenecks
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
TRANSFORMER = (  # (timm's name, mm's) of a part of a plain transformer
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"layers.\1.ln\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"layers.\1.attn.attn.in_proj_\2"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attn.attn.out_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"layers.\1.ffn.layers.0.0."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"layers.\1.ffn.layers.1."),
    (r"^norm\.", "ln1."),
)


@dataclass(frozen=True)
class Stock:
    """A backbone of mm's.

    Args:
        config: Its part of a config, without weights.
        tensors: The weights by its names.
        indices: Of timm's maps, those that it gives.
        norm: Whether timm's final normalisation is applied to them.
        notes: What a reader should know, one sentence each.
    """

    config: dict[str, Any]
    tensors: Tensors
    indices: list[int]
    norm: bool = False
    notes: list[str] = field(default_factory=list)


def candidate(model: Any, img_size: int, scope: str) -> Stock | None:
    """mm's backbone for a timm model without head; None if no family is known.

    Args:
        model: The model.
        img_size: Pixels per side that its positions are made for.
        scope: mmseg or mmdet.
    """
    families: dict[type, Callable[[Any, int, str], Stock | None]] = {
        VisionTransformer: _transformer,
        ResNet: _residual,
    }
    make = families.get(type(model))
    return None if make is None else make(model, img_size, scope)


def _transformer(model: Any, img_size: int, scope: str) -> Stock | None:
    """mmsegmentation's; mmdetection has none."""
    if scope != "mmseg" or model.cls_token is None or not hasattr(model.norm, "eps"):
        return None
    first, depth, width = model.blocks[0], len(model.blocks), model.embed_dim
    config = {
        "type": "mmseg.VisionTransformer",
        "img_size": (img_size, img_size),
        "patch_size": model.patch_embed.patch_size[0],
        "patch_bias": model.patch_embed.proj.bias is not None,
        "embed_dims": width,
        "num_layers": depth,
        "num_heads": first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features // width,
        "qkv_bias": first.attn.qkv.bias is not None,
        "norm_cfg": {"type": "LN", "eps": model.norm.eps},
        "final_norm": True,
        "interpolate_mode": "bicubic",
        "out_indices": [depth - 1],
    }
    return Stock(config, renamed(model.state_dict(), TRANSFORMER), [depth - 1], norm=True)


def _residual(model: Any, img_size: int, scope: str) -> Stock | None:
    stages = [getattr(model, f"layer{i}") for i in range(1, 5)]
    first = stages[0][0]
    depth = DEPTHS.get((tuple(map(len, stages)), not isinstance(first, BasicBlock)))
    if depth is None:
        return None
    config = {"type": f"{scope}.ResNet", "depth": depth, "style": "pytorch", "out_indices": [0, 1, 2, 3]}
    groups = first.conv2.groups
    if groups > 1:
        width = first.conv2.in_channels // groups
        config |= {"type": f"{scope}.ResNeXt", "groups": groups, "base_width": width}
    notes = []
    if scope == "mmdet":
        notes = ["mmdet's ResNet keeps the statistics of batch normalisation while it trains; norm_eval=False does not"]
    return Stock(config, dict(model.state_dict()), [1, 2, 3, 4], notes=notes)


def renamed(tensors: Mapping[str, Tensor], names: tuple[tuple[str, str], ...]) -> Tensors:
    """Tensors under other names.

    Args:
        tensors: By timm's names.
        names: (pattern, what stands for it), the first that is found counts.
    """

    def new(name: str) -> str:
        return next((re.sub(old, to, name) for old, to in names if re.search(old, name)), name)

    return {new(name): tensor for name, tensor in tensors.items()}
