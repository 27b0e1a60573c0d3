"""The keys of `evalkit transfer`: what segmentation and detection share."""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from omegaconf import MISSING

from evalkit import shared_keys
from evalkit.errors import EvalkitError, unknown
from evalkit.keys import Keys, key
from evalkit.tracking import TRACKERS

# that data_dir says the place of
PUBLISHED_SETS = ("pascal-context", "ade20k", "cityscapes", "voc2012", "coco")
T = TypeVar("T")


@dataclass(frozen=True)
class TransferConfig(Keys):
    """Every key that both transfers take, flat. A recipe must give the keys without a default.

    Without `config` the keys of `MAKES` make the mm config; with it, it says these things itself and they are null."""

    MAKES: ClassVar[tuple[str, ...]] = ("opt", "warmup_steps", "flip", "clip_grad")
    NEEDS: ClassVar[tuple[str, ...]] = ("batch_size", "opt", "lr", "weight_decay", "drop_path")  # that make it, or null

    # by what
    config: str | None = key(
        None,
        "an mmsegmentation or mmdetection config whose backbone is replaced: a file of yours, or the name of one that"
        " comes with them; null: the built-in one that the other keys make",
    )

    # what is transferred
    model: str | None = shared_keys.architecture()
    model_args: dict[str, Any] = shared_keys.architecture_args()
    weights: str | None = shared_keys.which_weights()
    init: str = key(
        "checkpoint",
        "what the backbone starts from",
        choices={"checkpoint": "the checkpoint's weights", "random": "none, only the architecture is the checkpoint's"},
        role="place",
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
    batch_size: int | None = key(MISSING, "images per step over all processes; null: as config says", above=0)
    opt: str | None = key(
        MISSING, "the optimizer; null: as config says", choices={"sgd": "with momentum 0.9", "adamw": "AdamW"}
    )
    lr: float | None = key(MISSING, "learning rate after warm-up; null: as config says", above=0)
    weight_decay: float | None = key(MISSING, "weight decay; null: as config says", least=0)
    warmup_steps: int = key(0, "length of the linear warm-up from a thousandth of lr", unit="steps", least=0)
    drop_path: float | None = key(
        0.0, "stochastic depth of the backbone: the last block's rate; null: as config says of its own", least=0
    )
    flip: float = key(
        0.5,
        "probability of mirroring in training; 0 also keeps mirrored images out of tests at several scales",
        least=0,
        most=1,
    )
    clip_grad: float | None = key(None, "largest norm of the whole gradient; null: not clipped", above=0)
    accumulate: int = key(
        1,
        "parts that the images of a step are computed in, one after another, their gradients averaged: as many times"
        " less memory; batch normalisation and losses that count objects see a part each",
        above=0,
    )
    amp: str | None = key(
        None,
        "mixed precision in training; null: none, or as config says",
        choices={"bf16": "no loss scale", "fp16": "with a dynamic loss scale; needs a GPU"},
    )
    freeze: str | None = key(
        None,
        "what stays as it is, statistics of batch normalisation, dropout and stochastic depth included; null: nothing",
        choices={"backbone": "the backbone", "all-but-head": "the backbone and the neck behind it"},
    )
    freeze_stages: int | None = key(
        None,
        "freeze the stem and this many first stages of the backbone (blocks of a ViT), 0: the stem alone; null: none,"
        " or as config says of a ResNet",
        least=0,
    )
    layer_decay: float | None = key(
        None,
        "factor on the rate from one layer of the backbone to the one before, layers as timm counts them, at the start:"
        " min_lr is the same for all; null: none",
        above=0,
        most=1,
    )
    no_decay: str | None = key(
        None,
        "what has no weight decay; null: as config says, else nothing",
        choices={
            "norm": "normalisation layers",
            "timm": "biases, vectors, and what timm says of the model, such as position embeddings",
        },
    )
    ema: float | None = key(
        None, "decay of a moving average of the weights, which is what is measured; null: none", least=0, most=1
    )

    # execution
    device: str | None = shared_keys.device()
    workers: int = shared_keys.training_workers()
    threads: int | None = shared_keys.training_threads()
    seed: int = key(0, "seed of the decoder's initial weights, the order of images and all draws", least=0, role="seed")
    track: str | None = key(
        None, "where log.jsonl is shown besides TensorBoard; null: nowhere", choices=TRACKERS, role="execution"
    )
    log_steps: int = key(50, "how often to log", unit="steps", above=0, role="execution")
    checkpoint_steps: int = key(500, "how often to write a checkpoint", unit="steps", above=0, role="execution")
    keep: int = key(2, "newest checkpoints that are kept", above=0, role="execution")
    val_steps: int | None = key(
        None,
        "how often to measure during training, into val.jsonl, the best weights into best.pth; the result is always"
        " that of the last weights, since the best are chosen by the images that they are measured on; null: never",
        unit="steps",
        above=0,
        role="execution",
    )
    mm: dict[str, Any] = key(
        {},
        "merged into the mm config that the other keys make: a number is a place in a list, the one behind the last"
        " appends; _delete_ as a value takes the key or the place out, _delete_: true in a mapping all it held before",
    )

    def check(self) -> None:
        super().check()
        if self.config is None and (lacking := [name for name in self.NEEDS if getattr(self, name) is None]):
            raise EvalkitError(f"key '{lacking[0]}' is null, which belongs to config=...; give it a value")
        if self.ema in (0, 1):
            what = "averages nothing" if self.ema == 0 else "never leaves the weights that the run begins with"
            raise EvalkitError(f"ema={self.ema:g} {what}; give a decay between 0 and 1, or leave ema out")
        if self.drop_path is not None and self.drop_path >= 1:
            raise EvalkitError(f"drop_path={self.drop_path:g} leaves nothing of the last block; give less than 1")
        if self.freeze and self.freeze_stages is not None:
            raise EvalkitError(f"freeze={self.freeze} freezes every stage; leave freeze_stages out")

    def idle(self) -> dict[str, str]:
        found = {}
        if self.config is not None:
            found = dict.fromkeys(self.MAKES, "config=... says it; change it there or by mm.PATH=VALUE")
        if self.data not in PUBLISHED_SETS:
            sets = " or ".join(f"data={name}" for name in PUBLISHED_SETS)
            found["data_dir"] = f"data={self.data} lies where it says: use {sets}, or data=DIR for a folder of your own"
        if self.freeze:
            found |= dict.fromkeys(("drop_path", "layer_decay"), f"freeze={self.freeze} leaves the backbone as it is")
        if self.weight_decay == 0:
            found["no_decay"] = "it belongs to weight_decay above 0"
        if self.init == "random":
            found["weights"] = "init=random takes none from the checkpoint"
        return found


DELETE = "_delete_"  # mmengine's own word for it


def merge(base: Any, changes: dict[str, Any], where: str = "mm") -> None:
    """Put changes into an mm config, level by level; a number as key is a place in a list.

    Args:
        base: The mm config, or a part of it, which is changed.
        changes: Key -> new value, nested as the config is. `DELETE` as a value takes the key or place out; as a key
            with true it empties the mapping first.
        where: The key that is changed, for errors.

    Raises EvalkitError for an unknown key at the top or to delete, and for a place that a list has not.
    """
    check_names(where, changes)
    removed: list[tuple[Any, Any]] = []
    for key_or_place, value in changes.items():
        if key_or_place == DELETE:
            continue  # said of the mapping as a whole, see below
        name = f"{where}.{key_or_place}"
        place: Any = key_or_place
        if isinstance(base, list):
            appends = str(place) == str(len(base)) and value != DELETE
            if not str(place).isdecimal() or (int(place) >= len(base) and not appends):
                raise EvalkitError(
                    f"'{where}' is a list of {len(base)}, so '{name}' names nothing in it; use {where}.0 to"
                    f" {where}.{len(base) - 1}, or {where}.{len(base)} to append"
                )
            place = int(place)
            if appends:
                base.append(None)
        elif place not in base and (where == "mm" or value == DELETE):
            raise unknown("key", name, [f"{where}.{k}" for k in base])
        if value == DELETE:
            removed.append((base, place))
            continue
        inner = base[place] if isinstance(base, list) else base.get(place)
        if isinstance(inner, tuple) and isinstance(value, dict):
            base[place] = inner = list(inner)
        if isinstance(value, dict) and isinstance(inner, dict | list) and value.get(DELETE) is not True:
            merge(inner, value, name)
        else:
            value = {k: v for k, v in value.items() if k != DELETE} if isinstance(value, dict) else value
            # mm's parts tell a pair of numbers from a list of several
            base[place] = tuple(value) if isinstance(inner, tuple) and isinstance(value, list) else value
    for container, place in reversed(removed):  # the last places first, so that the others stay where they are
        del container[place]


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


def given(value: T | None) -> T:
    """A value that only an mm config of its own may leave null."""
    assert value is not None, "the configuration was checked"
    return value


def optimizer(cfg: TransferConfig) -> dict[str, Any]:
    """`optim_wrapper` of an mm config."""
    kinds: dict[str, dict[str, Any]] = {
        "sgd": {"type": "SGD", "momentum": 0.9},
        "adamw": {"type": "AdamW", "betas": (0.9, 0.999)},
    }
    clip = {} if cfg.clip_grad is None else {"clip_grad": {"max_norm": cfg.clip_grad, "norm_type": 2}}
    return {
        "type": "OptimWrapper",
        "optimizer": kinds[given(cfg.opt)] | {"lr": cfg.lr, "weight_decay": cfg.weight_decay},
        **clip,
    }


def warmup(cfg: TransferConfig) -> list[dict[str, Any]]:
    """The schedulers of an mm config that come before the decay, as in mmdetection's base settings: the last of the
    steps has all of lr. One step alone has its thousandth, and the next all of it."""
    if not cfg.warmup_steps:
        return []
    end = max(2, cfg.warmup_steps)  # over one step mmengine would stay at the thousandth for good
    return [{"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": end}]
