"""The keys of `evalkit transfer`: what segmentation and detection share."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING

from evalkit.errors import EvalkitError, unknown

INITS = ("checkpoint", "random")
# they change not one bit of what is computed
EXECUTION_KEYS = {"workers", "device", "keep", "checkpoint_steps", "log_steps"}
POSITIVE = ("batch_size", "lr", "keep", "log_steps", "checkpoint_steps", "threads")


@dataclass(frozen=True)
class TransferConfig:
    """Every key that both transfers take, flat. A recipe must give the keys without a default."""

    # what is transferred
    model: str | None = None  # architecture of a bare weights file
    model_args: dict[str, Any] = field(default_factory=dict)  # passed to its constructor
    weights: str | None = None  # raw | ema; absent: the averaged weights where the checkpoint holds them
    init: str = "checkpoint"  # checkpoint | random: only the architecture is taken from the checkpoint
    label: str | None = None  # how reports name this run; the checkpoint's label if absent

    # on what
    data: str = "digits-scenes"  # digits-scenes | a published set | a folder
    data_dir: str | None = None  # where a published set lies

    # schedule
    batch_size: int = MISSING  # images per step over all processes
    opt: str = MISSING  # sgd (momentum 0.9) | adamw
    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = 0  # linear, from a thousandth of lr
    drop_path: float = 0.0  # stochastic depth of the backbone
    # probability of mirroring in training; 0 also keeps mirrored images out of tests at several scales
    flip: float = 0.5
    clip_grad: float | None = None  # global norm

    # execution
    device: str | None = None  # a GPU if there is one, else cpu
    workers: int = 2
    threads: int | None = None  # CPU threads per process; pinned because the number changes the last bits
    seed: int = 0
    log_steps: int = 50
    checkpoint_steps: int = 500
    keep: int = 2
    mm: dict[str, Any] = field(default_factory=dict)  # merged into the mm config that the other keys make

    def check(self) -> None:
        """Raises EvalkitError for a value that no run could use."""
        for key, options in (("init", INITS), ("opt", ("sgd", "adamw")), ("weights", ("raw", "ema", None))):
            if getattr(self, key) not in options:
                raise unknown(f"value of {key}", str(getattr(self, key)), [o for o in options if o])
        if self.flip > 1:
            raise EvalkitError(f"key 'flip' must lie between 0 and 1, but got {self.flip}")
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or value < 0 or (key in self.positive() and value == 0):
                raise EvalkitError(
                    f"key '{key}' must be {'larger than 0' if key in self.positive() else 'at least 0'}, but got"
                    f" {value}"
                )

    def positive(self) -> tuple[str, ...]:
        """The keys that must not be 0."""
        return POSITIVE


def merge(base: Any, changes: dict[str, Any], where: str = "mm") -> None:
    """Put `changes` into the mm config `base`, level by level; a number as key is a place in a list.

    Raises EvalkitError for an unknown key at the top and for a place that a list has not."""
    for key, value in changes.items():
        name = f"{where}.{key}"
        if isinstance(base, list):
            if not str(key).isdecimal() or int(key) >= len(base):
                raise EvalkitError(
                    f"'{where}' is a list of {len(base)}, so '{name}' names nothing in it; use {where}.0 to"
                    f" {where}.{len(base) - 1}"
                )
            key = int(key)
        elif where == "mm" and key not in base:
            raise unknown("key", name, [f"mm.{k}" for k in base])
        inner = base[key] if isinstance(base, list) else base.get(key)
        if isinstance(value, dict) and isinstance(inner, dict | list):
            merge(inner, value, name)
        else:
            base[key] = value


def optimizer(cfg: TransferConfig) -> dict[str, Any]:
    """`optim_wrapper` of an mm config."""
    kinds = {"sgd": {"type": "SGD", "momentum": 0.9}, "adamw": {"type": "AdamW", "betas": (0.9, 0.999)}}
    clip = {} if cfg.clip_grad is None else {"clip_grad": {"max_norm": cfg.clip_grad, "norm_type": 2}}
    return {
        "type": "OptimWrapper",
        "optimizer": kinds[cfg.opt] | {"lr": cfg.lr, "weight_decay": cfg.weight_decay},
        **clip,
    }


def warmup(cfg: TransferConfig) -> list[dict[str, Any]]:
    """The schedulers of an mm config that come before the decay, as in mmdetection's base settings: the last of the
    steps has all of lr. One step alone has its thousandth, and the next all of it."""
    if not cfg.warmup_steps:
        return []
    end = max(2, cfg.warmup_steps)  # over one step mmengine would stay at the thousandth for good
    return [{"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": end}]
