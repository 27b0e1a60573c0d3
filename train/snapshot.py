"""A training run on disk: its exact state, and what a reader of its checkpoints must know."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from evalkit import checkpoint, config
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.runtime import is_main, world_size

from . import fsdp
from .helpers import teachers
from .session import Session, method_name

SAME = 1e-6  # how far sums may be apart, relative: of the same weights on GPUs of different kinds


def save(s: Session, run: Path) -> Path | None:
    """Write the run's checkpoint for the current step. All processes call it, as each gives its share under fsdp; the
    main one writes, and gets the folder.

    Args:
        s: The run.
        run: The run folder.
    """
    check_same(s)
    networks = s.networks()
    state: dict[str, Any] = {
        "step": s.step,
        "scores": s.scores,
        "best": s.best,
        "history": s.history,
        "optimizer": s.optimizer.state_dict(),
        "scaler": s.scaler.state_dict(),
        "method": s.method.state_dict(),
        # the network that is trained, where the one that is exported is another one
        "network": None if networks["raw"] is s.network else s.network.model.state_dict(),
    }
    weights = {name: network.model.state_dict() for name, network in networks.items()}
    if s.cfg.fsdp:
        state, weights = fsdp.whole(state), fsdp.whole(weights)
    if not is_main():
        return None
    return checkpoint.save(run, s.step, weights["raw"], weights.get("ema"), state, meta(s))


def check_same(s: Session) -> None:
    """Raise EvalkitError, in every process, unless all hold the same weights and the same state of the method: the
    checkpoint would be that of the first alone, and the run another one than it says. A split network is nowhere
    held twice.

    Args:
        s: The run.
    """
    if world_size() == 1 or s.cfg.fsdp:
        return
    held = {name: t for name, t in s.trainee.state_dict().items() if isinstance(t, Tensor)}
    sums = [(t.sum(dtype=torch.float64), t.double().abs().sum()) for t in held.values()]
    low_high = torch.stack([torch.stack(pair) for pair in sums]).nan_to_num()
    low_high = torch.stack([-low_high, low_high])
    dist.all_reduce(low_high, dist.ReduceOp.MAX)
    spread = (low_high[0] + low_high[1]) / low_high[1].abs().clamp(min=1)
    differ = [name for name, far in zip(held, (spread > SAME).any(1).tolist()) if far]
    if differ:
        named = ", ".join([*differ[:3], *(["..."] if len(differ) > 3 else [])])
        raise EvalkitError(
            f"at step {s.step} the processes hold different values of {named}; code of yours, a mixup perhaps, changes"
            " them in some of the processes only and must do the same in each; what was saved before is intact"
        )


def meta(s: Session) -> dict[str, Any]:
    """What a reader of the checkpoint must know to use and to judge it."""
    cfg, network = s.cfg, s.network
    return {
        "model": cfg.model,
        "model_args": dict(cfg.model_args),
        "num_classes": network.num_classes,
        "classes": s.train_images.classes,
        "image_size": cfg.eval_size or cfg.image_size,
        "mean": list(network.mean),
        "std": list(network.std),
        "method": method_name(cfg.mixup),
        "label": cfg.label or method_name(cfg.mixup),
        "teachers": {str(teacher.spec): teacher.sha256 for teacher in teachers(s.method, s.trainee.distillation)},
        "maps": s.maps,
        "init": s.init,
        "best": s.best,  # says what the link of that name must point at
        "seconds": s.seconds,  # here, not in the training state, which is the same in every run of a recipe
        "data": {
            "name": s.train_images.name,
            "fingerprint": s.train_images.fingerprint,
            "val_fingerprint": s.val_images.fingerprint,
        },
        "config": config.to_dict(cfg),
        "recipe": s.recipe,
        "published": s.is_published,
    }


def of_meta(folder: Path, meta: dict[str, Any], key: str, kind: Any) -> Any:
    """A value of a checkpoint's meta that a resume needs.

    Args:
        folder: The checkpoint, for the error.
        meta: What its meta.json says.
        key: The value's name.
        kind: The type that it must have.
    """
    if isinstance(meta.get(key), kind) and not isinstance(meta[key], bool):
        return meta[key]
    raise EvalkitError(
        f"{folder} was written by another version of evalkit (meta.json: '{key}' is missing or of another type); begin"
        f" a new run from its weights with init={folder}"
    )


STATE_KINDS = {"step": int, "scores": dict, "best": dict, "history": list, "optimizer": dict, "method": dict}


def restore(s: Session, folder: Path) -> None:
    """Bring a freshly built session to the state saved in a checkpoint folder. Raises EvalkitError for a state that is
    not that of this recipe.

    Args:
        s: The run, freshly built.
        folder: The checkpoint.
    """
    weights = checkpoint.read_weights(folder, "raw")[0]
    state = checkpoint.load_state(folder)
    try:
        if not isinstance(state, dict):
            raise TypeError(f"the training state is of type {type(state).__name__}")
        for key, kind in STATE_KINDS.items():
            if not isinstance(state[key], kind) or isinstance(state[key], bool):
                raise TypeError(f"'{key}' of the training state is of type {type(state[key]).__name__}")
        if not 0 <= state["step"] <= s.total_steps:
            raise ValueError(f"its step {state['step']} is none of the run's {s.total_steps}")
        s.method.load_state_dict(state["method"])
        load_weights(s, s.network, weights if state["network"] is None else state["network"])
        if s.ema:
            load_weights(s, s.ema.network, checkpoint.read_weights(folder, "ema")[0])
        if s.cfg.fsdp:
            state["optimizer"] = fsdp.optimizer_shares(state["optimizer"], s.optimizer)
        load_optimizer(s.optimizer, state["optimizer"])
        s.scaler.load_state_dict(state["scaler"])
        for key in ("step", "scores", "best", "history"):
            setattr(s, key, state[key])
        check_scores(s)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as e:
        what = f"it lacks {e}" if isinstance(e, KeyError) else (str(e).splitlines() or [type(e).__name__])[0]
        raise EvalkitError(
            f"{folder} does not fit this recipe ({what}); resume with the run's own config.yaml, use another checkpoint"
            f" of its run, or begin a new run from its weights with init={folder}"
        ) from e


def load_weights(s: Session, network: Network, weights: dict[str, Tensor]) -> None:
    """Load weights into one of the run's networks.

    Args:
        s: The run.
        network: The network.
        weights: A state dict of it, whole.
    """
    network.model.load_state_dict(fsdp.shares(weights, network.model) if s.cfg.fsdp else weights)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state; torch takes moments of any shape and groups of any content, and fails steps later.

    Args:
        optimizer: The optimizer of the recipe.
        state: A state as its `state_dict` gives it.
    """
    own, saved = optimizer.param_groups, state["param_groups"]
    if len(saved) != len(own) or any(k in b and not _alike(a[k], b[k]) for a, b in zip(own, saved) for k in a):
        raise ValueError("the optimizer's groups are others")
    optimizer.load_state_dict(copy.deepcopy(state))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value is not None and not (isinstance(value, Tensor) and value.shape in (parameter.shape, ())):
                raise ValueError(f"the optimizer's '{name}' does not fit its parameter")


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):  # parameters, Adam's betas
        return isinstance(b, list | tuple) and len(a) == len(b)
    return type(a) is type(b) or all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))


def check_scores(s: Session) -> None:
    """Raises TypeError for a state whose numbers are none."""
    numbers = [*s.history, *s.best.values(), *(v for scores in s.scores.values() for v in scores.values())]
    if not s.step >= 0 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers):
        raise TypeError("its step or its accuracies are no numbers")
