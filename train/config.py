"""The keys of a training recipe."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING

from evalkit.errors import EvalkitError, unknown

CHOICES = {
    "decode": ("exact", "fast"),
    "augment_device": ("auto", "cpu", "device"),
    "augment": ("none", "pad-crop", "pad-crop-flip", "rrc"),
    "interpolation": ("bilinear", "bicubic", "lanczos"),
    "loss": ("ce", "bce"),
    "bce_reduction": ("sum_classes", "mean"),
    "mix_draws": ("group", "step"),
    "schedule": ("cosine", "step", "constant"),
    "schedule_by": ("step", "epoch"),
    "warmup_by": ("step", "epoch"),
    "amp": ("none", "bf16", "fp16"),
    "distill_type": ("none", "hard", "soft"),
}
POSITIVE = (
    *(
        "image_size",
        "eval_size",
        "eval_resize",
        "repeats",
        "epochs",
        "batch_size",
        "micro_batch",
        "bn_batch",
        "accumulate",
        "lr",
        "decay_rate",
        "eps",
    ),
    *("clip_grad", "threads", "eval_epochs", "median_evals", "checkpoint_steps", "keep", "log_steps", "distill_tau"),
)
SHARES = ("erasing", "bce_threshold", "label_smoothing", "momentum", "ema", "distill_alpha")  # between 0 and 1


@dataclass(frozen=True)
class TrainConfig:
    """Every key a training recipe may hold, flat. A recipe must give the keys without a default."""

    # what is trained
    model: str = MISSING  # a timm or evalkit architecture name
    model_args: dict[str, Any] = field(default_factory=dict)  # passed to the architecture's constructor
    init: str | None = None  # start from: a checkpoint folder or file, or "pretrained" (timm's weights)
    # method name | {name: ..., preset: ..., ...} | {choice: [{name: ..., prob: ...}, ...]} | module:Class
    mixup: Any = "vanilla"
    # method -> its arguments in this setting, where `mixup` names it without a preset
    methods: dict[str, Any] = field(default_factory=dict)
    label: str | None = None  # how reports name this run; the method's name if absent

    # on what
    data: str = MISSING  # digits | digits-photo | fashion-mnist | folder | a timm reader prefix such as hfds/NAME
    data_dir: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    image_size: int = 224

    # augmentation
    augment: str = "rrc"  # none | pad-crop | pad-crop-flip | rrc (random resized crop + flip)
    crop_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])  # area of an rrc crop, as a share of the image
    auto_augment: str | None = None  # timm RandAugment string, e.g. rand-m9-mstd0.5-inc1
    color_jitter: float = 0.0
    erasing: float = 0.0  # probability of random erasing (pixel noise, once per image)
    interpolation: str = "bicubic"
    repeats: int = 1  # repeated augmentation: copies of each image per epoch order
    # exact: Pillow's pixels; fast: the same decoded pixels, resized within 2 grey levels of Pillow's
    decode: str = "exact"
    # where auto_augment and color_jitter are done: cpu (by Pillow) | device (in batch, within 2 grey levels) | auto
    augment_device: str = "auto"
    eval_size: int | None = None  # side of the validation images; None = image_size
    eval_resize: int | None = None  # their shorter side before the centre crop; None = floor(eval_size * 256 / 224)

    # loss
    loss: str = "ce"  # ce | bce
    bce_threshold: float | None = None
    bce_reduction: str = "sum_classes"  # sum_classes | mean
    label_smoothing: float = 0.0

    # distillation through a token (DeiT), with a model that has one
    distill_teacher: str | None = None  # a timm name or a checkpoint; absent: no distillation
    distill_type: str = "hard"  # none | hard | soft
    distill_alpha: float = 0.5  # share of the teacher's loss
    distill_tau: float = 3.0  # temperature of soft

    # schedule
    epochs: int = MISSING
    batch_size: int = MISSING  # images per optimizer step over all processes
    micro_batch: int = MISSING  # images per forward pass = mix group = batch-norm group
    # group: every mix group draws for itself; step: all groups of an accumulation share their draws
    mix_draws: str = "group"
    # images that batch norm sees as one, across GPUs (SyncBN); None: those of a micro-batch
    bn_batch: int | None = None
    accumulate: int = 1  # published accumulation steps per optimizer step (only the key of the draws)
    lr: float = MISSING
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_epochs: float = 0.0
    schedule: str = "cosine"  # cosine | step | constant
    schedule_by: str = "step"  # step | epoch
    warmup_by: str | None = None  # step | epoch; None = schedule_by
    decay_epochs: list[float] = field(default_factory=list)  # of schedule=step
    decay_rate: float = 0.1

    # optimizer
    opt: str = "adamw"  # a timm optimizer name; "momentum" is plain SGD with momentum, timm's "sgd" is Nesterov
    opt_args: dict[str, Any] = field(default_factory=dict)  # further arguments of that optimizer
    momentum: float = 0.9
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay_norm_and_bias: bool = False
    clip_grad: float | None = None  # global norm
    ema: float | None = None  # decay of the exponential moving average of the weights

    # execution
    amp: str = "none"  # none | bf16 | fp16
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    device: str | None = None  # a GPU if there is one, else cpu
    workers: int = 2
    threads: int | None = None  # CPU threads per process; pinned because the number changes the last bits
    seed: int = 0

    # records
    eval_epochs: float = 1.0
    median_evals: int | None = None  # report the median top-1 of the last so many evaluations too, as OpenMixup does
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int | None = None  # write every so many steps as well
    keep: int = 2
    log_steps: int = 50

    def check(self) -> None:
        """Raises EvalkitError for a value that no run could use."""
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if key in CHOICES and value is not None and value not in CHOICES[key]:
                raise unknown(key, value, CHOICES[key])
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or value < 0 or (key in POSITIVE and value == 0):
                raise EvalkitError(
                    f"key '{key}' must be {'larger than 0' if key in POSITIVE else 'at least 0'}, but got {value}"
                )
            if key in SHARES and value > 1:
                raise EvalkitError(f"key '{key}' must lie between 0 and 1, but got {value}")
        if not self.betas or not all(0 <= b < 1 for b in self.betas):
            raise EvalkitError(f"key 'betas' must be numbers from 0 to below 1, but got {self.betas}")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise EvalkitError(
                "key 'crop_scale' must be the smallest and largest share of the image's area, such as [0.08, 1.0], but"
                f" got {self.crop_scale}"
            )
        if self.schedule == "step" and not self.decay_epochs:
            raise EvalkitError(
                "schedule=step needs the epochs at which the learning rate falls, for example decay_epochs=[30,60,90]"
            )
        if self.distill_type == "soft" and self.distill_teacher is None:
            raise EvalkitError("distill_type=soft needs distill_teacher=NAME, a timm name or a checkpoint")
        if self.data == "folder" and not self.data_dir:
            raise EvalkitError(
                "data=folder needs data_dir=DIR, a folder with a sub-folder per split that holds a sub-folder per class"
            )
        if self.batch_size % self.micro_batch:
            raise EvalkitError(
                f"micro_batch={self.micro_batch} does not divide batch_size={self.batch_size}; "
                f"use one of {', '.join(str(d) for d in range(1, self.batch_size + 1) if self.batch_size % d == 0)}"
            )
        if self.batch_size // self.micro_batch % self.accumulate:
            raise EvalkitError(
                f"accumulate={self.accumulate} does not divide the {self.batch_size // self.micro_batch} micro-batches"
                " of a step"
            )
