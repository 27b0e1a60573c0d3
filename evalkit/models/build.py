"""Build a timm model by name, with one-line errors for whatever can be wrong with the request."""

import logging
import re
import sys
from inspect import signature
from typing import Any

import timm
from torch import nn

from ..errors import EvalkitError, suggest, unknown


def build(name: str, *, num_classes: int | None = None, pretrained: bool = False, **model_args: Any) -> nn.Module:
    """The timm model `name`. Raises EvalkitError for an unknown name, tag or argument and for weights that cannot be
    fetched."""
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
