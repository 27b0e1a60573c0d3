"""`mmcv._ext` served by torchvision and PyTorch, so that mmcv-lite, which ships no compiled operators, runs detectors
and decoders on CPU and GPU.

A compiled `_ext` is found first and wins. What `operators` has is served; every other operator exists, since mmcv looks
for all of them on import, and raises when it is called.
"""

import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from evalkit.errors import EvalkitError

from .operators import SERVED

# one of each kind that needs no other operator
WORKING = "upernet_r50_4xb4-80k_ade20k-512x512, mask-rcnn_r50_fpn_1x_coco or deformable-detr_r50_16xb2-50e_coco"
NAME = "mmcv._ext"


def install() -> None:
    """Put the finder behind all others; must come before `mmcv.ops` is imported. Doing it twice is doing it once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())


class Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin="torchvision") if name == NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Operators(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(SERVED)


class Operators(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise EvalkitError(
                f"mmcv's operator '{name}' needs compiled code, which this installation lacks; choose a model without"
                f" it, such as {WORKING}, or build mmcv"
            )

        return missing
