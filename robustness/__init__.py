"""Robustness protocols: natural and adversarial shifts, corruptions, unknown classes, attacks, occlusion."""

from .config import CONFIGS, AllConfig
from .runner import PROTOCOLS, run
from .suite import run_all

__all__ = ["CONFIGS", "PROTOCOLS", "AllConfig", "run", "run_all"]
