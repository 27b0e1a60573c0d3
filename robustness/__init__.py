"""Robustness protocols: occlusion, ImageNet-A, ImageNet-O."""

from .comparison import compare
from .config import CONFIGS
from .runner import PROTOCOLS, run

__all__ = ["CONFIGS", "PROTOCOLS", "compare", "run"]
