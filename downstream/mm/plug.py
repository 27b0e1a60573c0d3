"""Our backbone in the place of a config's own: which of its maps stand for which, and the channels of all that reads
them.

The maps have the strides of the config's own backbone: of a pyramid the stages of these strides, dilated where timm's
model can be; of a plain ViT, whose maps all have one stride, blocks evenly spaced and rescaled, as BEiT's and MAE's
configs for mmsegmentation do.
"""

import copy
import inspect
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from evalkit import models
from evalkit.errors import EvalkitError

from ..backbone import Source
from .needs import one_process
from .stock import LACKING, said

PROBE = 128  # side of the image that shows a backbone's maps
PYRAMID = (4, 8, 16, 32)  # strides of the stages of every backbone in the two packages, undilated
RESCALING = ("MultiLevelNeck", "Feature2Pyramid")  # necks that make a pyramid of the maps of a plain ViT
# whose maps mmsegmentation and mmdetection normalise by a LayerNorm each, which is trained with the heads
NORMALISED = ("swin", "convnext")


@dataclass(frozen=True)
class Maps:
    """`channels` and `strides` of each map that a backbone gives.

    Args:
        channels: Of each map.
        strides: Pixels of the image per cell of each map.
    """

    channels: list[int]
    strides: list[int]


@dataclass
class Choice:
    """Which maps of ours are used, and how they are made.

    Args:
        indices: Of our maps, from 0.
        channels: Of each.
        strides: Of each, after rescaling.
        norm: Whether the model's final normalisation is applied.
        pyramid: Whether the maps are rescaled.
        out_norm: Whether each map has a LayerNorm of its own.
        model_args: What the model is built with for this.
        notes: What a reader should know, one sentence each.
    """

    indices: list[int]
    channels: list[int]
    strides: list[int]  # after rescaling
    norm: bool = False
    pyramid: bool = False
    out_norm: bool = False
    model_args: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def replace_backbone(
    model: dict[str, Any], source: Source, scope: str, *, crop: int | None, drop_path: float | None
) -> list[str]:
    """Put `source` into an mm model config; sentences for what is different from the config's own.

    Args:
        model: The `model` of an mm config; changed.
        source: Our backbone.
        scope: "mmseg" or "mmdet".
        crop: Side of square training images that a ViT's position embeddings are made for; None: of any size.
        drop_path: Stochastic depth; None: as the config says of its own backbone.

    Raises EvalkitError for maps that the model cannot use.
    """
    own = model["backbone"]
    old = _maps(own, model, scope)
    choice = _choose(source, old, model, own)
    rate = own.get("drop_path_rate") or 0.0 if drop_path is None else drop_path
    args = source.model_args | choice.model_args | ({"drop_path_rate": rate} if rate else {})
    frozen, notes = _frozen(own, source)
    _set_channels(model, old, choice)
    model.pop("pretrained", None)
    model["backbone"] = part(source, choice.indices, norm=choice.norm, img_size=crop, model_args=args) | {
        "strides": choice.strides if choice.pyramid else None,
        "out_norm": choice.out_norm,
        **frozen,
    }
    words = f"{own['type']} of the config is replaced by {source.model}, maps of strides"
    return [f"{words} {', '.join(map(str, choice.strides))}", *choice.notes, *notes]


def part(
    source: Source, indices: list[int], *, norm: bool, img_size: int | None, model_args: dict[str, Any]
) -> dict[str, Any]:
    """The backbone of an mm config.

    Args:
        source: Our backbone.
        indices: Of its maps, from 0.
        norm: Whether its final normalisation is applied.
        img_size: Pixels per side that position embeddings are made for.
        model_args: What the model is built with.
    """
    return {
        "type": "EvalkitTimmBackbone",
        "model": source.model,
        "model_args": model_args,
        "img_size": img_size,
        "out_indices": indices,
        "norm": norm,
        "checkpoint": source.checkpoint,
        "weights": source.weights,
    }


def _maps(own: dict[str, Any], model: dict[str, Any], scope: str) -> Maps:
    """Of the config's own backbone: it is built once, from random weights, and looked at. One that needs a package that
    is not there is taken to be a pyramid with the channels that its readers name."""
    if str(own["type"]).partition(".")[0] in LACKING:
        channels = _read_channels(model)
        return Maps(channels, list(PYRAMID[-len(channels) :]))
    bare, size = _without_pretrained(own), own.get("img_size") if own["type"] == "BEiT" else None
    side = PROBE if size is None else size if isinstance(size, int) else size[0]  # BEiT's is fixed
    try:
        with torch.no_grad():
            built = import_module(f"{scope}.registry").MODELS.build(bare)
            built.eval()  # which not all of them return
            maps = built(torch.zeros(1, 3, side, side))
        maps = [maps] if isinstance(maps, torch.Tensor) else list(maps)
        return Maps([m.shape[1] for m in maps], [round(side / m.shape[2]) for m in maps])
    except Exception as e:
        raise EvalkitError(
            f"what the backbone {own['type']} of the config gives is no list of maps, or it cannot be built"
            f" ({said(e)}); choose a config of the kind of UPerNet, Semantic FPN, Mask R-CNN or RetinaNet"
        ) from e


def _without_pretrained(own: dict[str, Any]) -> dict[str, Any]:
    bare = copy.deepcopy({k: v for k, v in own.items() if k not in ("init_cfg", "pretrained")})
    one_process(bare, several=False)
    return bare


def _read_channels(model: dict[str, Any]) -> list[int]:
    """What the first readers of the maps take: the neck, else the head."""
    for reader in _readers(model):
        if isinstance(found := reader.get("in_channels"), list | tuple):
            return list(found)
    raise EvalkitError(
        f"the config's backbone {model['backbone']['type']} is not installed, and what its maps are does not show in"
        " the rest; choose another config"
    )


def _readers(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts that read the backbone's maps: the first neck, else every head."""
    neck = model.get("neck")
    if neck:
        return [neck[0] if isinstance(neck, list) else neck]
    heads = [v for k, v in model.items() if k.endswith("head") and v]
    return [head for value in heads for head in (value if isinstance(value, list) else [value])]


# ---- which maps


def _choose(source: Source, old: Maps, model: dict[str, Any], own: dict[str, Any]) -> Choice:
    wanted, plain_config = list(old.strides), len(old.strides) > 1 and len(set(old.strides)) == 1
    if len(set(source.strides)) == 1:
        return _of_plain(source, wanted)
    if plain_config:
        neck = _readers(model)[0] if model.get("neck") else {}
        if neck.get("type") not in RESCALING:
            raise EvalkitError(
                f"the config reads {len(wanted)} maps that all have stride {wanted[0]}, as a plain ViT or an hourglass"
                f" gives them, and {source.model} has none such; choose a config of a ResNet or Swin, or a ViT"
            )
        scales = neck.get("scales") or neck.get("rescales")
        wanted = [round(wanted[0] / scale) for scale in scales or ()]
    return _of_pyramid(source, wanted, own)


def _of_plain(source: Source, wanted: list[int]) -> Choice:
    patch, blocks, n = source.strides[0], len(source.channels), len(wanted)
    if patch & (patch - 1):
        raise EvalkitError(
            f"{source.model} has patches of {patch} pixels, which no halving brings to the strides"
            f" {', '.join(map(str, wanted))} that the config needs; use one of 8, 16 or 32"
        )
    indices = [blocks - 1] if n == 1 else [max(0, (i + 1) * blocks // n - 1) for i in range(n)]
    rescaled = any(w != patch for w in wanted)
    notes = []
    if rescaled:
        what = ", ".join(f"{i + 1}" for i in indices)
        notes = [f"a plain ViT gets a pyramid: blocks {what}, rescaled from stride {patch} as in BEiT's configs"]
    channels = [source.channels[i] for i in indices]
    return Choice(indices, channels, wanted, norm=True, pyramid=rescaled, notes=notes)


def _of_pyramid(source: Source, wanted: list[int], own: dict[str, Any]) -> Choice:
    last = {stride: i for i, stride in enumerate(source.strides)}
    args: dict[str, Any] = {}
    notes, strides = [], list(wanted)
    if len(set(wanted)) < len(wanted) or own.get("dilations", (1,))[-1] != 1:  # a dilated backbone
        stages = [PYRAMID[i] for i in own.get("out_indices") or range(4)][-len(wanted) :]
        if _takes(source, "output_stride"):
            args = {"output_stride": max(wanted)}
            notes = [f"dilated to stride {max(wanted)}, as the config's"]
        else:
            strides = stages
            notes = [
                f"{source.model} cannot be dilated: its maps have strides {', '.join(map(str, stages))} where those of"
                f" the config have {', '.join(map(str, wanted))}"
            ]
        wanted = stages
    if absent := [w for w in wanted if w not in last]:
        raise EvalkitError(
            f"the config reads a map of stride {absent[0]}, but those of {source.model} have"
            f" {', '.join(map(str, sorted(last)))}; use a PVT, Swin, ConvNeXt or ResNet, or a ViT of patches of 16"
        )
    indices = [last[w] for w in wanted]
    normalised = source.model.startswith(NORMALISED)
    channels = [source.channels[i] for i in indices]
    return Choice(indices, channels, strides, out_norm=normalised, model_args=args, notes=notes)


def _takes(source: Source, argument: str) -> bool:
    """Whether the model's constructor has this argument."""
    kind = type(models.create(source.model, num_classes=0, **source.model_args).model)
    return argument in inspect.signature(kind.__init__).parameters


def _frozen(own: dict[str, Any], source: Source) -> tuple[dict[str, Any], list[str]]:
    """What of ours is frozen, as arguments of the backbone: as the config freezes its own."""
    stages, statistics = own.get("frozen_stages", -1), bool(own.get("norm_eval"))
    if stages < 0 and not statistics:
        return {}, []
    if source.checkpoint is None:
        return {}, ["nothing is frozen, as in the config, since the weights are random"]
    held: dict[str, Any] = {"freeze_statistics": True} if statistics else {}
    if stages < 0:
        return held, ["statistics of batch normalisation are frozen, as the config's"]
    if not source.model.startswith("resnet"):
        told = f"frozen_stages={stages} of the config's {own['type']} is not taken over; freeze_stages={stages} does it"
        return held, [told]
    return held | {"freeze": stages}, [f"the stem and {stages} stages are frozen, as the config's"]


# ---- what reads them


def _set_channels(model: dict[str, Any], old: Maps, new: Choice) -> None:
    """The channels of all that reads the maps."""
    readers = _readers(model)
    neck = readers[0] if model.get("neck") else None
    if neck is not None and neck.get("type") == "Feature2Pyramid":
        if new.pyramid or len(set(new.strides)) == 1:  # a ViT again: the neck stays
            neck["embed_dim"] = new.channels[0]
        else:
            model.pop("neck")
        readers = _readers(model | {"neck": None})
    elif neck is not None and neck.get("type") == "MultiLevelNeck" and len(set(new.strides)) > 1:
        neck["scales"] = [1] * len(new.channels)
    if neck is not None and neck.get("type") == "JPU":  # what is not joined goes on to the heads
        readers += _readers(model | {"neck": None})
    for reader in readers:
        _set_reader(reader, old, new, model)


def _set_reader(reader: dict[str, Any], old: Maps, new: Choice, model: dict[str, Any]) -> None:
    if "c1_in_channels" in reader and reader["c1_in_channels"] == old.channels[0]:
        reader["c1_in_channels"] = new.channels[0]
    found, places = reader.get("in_channels"), reader.get("in_index")
    if isinstance(found, list | tuple):
        if isinstance(places, list | tuple) and [old.channels[i] for i in places] == list(found):
            reader["in_channels"] = [new.channels[i] for i in places]
            return
        # of a part of the maps, such as the last three
        for start in range(len(old.channels) - len(found), -1, -1):
            if old.channels[start : start + len(found)] == list(found):
                reader["in_channels"] = new.channels[start : start + len(found)]
                return
    elif isinstance(found, int):
        places = len(old.channels) - 1 if places is None else places
        if (
            isinstance(places, int)
            and -len(old.channels) <= places < len(old.channels)
            and old.channels[places] == found
        ):
            reader["in_channels"] = new.channels[places]
