"""Transfer: how well a pre-trained backbone segments and detects."""

from .about import PROTOCOLS

__all__ = ["PROTOCOLS"]
