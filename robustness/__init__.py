"""Robustness protocols: natural and adversarial shifts, corruptions, unknown classes, attacks, occlusion."""

from .comparison import compare
from .config import CONFIGS, AllConfig
from .runner import PROTOCOLS, run
from .suite import run_all

__all__ = ["CONFIGS", "PROTOCOLS", "AllConfig", "compare", "run", "run_all"]
