"""Weights of the OpenMMLab family (mmcls, mmpretrain, OpenMixup) under timm's names, for vision transformers and
residual networks."""

import re

from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TRANSFORMER = (  # (their name, timm's), tried in this order on the name below `backbone.`
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"^ln1\.", "norm."),
)
HEADS = {VisionTransformer: (r"^head\.(layers\.head|fc)\.", "head."), ResNet: (r"^head\.fc\.", "fc.")}


def to_timm(model: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(`tensors` under timm's names, "old -> new" of each renamed one); unchanged unless they lie below `backbone.` and
    timm's `model` is of a known kind.

    Source of the names: mmcv's and mmcls's modules; a residual network's are torchvision's. Window transformers are
    left alone: their weights are also ordered differently. What has no counterpart keeps its name, and loading says so.
    """
    kind = next((kind for kind in HEADS if isinstance(model, kind)), None)
    if kind is None or not any(name.startswith("backbone.") for name in tensors):
        return tensors, []
    new = {name: _renamed(name, kind) for name in tensors}
    if len(set(new.values())) < len(new):  # two for one place: leave it to the check of the whole
        return tensors, []
    return {new[name]: tensor for name, tensor in tensors.items()}, [
        f"{old} -> {name}" for old, name in new.items() if old != name
    ]


def _renamed(name: str, kind: type[nn.Module]) -> str:
    inside = name.removeprefix("backbone.")
    if inside == name:
        return re.sub(*HEADS[kind], name)
    for theirs, ours in TRANSFORMER if kind is VisionTransformer else ():
        if re.search(theirs, inside):
            return re.sub(theirs, ours, inside)
    return inside
