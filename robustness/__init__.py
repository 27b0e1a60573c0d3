"""Robustness protocols: natural and adversarial shifts, corruptions, unknown classes, attacks, occlusion."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .about import PROTOCOLS
from .config import AllConfig

if TYPE_CHECKING:
    from .comparison import compare
    from .config import ProtocolConfig
    from .measure import run
    from .suite import run_all

    #: Name -> the class of a protocol's keys.
    CONFIGS: dict[str, type[ProtocolConfig]]

__all__ = ["CONFIGS", "PROTOCOLS", "AllConfig", "compare", "run", "run_all"]
_LATER = {"compare": "comparison", "run": "measure", "run_all": "suite"}  # they need torch, which descriptions do not


def __getattr__(name: str) -> Any:
    if name == "CONFIGS":
        return {protocol.name: protocol.config for protocol in PROTOCOLS.values()}
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
