"""Load a network from an evalkit checkpoint or run, a weights file, or timm's pretrained weights, and say where it came
from."""

import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ..checkpoint import read_weights
from ..errors import EvalkitError, unknown
from ..records import Subject
from .build import check_arguments
from .convert import to_timm
from .network import Network, create

if TYPE_CHECKING:
    from .wrap import Wrapped

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode and its provenance."""

    network: "Network | Wrapped"
    name: str  # architecture
    classes: list[str] | None  # name of each output, if known
    sha256: str | None  # of the weights file; None for timm's weights
    source: str
    method: str | None  # the mixup it was trained with, if known
    label: str
    weights: str  # "raw" or "ema"
    meta: dict[str, Any] = field(default_factory=dict)
    # "unexpected" and "dropped" keys of the file, "renamed" ones of another code base
    report: dict[str, list[str]] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether published values may stand beside results of these weights: those of others, whose making is their
        authors' word, or those of a finished run of ours by a published recipe on the published data."""
        return "config" not in self.meta or self.meta.get("published") is True

    def subject(self, sha256: str | None = None) -> Subject:
        """The weights as a record names them; `sha256` where no file has one."""
        recipe = self.meta.get("recipe")
        recipe = recipe if isinstance(recipe, str) else None
        return Subject(self.name, self.method, self.label, sha256 or self.sha256, self.weights, recipe)


def load(
    spec: str,
    *,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    weights: str | None = None,
    num_classes: int | None = None,
) -> Loaded:
    """Network of `spec`: a checkpoint or run folder, a weights file (with `model`), or a timm name.

    weights: "raw" or "ema"; None takes the averaged weights where there are some. num_classes: default what the file
    holds; 0 drops the head. Raises EvalkitError in one line for anything that does not fit: nothing is ever loaded in
    part."""
    spec, model_args = str(spec), dict(model_args or {})
    path = Path(spec)
    if path.exists():
        return _from_file(path, model, model_args, weights, num_classes)
    if "/" in spec or path.suffix in SUFFIXES:
        raise EvalkitError(f"no such checkpoint: {spec}")
    return _from_timm(spec, model, model_args, num_classes)


def _from_timm(name: str, model: str | None, model_args: dict[str, Any], num_classes: int | None) -> Loaded:
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("model or checkpoint", name, timm.list_models())
    if model is not None and model.partition(".")[0] != name.partition(".")[0]:
        raise EvalkitError(f"weights of timm model '{name}' asked for model '{model}'; give weights of that model")
    check_arguments(name, model_args)
    network = create(name, pretrained=True, num_classes=0 if num_classes == 0 else None, **model_args)
    if num_classes not in (None, network.num_classes):
        raise EvalkitError(f"timm's weights of '{name}' have {network.num_classes} classes, not {num_classes}")
    return Loaded(network.eval(), name, _classes(network, None), None, name, None, name, "raw")


def _from_file(
    path: Path, model: str | None, model_args: dict[str, Any], weights: str | None, num_classes: int | None
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
    network = create(name, **args)
    tensors, renamed = to_timm(network.model, tensors)
    head = f"{head_names(network.model)[0]}.weight"
    if args["num_classes"] is None and head in tensors and len(tensors[head]) != network.num_classes:
        network = create(name, **{**args, "num_classes": len(tensors[head])})
    # architectures that take any size do not know at which one they were trained
    if meta.get("image_size") and "img_size" not in model_args:
        network.input_size = (meta["image_size"], meta["image_size"])
    report = _fill(network, tensors, str(path)) | ({"renamed": renamed} if renamed else {})
    label = meta.get("label") or meta.get("method") or path.stem
    which = meta.get("weights") or weights or "raw"
    return Loaded(
        network.eval(),
        name,
        _classes(network, meta.get("classes")),
        sha256,
        str(path),
        meta.get("method"),
        label,
        which,
        meta,
        report,
    )


def _fill(network: Network, tensors: dict[str, Tensor], source: str) -> dict[str, list[str]]:
    """Load `tensors` into the network, converted by timm where they are of another code base or size; all of the model
    must be there."""
    own = network.model.state_dict()
    heads = head_names(network.model)
    if any(
        k not in tensors or tensors[k].shape != v.shape for k, v in own.items() if k.rpartition(".")[0] not in heads
    ):
        tensors = convert(network.model, tensors)
    head = f"{heads[0]}.weight"
    if head in own and head in tensors and len(tensors[head]) != len(own[head]):
        raise EvalkitError(
            f"{source} has {len(tensors[head])} classes, but the model has {len(own[head])}; give the class count of"
            " the checkpoint"
        )
    extra = sorted(k for k in tensors if k not in own)
    dropped = [k for k in extra if network.num_classes == 0 and k.rpartition(".")[0] in heads]
    unexpected = [k for k in extra if k not in dropped]
    patterns = {pattern(k) for k in own if pattern(k) != k}
    problems = {
        "lacks": sorted(k for k in own if k not in tensors),
        "has other shapes for": sorted(k for k in own if k in tensors and tensors[k].shape != own[k].shape),
        "has layers that the model has not,": [k for k in unexpected if pattern(k) in patterns],
    }
    for what, keys in problems.items():
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            advice = (
                "load it with num_classes=0"
                if all(k.rpartition(".")[0] in heads for k in keys)
                else "give the model and model_args it was made with"
            )
            raise EvalkitError(
                f"{source} does not fit model '{network.name}': it {what} {len(keys)} tensors ({shown}); {advice}"
            )
    network.model.load_state_dict({k: tensors[k] for k in own})
    return {"unexpected": unexpected, "dropped": dropped}


def convert(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What timm's converter for this architecture makes of a state dict: official key names, positional embeddings of
    another size."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        return convert(dict(tensors), model, **options)
    except Exception:  # converters trip over files of another architecture; the caller then says what does not fit
        return tensors


def pattern(key: str) -> str:
    """'blocks.11.attn' -> 'blocks.#.attn'."""
    return re.sub(r"\d+", "#", key)


def head_names(model: nn.Module) -> list[str]:
    """Module paths of the classifier; two for distilled models."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return [names] if isinstance(names, str) else list(names)


def _classes(network: Network, classes: list[str] | None) -> list[str] | None:
    """`classes` if they are those of the outputs, or the 1000 WordNet ids of ImageNet for a classifier of 1000
    classes."""
    if classes is None:
        return imagenet_classes() if network.num_classes == 1000 else None
    return classes if len(classes) == network.num_classes else None


def imagenet_classes() -> list[str]:
    """The 1000 WordNet ids of ImageNet, sorted: the order of the outputs of its classifiers."""
    return ImageNetInfo().label_names()
