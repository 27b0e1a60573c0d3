"""Robustness protocols: occlusion, ImageNet-A, ImageNet-O."""

from .config import CONFIGS
from .runner import PROTOCOLS, run

__all__ = ["CONFIGS", "PROTOCOLS", "run"]
