"""Build a timm model by name, with one-line errors for whatever can be wrong with the request."""

import functools
import logging
import re
import sys
from collections.abc import Callable, Mapping
from inspect import isclass, isfunction, signature
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from ..errors import EvalkitError, suggest, unknown
from ..weights import PREPARED, check_prepared

# What timm takes beside the arguments of a constructor: it opens or downloads files, or makes something else than a
# classifier. A checkpoint's meta.json and a run's config.yaml are other people's files: none of it is ever passed on.
NOT_ARCHITECTURE = {*signature(timm.create_model).parameters, *signature(build_model_with_cfg).parameters}
NOT_ARCHITECTURE |= {"features_only", "feature_cls", "out_indices", "name"}
PREPROCESSING = set(PREPARED)  # all that may be set of timm's own config
LARGEST = 1 << 13  # an argument; widths and image sizes beyond it are nobody's
DEEPEST = 1000  # blocks
SLACK = 1 << 24  # numbers that a model may have beyond twice those of its file: positions of a larger image
COUNTS = ("depth", "depths", "embed_dim", "embed_dims", "num_heads", "patch_size", "img_size", "layers", "channels")
HIDDEN = ("bn_eps", "bn_momentum", "bn_tf", "pad_type")  # that timm's families read without naming them


@functools.cache
def shaping(architecture: str) -> frozenset[str]:
    """The arguments that shape an architecture: those of the constructors and functions of its family."""
    family = timm.model_entrypoint(architecture).__module__
    found: list[Callable[..., Any]] = []
    for item in vars(sys.modules[family]).values():
        if isclass(item) and (issubclass(item, nn.Module) or item.__module__ == family):
            found += [base for base in item.__mro__ if base not in (nn.Module, object)]
        elif isfunction(item) and item.__module__ == family:
            found.append(item)
    return frozenset({*HIDDEN, *(name for item in found for name in _parameters(item))} - NOT_ARCHITECTURE)


def _parameters(item: Callable[..., Any]) -> list[str]:
    try:
        return [
            p.name for p in signature(item).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
    except (TypeError, ValueError):  # a class that has no signature
        return []


def check_arguments(model: str, model_args: dict[str, Any]) -> None:
    """Args:
        model: Name of the architecture.
        model_args: What it is to be built with.

    Raises EvalkitError for an argument that is not one of the architecture; an unknown model is for `build` to
    name.
    """
    architecture = model.partition(".")[0]
    for name, value in ((str(name), value) for name, value in model_args.items()):
        if name == "pretrained_cfg_overlay" and isinstance(value, dict) and set(value) <= PREPROCESSING:
            check_prepared(value, "model_args.pretrained_cfg_overlay", "correct it")
            continue
        if name in NOT_ARCHITECTURE:
            raise EvalkitError(
                f"model_args.{name} is no argument of an architecture and is never passed on, since it could open or"
                " fetch files; give weights as the checkpoint, as init=FILE or as init=pretrained"
            )
        if timm.is_model(architecture) and name not in shaping(architecture):
            raise EvalkitError(
                f"unknown argument '{name}' of model '{architecture}'.{suggest(name, shaping(architecture))}"
            )
        if name == "num_classes":
            raise EvalkitError(
                "model_args.num_classes has no place there: the classes are those of the data or the file; leave it out"
            )
        if name in ("in_chans", "in_channels") and value != 3:
            raise EvalkitError(
                f"model_args.{name} must be 3, but got {value!r}: images are read as colours, grey ones as three equal"
                " channels"
            )
        if "drop" in name and name.endswith("_rate") and not _is_rate(value):
            raise EvalkitError(f"model_args.{name} must be numbers of at least 0 and below 1, but got {value!r}")
        if name in COUNTS and any(number < 1 for number in _integers(value)):
            raise EvalkitError(f"model_args.{name} must be at least 1, but got {value!r}")
        largest = DEEPEST if "depth" in name or "layers" in name else LARGEST
        if not all(abs(number) <= largest for number in _numbers(value)):  # NaN is not either
            raise EvalkitError(f"model_args.{name} is beyond {largest:,}, larger than any architecture; correct it")


def _is_rate(value: Any) -> bool:
    """Whether a value is a share below 1, or a list of such; None, too, which stands for none."""
    if isinstance(value, list | tuple):
        return all(map(_is_rate, value))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1)


def _integers(value: Any) -> list[int]:
    return [number for number in _numbers(value) if isinstance(number, int)]


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


def check_size(name: str, model_args: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise EvalkitError for a model of far more numbers than the file that says to build it: before anything is
    allocated.

    Args:
        name: Of the architecture.
        model_args: What it is built with.
        tensors: What the file holds.
        source: The file.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):  # "hf-hub:..." would be fetched
        return
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, **model_args)
    except Exception:  # whoever builds it in earnest says what is wrong
        return
    numbers, held = (sum(tensor.numel() for tensor in t.values()) for t in (model.state_dict(), tensors))
    if numbers > 2 * held + SLACK:
        raise EvalkitError(
            f"{source} describes a model of {numbers:,} numbers and holds {held:,}; its model_args or classes are not"
            " those of its weights"
        )


def build(name: str, *, num_classes: int | None = None, pretrained: bool = False, **model_args: Any) -> nn.Module:
    """A timm model. Raises EvalkitError for an unknown name, tag or argument and for weights that cannot be fetched.

    Args:
        name: Of the architecture, with a tag of its weights or without.
        num_classes: How many classes it tells apart; None: as it was published.
        pretrained: Whether its published weights are fetched.
        model_args: Arguments of its constructor.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown("model", name, timm.list_models())
    tags = [n.partition(".")[2] for n in timm.list_models(f"{architecture}.*", include_tags=True)]
    if tag and tag not in tags:
        raise (
            unknown(f"pretrained tag of {architecture}", tag, tags)
            if tags
            else EvalkitError(f"model '{architecture}' has no pretrained weights")
        )
    if pretrained and not timm.is_model_pretrained(name):
        raise EvalkitError(
            f"there are no pretrained weights for '{name}'; give a weights file together with model={architecture}"
        )
    check_arguments(name, model_args)
    if num_classes is not None:
        if num_classes < 0:
            raise ValueError(f"Expected argument `num_classes` to be an integer of at least 0, but got {num_classes}")
        model_args["num_classes"] = num_classes
    if pretrained:  # its retries are not news; what comes of them is
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return timm.create_model(name, pretrained=pretrained, **model_args)
    except Exception as e:  # timm and its download libraries raise anything from TypeError to URLError
        why = (str(e).strip().splitlines() or [type(e).__name__])[0]
        if isinstance(e, TypeError):
            raise EvalkitError(_bad_argument(architecture, why)) from e
        if pretrained:
            advice = f"check the connection, or give a weights file together with model={architecture}"
            raise EvalkitError(f"pretrained weights of '{name}' could not be loaded; {advice} ({why})") from e
        raise EvalkitError(f"model '{name}' cannot be built with {model_args}: {why}") from e


def _bad_argument(architecture: str, message: str) -> str:
    """One line for a constructor's TypeError; 'Class.__init__() got an unexpected keyword argument' gets the closest
    argument."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if not found:
        return f"model '{architecture}' cannot be built with these arguments: {message}"
    constructor = vars(sys.modules[timm.model_entrypoint(architecture).__module__]).get(found[1])
    options = list(signature(constructor).parameters)[1:] if constructor else []
    return f"unknown argument '{found[2]}' of model '{architecture}'.{suggest(found[2], options)}"
