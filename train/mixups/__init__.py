"""All mixup methods. `create("mixpro", scale=4)` makes one; a recipe's `mixup:` entry goes through `from_config`."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, unknown

from .adautomix import AdAutoMix
from .alignmix import AlignMix
from .attentive_cutmix import AttentiveCutMix
from .attentivemix_plus import AttentiveMixPlus
from .augmix import AugMix
from .automix import AutoMix
from .base import Context, Mixed, MixMethod
from .choice import Choice
from .comixup import CoMixup
from .cutmix import CutMix
from .decouplemix import DecoupleMix
from .fmix import FMix
from .gridmix import GridMix
from .guidedmixup import GuidedMixup
from .manifold import ManifoldMixup
from .maskmix import MaskMix
from .mergemix import MergeMix
from .mixpro import MixPro
from .mixtoken import MixToken
from .mixup import Mixup
from .patchmix import PatchMix
from .puzzlemix import PuzzleMix
from .regmixup import RegMixup
from .resizemix import ResizeMix
from .saliency_grafting import SaliencyGrafting
from .saliencymix import SaliencyMix
from .samix import SAMix
from .smmix import SMMix
from .smoothmix import SmoothMix
from .snapmix import SnapMix
from .sumix import SUMix
from .supermix import SuperMix
from .switch import Switch
from .tl_align import TLAlign
from .tokenmix import TokenMix
from .transmix import TransMix
from .vanilla import Vanilla

__all__ = ["METHODS", "Context", "MixMethod", "Mixed", "create", "from_config"]

#: Name -> class of every method; add your own under a name of yours.
METHODS: dict[str, type[MixMethod]] = {
    "adautomix": AdAutoMix,
    "alignmix": AlignMix,
    "attentive_cutmix": AttentiveCutMix,
    "attentivemix_plus": AttentiveMixPlus,
    "augmix": AugMix,
    "automix": AutoMix,
    "choice": Choice,
    "comixup": CoMixup,
    "cutmix": CutMix,
    "decouplemix": DecoupleMix,
    "fmix": FMix,
    "gridmix": GridMix,
    "guidedmixup": GuidedMixup,
    "manifold": ManifoldMixup,
    "maskmix": MaskMix,
    "mergemix": MergeMix,
    "mixpro": MixPro,
    "mixtoken": MixToken,
    "mixup": Mixup,
    "patchmix": PatchMix,
    "puzzlemix": PuzzleMix,
    "regmixup": RegMixup,
    "resizemix": ResizeMix,
    "saliency_grafting": SaliencyGrafting,
    "saliencymix": SaliencyMix,
    "samix": SAMix,
    "smmix": SMMix,
    "smoothmix": SmoothMix,
    "snapmix": SnapMix,
    "sumix": SUMix,
    "supermix": SuperMix,
    "switch": Switch,
    "tl_align": TLAlign,
    "tokenmix": TokenMix,
    "transmix": TransMix,
    "vanilla": Vanilla,
}


def find(name: str) -> type[MixMethod]:
    """The class of the method `name`, of METHODS or "module:Class". Raises EvalkitError for any other, naming the
    closest one."""
    cls = import_class(name) if ":" in name else METHODS.get(name)
    if cls is None and (file := Path(f"{name.removesuffix('.py')}.py")).is_file():
        raise EvalkitError(f"mixup '{name}' is a file of yours; name the class in it too: {file.stem}:CLASS")
    if cls is None:
        raise unknown("mixup", name, METHODS)
    return cls


def arguments(cls: type[MixMethod]) -> dict[str, inspect.Parameter]:
    """Name -> parameter of everything that the constructor takes. One with **others hands those to the class above,
    whose arguments are taken too."""
    found: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        init = vars(owner).get("__init__")
        if init is None:
            continue
        parameters = [p for p in inspect.signature(init).parameters.values() if p.name != "self"]
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        found |= {p.name: p for p in named if p.name not in found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def create(name: str, preset: str = "default", **kwargs: Any) -> MixMethod:
    """A mixup by name.

    Args:
        name: One of METHODS, or "module:Class".
        preset: One of the method's `PRESETS`, whose arguments are taken.
        kwargs: Arguments of the method, in place of the preset's.

    Raises EvalkitError for a name, preset or argument that does not exist, naming the closest one that does, and for an
    argument that has no effect beside the others; ValueError for a wrong value.
    """
    cls = find(name)
    if preset not in cls.PRESETS:
        raise unknown(f"{name} preset", str(preset), cls.PRESETS)
    given = {**cls.PRESETS[preset], **kwargs}
    known = arguments(cls)
    for key in given:
        if key not in known:
            raise unknown(f"{name} key", key, [*known, "preset"])
    missing = [key for key, p in known.items() if p.default is p.empty and key not in given]
    if missing:
        raise EvalkitError(f"{name} needs {', '.join(missing)}")
    if isinstance(given.get("methods"), Sequence):
        given["methods"] = [m if isinstance(m, MixMethod) else from_config(m) for m in given["methods"]]
    if isinstance(given.get("method"), str | Mapping):
        given["method"] = from_config(given["method"])
    made = cls(**given)
    if "_modules" not in vars(made):
        raise EvalkitError(f"__init__ of mixup '{name}' must begin with super().__init__()")
    for key in kwargs.keys() & cls.counts_with.keys():
        other, values = cls.counts_with[key]
        if given.get(other, known[other].default) not in values:
            needed = " or ".join(f"{other}={'null' if value is None else str(value).lower()}" for value in values)
            raise EvalkitError(f"{name} key '{key}' has no effect here; it belongs to {needed}")
    return made


def from_config(spec: str | Mapping[str, Any]) -> MixMethod:
    """The method a recipe describes; everything wrong with it raises EvalkitError.

    "mixup" | "module:Class" | {name: mixup, preset: timm, alpha: 0.8} | {choice: [{name: mixup, prob: 0.5}, {name:
    cutmix, prob: 0.5}]}
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping):
        raise EvalkitError(f"a mixup is a name or {{name: ..., key: value}}, but got {spec!r}")
    if "choice" in spec:
        spec = choice_spec(spec)
    if not isinstance(spec.get("name"), str):
        raise EvalkitError(f"a mixup needs a `name` or a `choice`, but got {dict(spec)}")
    try:
        return create(**spec)
    except ValueError as error:
        raise EvalkitError(f"mixup '{spec['name']}': {error}") from error


def choice_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """{choice: [{name: ..., prob: ..., ...}, ...]} as the arguments of `create`."""
    if len(spec) > 1:
        raise EvalkitError(
            f"a mixup with `choice` takes no other key, but got {', '.join(str(k) for k in spec if k != 'choice')}"
        )
    if isinstance(spec["choice"], str | Mapping) or not isinstance(spec["choice"], Sequence):
        raise EvalkitError(f"`choice` is a list [{{name: ..., prob: ...}}, ...], but got {spec['choice']!r}")
    branches = [dict(b) if isinstance(b, Mapping) else {"name": b} for b in spec["choice"]]
    probs = [b.pop("prob", None) for b in branches]
    if any(p is None for p in probs) and any(p is not None for p in probs):
        raise EvalkitError("give every branch of a mixup choice a `prob`, or none of them (equal probabilities)")
    return {"name": "choice", "methods": branches, "probs": None if None in probs else probs}


def import_class(path: str) -> type[MixMethod]:
    """The method class at "module:Class", looked for in the working directory too."""
    module, _, name = path.partition(":")
    if module.endswith(".py") or os.sep in module:
        raise EvalkitError(
            f"mixup '{path}' is written as a module and its class, {Path(module).stem}:{name}, where the file"
            f" {Path(module).stem}.py lies in the folder that you work in or on PYTHONPATH"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EvalkitError(f"cannot import mixup '{path}': {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, MixMethod)):
        raise EvalkitError(f"mixup '{path}' is not a class derived from evalkit.train.mixups.MixMethod")
    if cls.mix is MixMethod.mix:
        raise EvalkitError(f"mixup '{path}' has no `mix`, the one function that a method must have")
    try:
        inspect.signature(cls.mix).bind("self", "ctx", "x", "y", "net")
    except TypeError as error:
        raise EvalkitError(f"`mix` of mixup '{path}' must take (self, ctx, x, y, net): {error}") from error
    return cls
