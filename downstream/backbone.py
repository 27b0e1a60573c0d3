"""The pre-trained backbone: where it comes from, how it is built for other image sizes, how its weights are filled in,
what became of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from evalkit import models, zoo
from evalkit.checkpoint import find_folder, read_weights
from evalkit.errors import EvalkitError, unknown
from evalkit.models.build import check_size
from evalkit.models.fit import fit
from evalkit.models.load import SUFFIXES, normalised

from . import positions
from .adapted import Adapted
from .maps import Maps, for_any_size

TIMM = "timm"  # as a checkpoint: the weights that timm publishes for the model


@dataclass(frozen=True)
class Source:
    """A backbone by name: enough to build it, to fill it, and to say in a record what it was.

    Args:
        model: Name of the architecture, evalkit's or timm's.
        model_args: What it is built with beside its defaults.
        checkpoint: A folder or file, `TIMM`, or None: random weights.
        weights: "raw" or "ema"; None: what a bare file holds.
        sha256: Of the weights.
        method: The mixup it was trained with, if known.
        label: How tables name the transfer.
        mean: Of the images it wants, per channel, of values in [0, 1].
        std: The same, their standard deviation.
        channels: Of each map that forward_intermediates gives.
        strides: Pixels of the image per pixel of each map.
        of_training: Arguments of pre-training that regularised it: here the recipe's own keys do.
        recipe: Whose settings the weights were trained by, if known.
        published: Whether published values may stand beside results of these weights.
    """

    model: str
    model_args: dict[str, Any]
    checkpoint: str | None
    weights: str | None
    sha256: str | None
    method: str | None
    label: str
    mean: list[float]
    std: list[float]
    channels: list[int]
    strides: list[int]
    of_training: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    published: bool = False

    def is_plain(self) -> bool:
        """Whether the architecture is the named one as it stands, whatever size it was made for."""
        return not set(self.model_args) - {"img_size", "num_classes"}


def resolve(
    spec: str, *, model: str | None, model_args: dict[str, Any], weights: str | None, random: bool, label: str | None
) -> Source:
    """What a checkpoint's name or path means. Raises EvalkitError for what is not there or does not say its
    architecture.

    Args:
        spec: An evalkit checkpoint or run folder, `zoo:NAME`, a weights file (with `model`), or a timm name.
        model: The architecture, for files that do not name theirs.
        model_args: What it is built with beside what the checkpoint says.
        weights: raw or ema; None: averaged weights where there are some.
        random: Whether only the architecture is taken, its weights drawn at random.
        label: How tables name the transfer; None: as the checkpoint is called.
    """
    path, sha256 = zoo.located(spec), None
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {}
    if path.exists():
        tensors, meta, sha256 = read_weights(spec, weights)
        known = meta.get("model") or model
        if known is None:
            raise EvalkitError(
                f"{spec} does not say its architecture; add model=NAME, e.g. model=deit_small_patch16_224"
            )
    elif "/" in spec or path.suffix in SUFFIXES:
        raise EvalkitError(f"no such checkpoint: {spec}")
    elif not timm.is_model(spec.partition(".")[0]):
        raise unknown("model or checkpoint", spec, [*zoo.specs(), *timm.list_models()])
    else:
        known = spec
    if model is not None and model.partition(".")[0] != known.partition(".")[0]:
        raise EvalkitError(f"{spec} holds weights of model '{known}', not '{model}'; leave out model=")
    if "drop_path_rate" in model_args:
        raise EvalkitError("stochastic depth is the key drop_path here; leave model_args.drop_path_rate out")
    of_training = {k: v for k, v in meta.get("model_args", {}).items() if "drop" in k and k.endswith("_rate")}
    args = {**{k: v for k, v in meta.get("model_args", {}).items() if k not in of_training}, **model_args}
    models.check_arguments(known, args)
    if "model" in meta:
        check_size(known, {"num_classes": 0, **args}, tensors, spec)
    network = models.create(known, num_classes=0, **args)
    if not hasattr(network.model, "forward_intermediates"):
        raise EvalkitError(
            f"model '{known}' does not give its feature maps, so it cannot be transferred; use a ViT, DeiT, PVT, Swin"
            " or ResNet"
        )
    info = network.model.feature_info
    name = meta.get("label") or meta.get("method") or path.stem
    return Source(
        model=known,
        model_args=args,
        checkpoint=None if random else _fixed(spec) if path.exists() else TIMM,
        weights=None if random else meta.get("weights") or weights,
        sha256=None if random else sha256,
        method=None if random else meta.get("method"),
        label=label or (f"{known}, random" if random else name),
        mean=list(network.mean),
        std=list(network.std),
        channels=[stage["num_chs"] for stage in info],
        strides=[stage["reduction"] for stage in info],
        of_training=of_training,
        recipe=None if random else meta.get("recipe"),
        published=not random and ("config" not in meta or meta.get("published") is True),
    )


def _fixed(spec: str) -> str:
    """The checkpoint folder that is a run's newest now: the run may go on, but this transfer stays with what it
    recorded."""
    folder = find_folder(spec) if Path(spec).is_dir() else None
    return spec if folder is None else str(folder.resolve())


def build(name: str, model_args: dict[str, Any], img_size: int | None) -> Any:
    """The timm model without its head, for images of any size, see `maps.for_any_size`.

    Args:
        name: Name of the architecture.
        model_args: What it is built with beside its defaults.
        img_size: Pixels per side that position embeddings are made for; None: as pre-trained.
    """
    return for_any_size(lambda **size: models.create(name, num_classes=0, **model_args | size).model, img_size)


def fill(
    model: nn.Module,
    tensors: dict[str, Tensor],
    source: str,
    before: Callable[[], Mapping[str, torch.Size]] | None = None,
) -> dict[str, list[str]]:
    """Load weights into a model without head by `evalkit.models.fit`; the report of it, a head that was left out as
    "head_dropped". Positions are resampled to the model's size. Raises EvalkitError.

    Args:
        model: The model without head.
        tensors: Weights by the names of the whole model.
        source: Where they come from, for errors.
        before: Makes the shapes that the model had as it was pre-trained; None: those it has.
    """
    report = fit(model, tensors, source, before=before, positions=positions.fit)
    return {"head_dropped": report.pop("dropped"), **report}


def _shapes(name: str, model_args: dict[str, Any]) -> dict[str, torch.Size]:
    """Of the tensors of a model as it was pre-trained."""
    return {k: v.shape for k, v in models.create(name, num_classes=0, **model_args).model.state_dict().items()}


class Backbone(Maps):
    """`Maps` of a model by name, its weights filled in; `report` tells what `fill` did.

    Args:
        model: Name of the architecture.
        img_size: Pixels per side that position embeddings are made for; None: as pre-trained.
        out_indices: The blocks or stages whose maps are given, from 0.
        norm: As `Maps` takes it.
        model_args: What the model is built with beside its defaults.
        checkpoint: The weights, as `evalkit.checkpoint.read_weights` takes them; None: random ones.
        weights: raw or ema; None: averaged weights where there are some.
        freeze_statistics: As `Maps` takes it.
    """

    def __init__(
        self,
        model: str,
        img_size: int | None,
        out_indices: list[int],
        norm: bool = False,
        model_args: dict[str, Any] | None = None,
        checkpoint: str | None = None,
        weights: str | None = None,
        freeze_statistics: bool = False,
    ):
        args, report = dict(model_args or {}), {}
        built = build(model, args, img_size)
        before = partial(_shapes, model, args)
        if checkpoint == TIMM:
            published = models.create(model, num_classes=0, pretrained=True, **args).model
            report = fill(built, published.state_dict(), f"timm's file of '{model}'", before)
        elif checkpoint is not None:
            tensors, meta, _ = read_weights(checkpoint, weights)
            chosen = meta.get("chosen", []) + ([] if "model" in meta else normalised(model, built))
            report = {"chosen": chosen} | fill(built, tensors, checkpoint, before)
        super().__init__(built, model, out_indices, norm, freeze_statistics)
        self.report: dict[str, list[str]] = report | {"frozen": frozen(built)}


class AdaptedBackbone(Adapted, Backbone):
    """A `Backbone` with its maps rescaled or normalised, parts of it frozen.

    Args:
        args: Of `Backbone`, in order.
        kwargs: Of `Backbone` and `Adapted`, by name.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.report["frozen"] = frozen(self.model)


def frozen(model: nn.Module) -> list[str]:
    """Names of the parameters that are not trained."""
    return [name for name, p in model.named_parameters() if not p.requires_grad]
