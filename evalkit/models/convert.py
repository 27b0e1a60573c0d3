"""Weights of other code bases under timm's names: the OpenMMLab family (mmcls, mmpretrain, OpenMixup) for vision
transformers and residual networks, EfficientNet-PyTorch (lukemelas) for EfficientNets and their Lite variants."""

import re
from collections.abc import Iterable
from typing import Any

from timm.layers import Conv2dSame
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import EvalkitError

TRANSFORMER = (  # (their name, timm's), tried in this order on the name below `backbone.`
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"^ln1\.", "norm."),
)
HEADS = {VisionTransformer: (r"^head\.(layers\.head|fc)\.", "head."), ResNet: (r"^head\.fc\.", "fc.")}
# of EfficientNet-PyTorch: outside of the blocks, and the parts of a block with and without an expansion
WHOLE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDED = SQUEEZE | {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
DEPTHWISE = SQUEEZE | {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def to_timm(model: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(tensors under timm's names, "old -> new" of each renamed one); unchanged unless the names are those of a code
    base above and the model is of a kind that it has.

    Source of the names: mmcv's and mmcls's modules (a residual network's are torchvision's) and EfficientNet-PyTorch's.
    Window transformers are left alone: their weights are also ordered differently. What has no counterpart keeps its
    name, and loading says so.

    Args:
        model: timm's model.
        tensors: The weights by name.
    """
    kind = next((kind for kind in HEADS if isinstance(model, kind)), None)
    if kind is not None and any(name.startswith("backbone.") for name in tensors):
        new = {name: _openmmlab(name, kind) for name in tensors}
    elif isinstance(model, EfficientNet) and "_conv_stem.weight" in tensors:
        new = _efficientnet(model, tensors)
    else:
        return tensors, []
    if len(set(new.values())) < len(new):  # two for one place: leave it to the check of the whole
        return tensors, []
    return {new[name]: tensor for name, tensor in tensors.items()}, [
        f"{old} -> {name}" for old, name in new.items() if old != name
    ]


def _openmmlab(name: str, kind: type[nn.Module]) -> str:
    inside = name.removeprefix("backbone.")
    if inside == name:
        return re.sub(*HEADS[kind], name)
    for theirs, ours in TRANSFORMER if kind is VisionTransformer else ():
        if re.search(theirs, inside):
            return re.sub(theirs, ours, inside)
    return inside


def _efficientnet(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Their name -> timm's. Theirs counts the blocks through, timm's within each stage. Raises EvalkitError for a
    network whose convolutions pad otherwise: the tensors are the same, but what is computed with them is not."""
    if not isinstance(model.conv_stem, Conv2dSame):
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", "this network")
        raise EvalkitError(
            f"these are weights of EfficientNet-PyTorch, which pads as TensorFlow does; {name} does not: give"
            " model=tf_..."
        )
    blocks = [(f"blocks.{s}.{b}", block) for s, stage in enumerate(model.blocks) for b, block in enumerate(stage)]
    parts = {f"{theirs}.": f"{ours}." for theirs, ours in WHOLE.items()}
    for number, (place, block) in enumerate(blocks):
        inner = EXPANDED if hasattr(block, "conv_pwl") else DEPTHWISE
        parts |= {f"_blocks.{number}.{theirs}.": f"{place}.{ours}." for theirs, ours in inner.items()}
    split = {name: name.rpartition(".") for name in names}
    return {name: parts.get(f"{part}.", f"{part}.") + last for name, (part, _, last) in split.items()}
