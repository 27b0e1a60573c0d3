"""Load a network from an evalkit checkpoint or run, a weights file, or timm's pretrained weights, and say where it came
from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from timm.data import ImageNetInfo
from torch import Size, Tensor

from .. import zoo
from ..checkpoint import read_weights
from ..errors import EvalkitError, unknown
from ..records import Subject
from .build import LARGEST, check_arguments, check_size
from .convert import to_timm
from .fit import fit, head_names, resized_by_timm, without_prefix
from .network import Network, create

if TYPE_CHECKING:
    from .wrap import Wrapped

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode and its provenance.

    Args:
        network: The network.
        name: architecture.
        classes: Name of each output, if known.
        sha256: Of the weights file; None for timm's weights.
        source: What the user named: a path or a timm name.
        method: The mixup it was trained with, if known.
        label: How tables name the model.
        weights: "raw" or "ema".
        meta: What the checkpoint says of itself.
        report: What became of the tensors of the file: see `fit`.
        asked: Arguments of the network that its sha256 does not stand for: what was asked for beside what the
            checkpoint says, and all of a folder that timm wrote.
    """

    network: "Network | Wrapped"
    name: str
    classes: list[str] | None
    sha256: str | None
    source: str
    method: str | None
    label: str
    weights: str
    meta: dict[str, Any] = field(default_factory=dict)
    report: dict[str, list[str]] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return self.network.input_size

    @property
    def published(self) -> bool:
        """Whether published values may stand beside results of these weights: those of others, whose making is their
        authors' word, or those of a finished run of ours by a published recipe on the published data."""
        return "config" not in self.meta or self.meta.get("published") is True

    def subject(self, sha256: str | None = None) -> Subject:
        """The weights as a record names them; `sha256` where no file has one."""
        recipe = self.meta.get("recipe")
        recipe = recipe if isinstance(recipe, str) else None
        name = spoken(self.name, self.asked)
        return Subject(name, self.method, self.label, sha256 or self.sha256, self.weights, recipe)


def spoken(name: str, args: Mapping[str, Any]) -> str:
    """An architecture as records and tables name it: the same weights read with other arguments are another network.

    Args:
        name: The architecture.
        args: What it was asked to be built with beside what its checkpoint says.
    """
    words = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(args.items()))
    return f"{name}({words})" if words else name


def load(
    spec: str,
    *,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    weights: str | None = None,
    num_classes: int | None = None,
) -> Loaded:
    """The network of a checkpoint, file or name. Raises EvalkitError in one line for anything that does not fit:
    nothing is ever loaded in part.

    Args:
        spec: A checkpoint or run folder, `zoo:NAME`, a weights file (with `model`), or a timm name.
        model: The architecture, for files that do not name theirs.
        model_args: What it is built with beside what the file says.
        weights: "raw" or "ema"; None takes the averaged weights where there are some.
        num_classes: How many classes it tells apart; None: what the file holds; 0 drops the head.
    """
    spec, model_args = str(spec), dict(model_args or {})
    path = zoo.located(spec)
    if path.exists():
        return _from_file(str(Path(spec)), model, model_args, weights, num_classes)
    if "/" in spec or path.suffix in SUFFIXES:
        raise EvalkitError(f"no such checkpoint: {spec}")
    return _from_timm(spec, model, model_args, num_classes)


def of_timm(spec: str) -> bool:
    """Whether `load` would take the weights that timm has under a name, which may be a download."""
    return not zoo.located(spec).exists() and timm.is_model(spec.partition(".")[0])


def _from_timm(name: str, model: str | None, model_args: dict[str, Any], num_classes: int | None) -> Loaded:
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("model or checkpoint", name, [*zoo.specs(), *timm.list_models()])
    if model is not None and model.partition(".")[0] != name.partition(".")[0]:
        raise EvalkitError(f"weights of timm model '{name}' asked for model '{model}'; give weights of that model")
    check_arguments(name, model_args)
    network = create(name, pretrained=True, num_classes=0 if num_classes == 0 else None, **model_args)
    if num_classes not in (None, network.num_classes):
        raise EvalkitError(f"timm's weights of '{name}' have {network.num_classes} classes, not {num_classes}")
    resized = resized_by_timm(name, network.model, model_args)
    report = {"resized": resized} if resized else {}
    return Loaded(network.eval(), name, _classes(network, None), None, name, None, name, "raw", {}, report, model_args)


def _from_file(
    path: str, model: str | None, model_args: dict[str, Any], weights: str | None, num_classes: int | None
) -> Loaded:
    tensors, meta, sha256 = read_weights(path, weights)
    name = meta.get("model") or model
    if name is None:
        raise EvalkitError(f"{path} does not say its architecture; add model=NAME, e.g. model=deit_small_patch16_224")
    if model is not None and model.partition(".")[0] != name.partition(".")[0]:
        raise EvalkitError(f"{path} holds weights of model '{name}', not '{model}'")
    check_arguments(name, {**meta.get("model_args", {}), **model_args})
    args = {
        **meta.get("model_args", {}),
        **model_args,
        "num_classes": meta.get("num_classes") if num_classes is None else num_classes,
    }
    if "model" in meta:
        check_size(name, {k: v for k, v in args.items() if v is not None}, tensors, str(path))
    network = create(name, **args)
    pool, own = meta.get("global_pool"), getattr(network.model, "global_pool", None)
    if pool is not None and isinstance(own, str) and pool != own and "global_pool" not in args:
        args["global_pool"] = pool  # timm writes it beside the other arguments, and does not read it there
        network = create(name, **args)
    names = meta.get("classes")
    if num_classes is None and names is not None and meta.get("num_classes") not in (None, len(names)):
        raise EvalkitError(
            f"{path} names {len(names)} classes, but says that it has {meta['num_classes']} outputs; correct its"
            " meta.json, or leave the names out"
        )
    head = f"{head_names(network.model)[0]}.weight"
    found = _head_of(network, tensors, head) if args["num_classes"] is None else None
    if found not in (None, network.num_classes):
        network = create(name, **{**args, "num_classes": found})
    # architectures that take any size do not know at which one they were trained
    if meta.get("image_size") and "img_size" not in model_args:
        if not 0 < meta["image_size"] <= LARGEST:
            raise EvalkitError(f"{path} says that its images have {meta['image_size']} pixels a side; correct that")
        size = (meta["image_size"], meta["image_size"])
        embed: Any = getattr(network.model, "patch_embed", None)
        if getattr(embed, "strict_img_size", False) and tuple(embed.img_size) != size:
            raise EvalkitError(
                f"{path} says that its images have {size[0]} pixels a side, which its network of"
                f" {embed.img_size[0]} does not take; correct the one or the other"
            )
        network.input_size = size
    before = _before(name, args, meta) if "img_size" in model_args else None
    told = "model" in meta or "mean" in args.get("pretrained_cfg_overlay", {})
    chosen = meta.get("chosen", []) + ([] if told else normalised(name, network.model))
    report = {"chosen": chosen} | fit(network.model, tensors, path, before=before)
    theirs = meta.get("model_args", {}) if "sha256" in meta else {}  # a checkpoint's, written once with its weights
    asked = {k: v for k, v in args.items() if k != "num_classes" and (k not in theirs or theirs[k] != v)}
    label = meta.get("label") or meta.get("method") or Path(path).stem
    which = meta.get("weights") or weights or "raw"
    return Loaded(
        network.eval(),
        name,
        _classes(network, meta.get("classes")),
        sha256,
        path,
        meta.get("method"),
        label,
        which,
        meta,
        report,
        asked,
    )


def normalised(name: str, model: Any) -> list[str]:
    """The sentence about a bare weights file, which does not say how images are normalised for it.

    Args:
        name: The architecture that it was given.
        model: timm's model of it.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (", ".join(f"{v:.3g}" for v in cfg.get(key) or ()) for key in ("mean", "std"))
    if not mean or not std:
        return []
    return [f"the file does not say how images are normalised: as timm does for {name}, mean {mean}, deviation {std}"]


def _before(name: str, args: dict[str, Any], meta: dict[str, Any]) -> Callable[[], dict[str, Size]]:
    """The shapes of the model at the image size that the file is for, rather than at the one asked for."""
    own = {k: v for k, v in args.items() if k != "img_size"} | {
        k: v for k, v in meta.get("model_args", {}).items() if k == "img_size"
    }
    return lambda: {k: v.shape for k, v in create(name, **own).model.state_dict().items()}


def _head_of(network: Network, tensors: dict[str, Tensor], head: str) -> int | None:
    """The number of classes that a file is for; None if it has no head that can be told."""
    tensors = without_prefix(to_timm(network.model, tensors)[0], network.model.state_dict())[0]
    return (len(tensors[head]) or None) if head in tensors and tensors[head].ndim else None


def _classes(network: Network, classes: list[str] | None) -> list[str] | None:
    """`classes` if they are those of the outputs, or the 1000 WordNet ids of ImageNet for a classifier of 1000
    classes."""
    if classes is None:
        return imagenet_classes() if network.num_classes == 1000 else None
    return classes if len(classes) == network.num_classes else None


def imagenet_classes() -> list[str]:
    """The 1000 WordNet ids of ImageNet, sorted: the order of the outputs of its classifiers."""
    return ImageNetInfo().label_names()
