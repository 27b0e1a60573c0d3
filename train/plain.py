"""A network of the user's own, any module from images to logits, as methods see one."""

import inspect
from typing import Any

from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models.network import Network
from evalkit.models.output import Output


class Plain:
    """A module that gives logits and nothing else. What a method asks of it besides is an EvalkitError.

    Args:
        module: The module, (B, C, H, W) -> (B, K).
        name: The method's, for the error.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, x: Tensor, attention: bool | int = False, features: bool = False, inject: Any = None) -> Output:
        for asked, what in ((attention is not False, "class attention"), (features, "features"), (inject, "a hook")):
            if asked:
                raise self.lacking(what)
        return Output(self.module(x))

    def __getattr__(self, what: str) -> Any:
        raise self.lacking(f"`{what}`")

    def lacking(self, what: str) -> EvalkitError:
        """The error where a method asks for more than logits."""
        return EvalkitError(
            f"{self.name} asks the network for {what}, and {type(self.module).__name__} gives logits alone; take a"
            " network of `evalkit.models.create`"
        )


def is_plain(net: Any) -> bool:
    """Whether `net` is a module that does not take what `Network` takes, wrapped for processes or compiled or not."""
    while isinstance(inner := getattr(net, "_orig_mod", None) or getattr(net, "module", None), nn.Module):
        net = inner
    if isinstance(net, Network) or not isinstance(net, nn.Module):
        return False
    takes = inspect.signature(net.forward).parameters.values()
    return not any(p.name == "attention" or p.kind is p.VAR_KEYWORD for p in takes)
