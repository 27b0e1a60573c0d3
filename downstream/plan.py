"""A stock mm config made the plan of a run: its data, its batch, its schedule counted in steps; and the keys that any
config takes. No mm package is needed to read this."""

import copy
import math
import re
from dataclasses import dataclass, field
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.runtime import world_size

from .config import TransferConfig
from .readers_det import left_out
from .task import Data

# constructors that know their own backbones' layers by name; ours asks timm
BY_LAYER = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")
LOADERS = ("LoadAnnotations", "LoadPanopticAnnotations")
CONSTRUCTOR = "EvalkitOptimConstructor"
WARMUPS = ("LinearLR", "ConstantLR", "QuadraticWarmupLR")


@dataclass
class Plan:
    """What a run trains by and for how long.

    Args:
        config: For mmengine, without its `train_cfg`.
        steps: Steps in all.
        epoch_steps: Steps of an epoch, where parts of the config count epochs.
        resolved: Keys that were left open, as they were settled.
        notes: What a reader should know, one sentence each.
        base: The config that the key `config` names, as a literal.
    """

    config: dict[str, Any]  # for mmengine, without its `train_cfg`
    steps: int
    epoch_steps: int | None = None  # steps of an epoch, where parts of the config count epochs
    resolved: dict[str, Any] = field(default_factory=dict)  # keys that were left open, as they were settled
    notes: list[str] = field(default_factory=list)
    base: str = ""  # the config that `config` names, as a literal


# ---- data


def set_data(config: dict[str, Any], cfg: TransferConfig, data: Data, scope: str) -> list[str]:
    """Our images in both loaders, the config's own pipelines over them.

    Args:
        config: An mm config, changed.
        cfg: The keys.
        data: The images.
        scope: mmseg or mmdet.
    """
    notes: list[str] = []
    train, test = config["train_dataloader"], config["test_dataloader"]
    wanted = innermost(train["dataset"])
    keeps_empty = scope == "mmdet" and not (wanted.get("filter_cfg") or {}).get("filter_empty_gt")
    ours = copy.deepcopy(data.train)
    if keeps_empty:
        ours.pop("filter_cfg", None)
    elif scope == "mmdet" and (empty := data.counts["all"] - data.counts["train"]):
        notes.append(left_out(empty, data.counts["all"]))
    pipeline = _pipeline(wanted.get("pipeline", []), data, scope, train=True)
    train["dataset"] = _wrapped(train["dataset"], ours | {"pipeline": pipeline}, notes)
    pipeline = _pipeline(innermost(test["dataset"]).get("pipeline", []), data, scope, train=False)
    test["dataset"] = copy.deepcopy(data.val) | {"pipeline": pipeline}
    if "tta_pipeline" in config:
        config["tta_pipeline"] = _pipeline(config["tta_pipeline"], data, scope, train=False)
    for loader in (train, test):
        loader |= {"num_workers": cfg.workers, "persistent_workers": False}
        for key in ("prefetch_factor", "pin_memory", "drop_last"):
            loader.pop(key, None)
    sampler = str(train.get("sampler", {}).get("type"))
    if sampler not in ("InfiniteSampler", "DefaultSampler"):
        notes.append(f"{sampler} is left out: every image is drawn equally often")
    train["sampler"] = {"type": "InfiniteSampler", "shuffle": True, "seed": cfg.seed}
    test |= {"batch_size": 1, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    return notes


def innermost(dataset: dict[str, Any]) -> dict[str, Any]:
    """The set with the images of a train config, below those that repeat or mix them."""
    while True:
        inner = dataset.get("dataset") or (dataset.get("datasets") or [None])[0]
        if not isinstance(inner, dict):
            return dataset
        dataset = inner


def repeats(dataset: dict[str, Any]) -> int:
    """How often an epoch of a train config shows each image."""
    inner = dataset.get("dataset")
    times = int(dataset.get("times", 1)) if dataset.get("type") == "RepeatDataset" else 1
    return times * repeats(inner) if isinstance(inner, dict) else times


def _wrapped(dataset: dict[str, Any], ours: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """`ours` in the place of the innermost set; of several that the config joins, in the place of all."""
    if isinstance(dataset.get("dataset"), dict):
        return dataset | {"dataset": _wrapped(dataset["dataset"], ours, notes)}
    if dataset.get("datasets"):
        notes.append(f"{len(dataset['datasets'])} sets that the config joins are one here")
    return ours


def _pipeline(steps: Any, data: Data, scope: str, train: bool) -> Any:
    """The config's own steps; in segmentation labels are loaded by the reader that checks them."""
    if isinstance(steps, list | tuple):
        return type(steps)(_pipeline(step, data, scope, train) for step in steps)
    if not isinstance(steps, dict):
        return steps
    if steps.get("type") in LOADERS:
        if scope == "mmseg":
            return {"type": "EvalkitLabels", "classes": len(data.classes)}
        if steps["type"] == "LoadPanopticAnnotations" or steps.get("with_seg"):
            raise EvalkitError("the config trains on a panoptic or semantic truth, which a set of boxes has not")
        if steps.get("with_mask") and not data.masks:
            if train:
                raise EvalkitError(
                    f"the config trains on masks, but {data.name} has boxes alone; choose a detector of boxes, such as"
                    " faster-rcnn_r50_fpn_1x_coco, or add masks"
                )
            return steps | {"with_mask": False}
        return steps
    return {k: _pipeline(v, data, scope, train) for k, v in steps.items()}


def square_crop(config: dict[str, Any]) -> int | None:
    """The side of the training images of a config, if they are square and all the same."""
    found = config["model"].get("data_preprocessor", {}).get("size")
    if found is None:
        steps = innermost(config["train_dataloader"]["dataset"]).get("pipeline", [])
        found = next((s.get("crop_size") for s in steps if s.get("type") == "RandomCrop"), None)
    if isinstance(found, int):
        return found
    return found[0] if isinstance(found, list | tuple) and len(set(found)) == 1 else None


# ---- batch and schedule


def batch_size(config: dict[str, Any], cfg: TransferConfig, name: str) -> tuple[int, int]:
    """(images per step, those that the config was made for): by `base_batch_size`, else by "4xb4" in its name, else its
    loader's times the processes.

    Args:
        config: An mm config.
        cfg: The keys.
        name: The file of the config, without its suffix.
    """
    own = config["train_dataloader"]["batch_size"]
    spelled = re.search(r"(\d+)xb(\d+)", name)
    base = (config.get("auto_scale_lr") or {}).get("base_batch_size")
    made_for = int(spelled[1]) * int(spelled[2]) if spelled else base or own * world_size()
    return cfg.batch_size or made_for, made_for


def schedule(config: dict[str, Any], images: int, batch: int, wanted: int | None, by_steps: bool) -> tuple[int, int]:
    """(steps, steps of an epoch) of a config; `wanted` steps (or epochs) instead of its own stretch its schedulers but
    for the warm-up, in place.

    Args:
        config: An mm config, whose schedulers are changed.
        images: How many are trained on.
        batch: Images per step.
        wanted: Steps, or epochs; None: its own.
        by_steps: Whether `wanted` counts steps.
    """
    epoch = math.ceil(images / batch)
    loop = config.get("train_cfg") or {}
    if loop.get("max_iters"):
        own = int(loop["max_iters"])
    elif loop.get("max_epochs"):
        own = int(loop["max_epochs"]) * epoch
    else:
        raise EvalkitError("the config does not say how long it trains (train_cfg.max_iters or max_epochs)")
    steps = own if wanted is None else wanted if by_steps else wanted * epoch
    schedulers = config["param_scheduler"]
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        _count_steps(scheduler, epoch, own, steps)
    return steps, epoch


def _count_steps(scheduler: dict[str, Any], epoch: int, own: int, steps: int) -> None:
    """Bounds of a scheduler in the new length of the run. One by epochs stays so, but for a fractional end."""
    by_epoch = scheduler.get("by_epoch", True)
    if scheduler.pop("convert_to_iter_based", False):
        scheduler["by_epoch"] = by_epoch = False
        scheduler |= {k: scheduler[k] * epoch for k in ("begin", "end", "T_max") if scheduler.get(k) is not None}
        scheduler |= {"milestones": [m * epoch for m in scheduler["milestones"]]} if "milestones" in scheduler else {}
    if own == steps or _is_warmup(scheduler):
        return
    ratio = steps / own
    for key in ("begin", "end", "T_max"):
        if isinstance(scheduler.get(key), int | float) and 0 < scheduler[key] < 10**8:
            stretched = scheduler[key] * ratio
            scheduler[key] = max(1, round(stretched)) if by_epoch or key == "T_max" else round(stretched)
    if isinstance(scheduler.get("milestones"), list | tuple):
        scheduler["milestones"] = [max(1, round(m * ratio)) for m in scheduler["milestones"]]
    begin, end = scheduler.get("begin", 0), scheduler.get("end")
    if end is not None and begin >= end:
        raise EvalkitError(
            f"the schedule of the config does not fit into {steps} steps where it was made for {own}: of its"
            f" {scheduler.get('type')} nothing is left; train longer, or take it out by mm.param_scheduler"
        )


def _is_warmup(scheduler: dict[str, Any]) -> bool:
    """Whether a scheduler raises the rate at the start of a run."""
    kind = str(scheduler.get("type")).rpartition(".")[2]  # whatever package it is registered in
    falls = scheduler.get("end_factor", 1.0) < scheduler.get("start_factor", 1 / 3)
    return scheduler.get("begin", 0) == 0 and kind in WARMUPS and not (kind == "LinearLR" and falls)


# ---- keys that any config takes


def apply_keys(config: dict[str, Any], cfg: TransferConfig, device: str) -> list[str]:
    """Rates, mixed precision, freezing, layer-wise decay and averaging by their keys; sentences for what is different
    from a config that has its own.

    Args:
        config: An mm config, changed.
        cfg: The keys.
        device: Type of the device, cpu or cuda.
    """
    notes: list[str] = []
    wrapper, backbone = config["optim_wrapper"], config["model"]["backbone"]
    optimizer = wrapper["optimizer"]
    if cfg.config is not None:
        if wrapper.get("constructor") in BY_LAYER:
            own = wrapper.get("paramwise_cfg") or {}
            layer_decay, no_decay = own.get("decay_rate", 1.0), "timm"
            notes.append(f"layer-wise rate decay {layer_decay} of the config, by timm's layers")
            wrapper |= {"constructor": None, "paramwise_cfg": None}
        else:
            layer_decay, no_decay = None, None
        optimizer |= {k: getattr(cfg, k) for k in ("lr", "weight_decay") if getattr(cfg, k) is not None}
    else:
        layer_decay, no_decay = None, None
    layer_decay, no_decay = cfg.layer_decay or layer_decay, cfg.no_decay or no_decay
    if layer_decay is not None or no_decay is not None:
        if wrapper.get("constructor") not in (None, "DefaultOptimWrapperConstructor"):
            raise EvalkitError(
                f"the config has an optimizer constructor of its own ({wrapper['constructor']}), which layer_decay and"
                " no_decay do not go with; leave them out, or mm.optim_wrapper.constructor=null"
            )
        paramwise = dict(wrapper.get("paramwise_cfg") or {})
        paramwise["evalkit"] = {"layer_decay": layer_decay, "no_decay": no_decay}
        wrapper |= {"constructor": CONSTRUCTOR, "paramwise_cfg": paramwise}
    for key in [k for k in ("constructor", "paramwise_cfg") if k in wrapper and wrapper[k] is None]:
        del wrapper[key]
    notes += _precision(wrapper, cfg, device)
    if cfg.freeze is not None:
        backbone["freeze"] = "all"
    elif cfg.freeze_stages is not None:
        backbone["freeze"] = cfg.freeze_stages
    if cfg.ema is not None:
        if any(hook["type"] == "EMAHook" for hook in config["custom_hooks"]):
            raise EvalkitError(
                "the config has a moving average of its own (EMAHook); leave ema out, or change it by mm."
            )
        hook = {"type": "EMAHook", "ema_type": "ExponentialMovingAverage", "momentum": 1 - cfg.ema}
        config["custom_hooks"] = [*config["custom_hooks"], hook]
    return notes


def _precision(wrapper: dict[str, Any], cfg: TransferConfig, device: str) -> list[str]:
    own = wrapper["type"] == "AmpOptimWrapper"
    if cfg.amp is None and not (own and device == "cpu"):
        return []
    for key in ("dtype", "loss_scale"):
        wrapper.pop(key, None)
    if cfg.amp is None:
        wrapper["type"] = "OptimWrapper"
        return ["mixed precision of the config is left out on a CPU; amp=bf16 works there too"]
    if cfg.amp == "fp16":
        if device == "cpu":
            raise EvalkitError("amp=fp16 needs a GPU; use amp=bf16, or leave it out")
        wrapper |= {"type": "AmpOptimWrapper", "loss_scale": "dynamic", "dtype": "float16"}
        return []
    if wrapper["type"] not in ("OptimWrapper", "AmpOptimWrapper"):
        raise EvalkitError(f"amp does not go with the config's own {wrapper['type']}; leave it out")
    wrapper["type"] = "EvalkitBf16OptimWrapper"
    return []
