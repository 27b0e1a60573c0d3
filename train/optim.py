"""The optimizer of a recipe."""

import inspect
from typing import Any

from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info
from torch import nn
from torch.optim import Optimizer

from evalkit.errors import EvalkitError, unknown

from .config import TrainConfig
from .mixups.base import MixMethod


def parameter_groups(model: nn.Module, cfg: TrainConfig) -> list[dict[str, Any]]:
    """Trainable parameters with and without weight decay: norms, biases and what the model itself exempts (position
    embedding, class token) are not decayed unless `decay_norm_and_bias`.

    Args:
        model: What is optimised.
        cfg: The recipe: weight decay and whom it spares.
    """
    exempt = set(getattr(model, "no_weight_decay", set)())
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (free if not cfg.decay_norm_and_bias and (p.ndim <= 1 or name in exempt) else decayed).append(p)
    groups = [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def kernels(opt: str) -> list[str]:
    """The values of `opt_kernels` that an optimizer has, the quickest on a GPU first; for one that has no choice none.

    >>> kernels("adamw"), kernels("adan"), kernels("lamb")
    (['fused', 'foreach', 'for-loop'], ['foreach', 'for-loop'], [])
    """
    try:
        takes = inspect.signature(get_optimizer_class(opt, bind_defaults=False)).parameters
    except (ValueError, AssertionError):  # unknown, or for a GPU that is not here: whoever makes it says so
        return []
    found = [name for name in ("fused", "foreach") if name in takes]
    return [*found, "for-loop"] if found else []


def make_optimizer(model: nn.Module, method: MixMethod, cfg: TrainConfig) -> Optimizer:
    """timm's optimizer `opt` over the model's and the method's parameters; each group's "lr_scale" multiplies the
    schedule, and its "schedule" replaces keys of the recipe in its own one, for example {"lr": 1e-3, "min_lr":
    1e-4}. Raises EvalkitError for what the optimizer does not take.

    Args:
        model: The network.
        method: The mixup, which may own parameters.
        cfg: The recipe: optimizer, learning rate, weight decay.
    """
    try:
        info = get_optimizer_info(cfg.opt)
    except ValueError as e:
        from timm.optim import list_optimizers

        raise unknown("optimizer", cfg.opt, map(str, list_optimizers())) from e
    arguments: dict[str, Any] = {"eps": cfg.eps} if info.has_eps else {}
    if info.has_betas:
        arguments["betas"] = tuple(cfg.betas)
    if cfg.opt_kernels != "auto":  # left so by runs of before there was the key: the optimizer's own default
        if cfg.opt_kernels not in (has := kernels(cfg.opt)):
            raise EvalkitError(
                f"optimizer '{cfg.opt}' has no opt_kernels={cfg.opt_kernels}; "
                + (f"use {' or '.join(has)}" if has else "it has one way alone: leave the key out")
            )
        arguments |= {name: name == cfg.opt_kernels for name in has if name != "for-loop"}
    try:
        groups = parameter_groups(model, cfg) + own_groups(method)
        if not info.has_momentum and any("momentum" in group for group in groups):
            raise EvalkitError(
                f"optimizer '{cfg.opt}' has no momentum, but the mixup gives its own parameters one (block_momentum);"
                " leave it out or choose another opt"
            )
        return create_optimizer_v2(
            groups,
            opt=cfg.opt,
            lr=cfg.lr,
            weight_decay=cfg.weight_decay,
            momentum=cfg.momentum,
            **arguments,
            **cfg.opt_args,
        )
    except TypeError as e:
        raise EvalkitError(f"optimizer '{cfg.opt}' does not take the recipe's arguments: {e}") from e


def own_groups(method: MixMethod) -> list[dict[str, Any]]:
    """The groups of a method's own parameters. Raises EvalkitError for tensors that no checkpoint would keep."""
    groups = method.param_groups()
    own = {id(p) for p in method.parameters()}
    if any(id(p) not in own for group in groups for p in group["params"]):
        raise EvalkitError(
            f"{type(method).__name__}.param_groups names tensors that are none of its parameters, which no checkpoint"
            " would keep; make each an nn.Parameter or a module that is an attribute of the method"
        )
    return groups
