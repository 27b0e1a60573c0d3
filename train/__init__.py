"""Training with mixups: `create` a method and call `train_step` in your own loop, or run `evalkit train`."""

from .mixups import METHODS, Context, Mixed, MixMethod, create
from .step import train_step

__all__ = ["METHODS", "Context", "MixMethod", "Mixed", "create", "train_step"]
