"""What mmengine's optimisation lacks: bfloat16 on any device, rates by timm's layers, sets without weight decay, frozen
parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..adapted import layers

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@OPTIM_WRAPPERS.register_module()
class EvalkitBf16OptimWrapper(OptimWrapper):
    """Forward passes in bfloat16 where that is safe (torch.autocast), weights and gradients in float32."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EvalkitOptimConstructor(DefaultOptimWrapperConstructor):
    """mmengine's own rules, then those of `paramwise_cfg.evalkit`: `layer_decay`, the factor on the rate for each layer
    of the backbone below its last, by timm's count (heads have all of it), and `no_decay`: "norm", "timm" or None."""

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **kwargs: Any) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        asked = self.paramwise_cfg["evalkit"]
        scales = self.scales(module, asked["layer_decay"]) if asked["layer_decay"] is not None else {}
        bare = self.undecayed(module, asked["no_decay"]) if asked["no_decay"] is not None else set()
        for group in params:
            (parameter,) = group["params"]
            if id(parameter) in scales:
                rate = group.get("lr", self.base_lr)
                assert rate is not None  # the recipe gives it
                group["lr"] = rate * scales[id(parameter)]
            if id(parameter) in bare:
                group["weight_decay"] = 0.0

    @staticmethod
    def scales(model: Any, decay: float) -> dict[int, float]:
        """Parameter's id -> factor on its rate. The last layer of the backbone is one below the heads."""
        network = model.backbone.model
        place = layers(network, type(network).__name__)
        above = max(place.values()) + 1
        return {id(p): decay ** (above - place[n]) for n, p in network.named_parameters()}

    @staticmethod
    def undecayed(model: Any, which: str) -> set[int]:
        """The ids of the parameters without weight decay."""
        found = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
        if which == "norm":
            return found
        network = model.backbone.model
        named = network.no_weight_decay() if hasattr(network, "no_weight_decay") else set()
        found |= {id(p) for n, p in model.named_parameters() if p.ndim <= 1 or n.endswith(".bias")}
        return found | {id(p) for n, p in network.named_parameters() if n in named}


def hold_neck(model: Any) -> list[nn.Module]:
    """Freeze the neck of an mm model; the modules that training must leave in evaluation."""
    held = [model.neck] if getattr(model, "with_neck", False) else []
    for module in held:
        module.requires_grad_(False)
    return held
