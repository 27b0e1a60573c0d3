"""The optimizer of a recipe."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info
from torch import nn
from torch.optim import Optimizer

from evalkit.errors import EvalkitError, in_short, suggest, unknown

from .config import TrainConfig
from .mixups.base import MixMethod

OF_THE_RECIPE = {name: name for name in ("lr", "weight_decay", "momentum", "betas", "eps")} | {
    name: "opt_kernels" for name in ("foreach", "fused")
}
NOT_OF_A_TRAINING = ("params", "maximize", "differentiable", "capturable")


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
    takes = _arguments(opt) or {}  # unknown, or for a GPU that is not here: whoever makes it says so
    found = [name for name in ("fused", "foreach") if name in takes]
    return [*found, "for-loop"] if found else []


def check_optimizer(cfg: TrainConfig) -> None:
    """Raise EvalkitError for an optimizer that no training here could use, for betas of another number, and for
    `opt_args` that are keys of the recipe or nothing that the optimizer takes (timm reads some of them, such as
    layer_decay, and leaves them out)."""
    try:
        info = get_optimizer_info(cfg.opt)
    except ValueError:
        return  # whoever makes it names the closest one
    if info.second_order:
        raise EvalkitError(f"opt={cfg.opt} needs second derivatives, which training does not compute; take another one")
    if (wanted := betas_of(cfg.opt)) not in (None, len(cfg.betas)):
        words = f"{wanted} betas, but got {cfg.betas}{_usual_betas(cfg.opt)}"
        raise EvalkitError(f"opt={cfg.opt} takes {words if wanted != 1 else 'a single one of betas, such as [0.9]'}")
    for name, value in cfg.opt_args.items():
        if name in OF_THE_RECIPE:
            raise EvalkitError(f"opt_args.{name} is a key of its own: give {OF_THE_RECIPE[name]}=... instead")
        if name in NOT_OF_A_TRAINING or name not in (takes := _arguments(cfg.opt) or cfg.opt_args):
            others = [] if name in NOT_OF_A_TRAINING else set(takes) - {*OF_THE_RECIPE, *NOT_OF_A_TRAINING}
            raise EvalkitError(
                f"optimizer '{cfg.opt}' does not take opt_args.{name}.{suggest(name, others)}".rstrip(".")
            )
        if isinstance(getattr(takes[name], "default", None), bool) and not isinstance(value, bool):
            raise EvalkitError(f"opt_args.{name} must be true or false, but got {value!r}")


def betas_of(opt: str) -> int | None:
    """How many betas an optimizer uses; None for one that has none or does not exist.

    >>> betas_of("adamw"), betas_of("adan"), betas_of("adafactor"), betas_of("sgd")
    (2, 3, 1, None)
    """
    try:
        info = get_optimizer_info(opt)
    except ValueError:
        return None
    of_averages = 1 if opt.lower() in ("adafactor", "cadafactor") else info.num_betas  # its second one has a schedule
    return of_averages if info.has_betas else None


def _usual_betas(opt: str) -> str:
    usual = (_arguments(opt) or {}).get("betas")
    default = getattr(usual, "default", None)
    return f"; its own are betas={list(default)}" if isinstance(default, tuple) and len(default) > 2 else ""


def _arguments(opt: str) -> dict[str, inspect.Parameter] | None:
    """What an optimizer's constructor takes; None for one that is not here, such as one for another machine's GPU."""
    try:
        return dict(inspect.signature(get_optimizer_class(opt, bind_defaults=False)).parameters)
    except (ValueError, AssertionError, ImportError):
        return None


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
    groups = parameter_groups(model, cfg) + own_groups(method)
    if not info.has_momentum and any("momentum" in group for group in groups):
        raise EvalkitError(
            f"optimizer '{cfg.opt}' has no momentum, but the mixup gives its own parameters one (block_momentum);"
            " leave it out or choose another opt"
        )

    def make(groups: list[dict[str, Any]]) -> Optimizer:
        given = {"lr": cfg.lr, "weight_decay": cfg.weight_decay, "momentum": cfg.momentum, **arguments}
        return create_optimizer_v2(groups, opt=cfg.opt, **given, **cfg.opt_args)

    try:
        if cfg.opt_args:
            _try_a_step(make)
        return make(groups)
    except TypeError as e:
        raise EvalkitError(f"optimizer '{cfg.opt}' does not take the recipe's arguments: {e}") from e
    except (AssertionError, ImportError) as e:
        raise EvalkitError(f"optimizer '{cfg.opt}' cannot be made here: {e}; install that, or take another opt") from e
    except Exception as e:  # each optimizer checks its values in its own way, some of them in a step
        given = f" with opt_args={cfg.opt_args}" if cfg.opt_args else f" with momentum={cfg.momentum}"
        raise EvalkitError(f"optimizer '{cfg.opt}' does not work{given}: {in_short(e)}; correct them") from e


def _try_a_step(make: Callable[[list[dict[str, Any]]], Optimizer]) -> None:
    """A step of small weights of each kind, so that values of the wrong kind are known before the run."""
    weights = [nn.Parameter(torch.ones(shape)) for shape in ((4, 3, 2, 2), (4, 3), (4,))]
    for weight in weights:
        weight.grad = torch.full_like(weight, 0.5)
    with torch.random.fork_rng(devices=[]):
        make([{"params": weights}]).step()


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
