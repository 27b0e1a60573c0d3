"""The keys of `evalkit transfer`: what segmentation and detection share."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from evalkit.errors import EvalkitError, unknown
from evalkit.keys import Keys, key

PUBLISHED_SETS = ("pascal-context", "coco")  # that data_dir says the place of


@dataclass(frozen=True)
class TransferConfig(Keys):
    """Every key that both transfers take, flat. A recipe must give the keys without a default."""

    # what is transferred
    model: str | None = key(None, "architecture of a bare weights file", role="place")
    model_args: dict[str, Any] = key({}, "arguments passed to its constructor", role="place")
    weights: str | None = key(
        None,
        "which weights of a checkpoint; null: the averaged ones where it holds them",
        choices={"raw": "as the optimizer left them", "ema": "their moving average"},
        role="place",
    )
    init: str = key(
        "checkpoint",
        "what the backbone starts from",
        choices={"checkpoint": "the checkpoint's weights", "random": "none, only the architecture is the checkpoint's"},
    )
    label: str | None = key(None, "how reports name this run; null: by the checkpoint's label", role="place")

    assumed: list[str] = key(
        [],
        "what no publication states and the recipe assumes, as `thing: what is taken`; stands beside published values",
        role="place",
    )

    # on what
    data: str = key("digits-scenes", "the images: digits-scenes, a published set or a folder", role="place")
    data_dir: str | None = key(None, "where a published set lies", role="place")

    # schedule
    batch_size: int = key(MISSING, "images per step over all processes", above=0)
    opt: str = key(MISSING, "the optimizer", choices={"sgd": "with momentum 0.9", "adamw": "AdamW"})
    lr: float = key(MISSING, "learning rate after warm-up", above=0)
    weight_decay: float = key(MISSING, "weight decay", least=0)
    warmup_steps: int = key(0, "length of the linear warm-up from a thousandth of lr", unit="steps", least=0)
    drop_path: float = key(0.0, "stochastic depth of the backbone: the last block's rate", least=0)
    flip: float = key(
        0.5,
        "probability of mirroring in training; 0 also keeps mirrored images out of tests at several scales",
        least=0,
        most=1,
    )
    clip_grad: float | None = key(None, "largest norm of the whole gradient; null: not clipped", least=0)

    # execution
    device: str | None = key(None, "cpu, cuda or cuda:N; null: a GPU if there is one", role="execution")
    workers: int = key(2, "processes that load images, per training process", least=0, role="execution")
    threads: int | None = key(
        None,
        "CPU threads per process, pinned as the number moves the last bits; null: all",
        above=0,
        role="bits",
    )
    seed: int = key(0, "of the decoder's initial weights, the order of images and all draws", least=0, role="seed")
    log_steps: int = key(50, "how often to log", unit="steps", above=0, role="execution")
    checkpoint_steps: int = key(500, "how often to write a checkpoint", unit="steps", above=0, role="execution")
    keep: int = key(2, "newest checkpoints that are kept", above=0, role="execution")
    mm: dict[str, Any] = key({}, "merged into the mm config that the other keys make")

    def idle(self) -> dict[str, str]:
        found = {}
        if self.data not in PUBLISHED_SETS:
            sets = " or ".join(f"data={name}" for name in PUBLISHED_SETS)
            found["data_dir"] = f"data={self.data} lies where it says: use {sets}, or data=DIR for a folder of your own"
        if self.init == "random":
            found["weights"] = "init=random takes none from the checkpoint"
        return found


def merge(base: Any, changes: dict[str, Any], where: str = "mm") -> None:
    """Put changes into an mm config, level by level; a number as key is a place in a list.

    Args:
        base: The mm config, or a part of it, which is changed.
        changes: Key -> new value, nested as the config is.
        where: The key that is changed, for errors.

    Raises EvalkitError for an unknown key at the top and for a place that a list has not.
    """
    check_names(where, changes)
    for key_or_place, value in changes.items():
        name = f"{where}.{key_or_place}"
        place: Any = key_or_place
        if isinstance(base, list):
            if not str(place).isdecimal() or int(place) >= len(base):
                raise EvalkitError(
                    f"'{where}' is a list of {len(base)}, so '{name}' names nothing in it; use {where}.0 to"
                    f" {where}.{len(base) - 1}"
                )
            place = int(place)
        elif where == "mm" and place not in base:
            raise unknown("key", name, [f"mm.{k}" for k in base])
        inner = base[place] if isinstance(base, list) else base.get(place)
        if isinstance(value, dict) and isinstance(inner, dict | list):
            merge(inner, value, name)
        else:
            base[place] = value


SCOPES = ("mmengine", "mmcv", "mmseg", "mmdet")  # that may stand before the name of a part


def check_names(where: str, value: Any) -> None:
    """Args:
        where: The key that holds it, for errors.
        value: A part of an mm config, nested as it is.

    Raises EvalkitError for a part named by the path of its code, which mmengine would import and call: a run folder
    is other people's file as well.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            scope, dot, name = inner.partition(".") if key == "type" and isinstance(inner, str) else ("", "", "")
            if key == "custom_imports" or (dot and (scope not in SCOPES or "." in name)):
                raise EvalkitError(
                    f"{where}.{key}={inner} names code by its path, which is not run; use the registered name of an mm"
                    " part, such as OptimWrapper"
                )
            check_names(f"{where}.{key}", inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_names(f"{where}.{place}", inner)


def optimizer(cfg: TransferConfig) -> dict[str, Any]:
    """`optim_wrapper` of an mm config."""
    kinds: dict[str, dict[str, Any]] = {
        "sgd": {"type": "SGD", "momentum": 0.9},
        "adamw": {"type": "AdamW", "betas": (0.9, 0.999)},
    }
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
