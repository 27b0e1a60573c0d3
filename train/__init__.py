"""Training with mixups: `create` a method and call `train_step` in your own loop, or run `evalkit train`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mixups import METHODS, Context, Mixed, MixMethod, create
    from .step import train_step

__all__ = ["METHODS", "Context", "MixMethod", "Mixed", "create", "train_step"]


def __getattr__(name: str) -> Any:  # methods need torch, which the keys of a recipe do not
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(".step" if name == "train_step" else ".mixups", __name__), name)
