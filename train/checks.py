"""What no training could do with the values of a recipe, besides the bounds of each key."""

from evalkit.errors import EvalkitError

from .config import TrainConfig
from .schedules import check_schedule

# Optimizers that change weights which are split over processes as whole ones (others need whole matrices, or what
# PyTorch does not do with split tensors), and whose state can be split and put together as the weights are.
SPLIT_OPTIMIZERS = (
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamc",
    "adamw",
    "adamwlegacy",
    "adan",
    "adanw",
    "lamb",
    "lambc",
    "lambcd",
    "lambcw",
    "lambw",
    "laprop",
    "lapropc",
    "larc",
    "lars",
    "lion",
    "lionc",
    "madgrad",
    "madgradw",
    "momentum",
    "nadam",
    "nadamc",
    "nadamlegacy",
    "nadamw",
    "nesterov",
    "nesterovw",
    "nlarc",
    "nlars",
    "radabelief",
    "radam",
    "radamlegacy",
    "radamw",
    "rmsprop",
    "rmsproptf",
    "rmsproptfc",
    "rmsproptfw",
    "sgd",
    "sgdc",
    "sgdw",
)
SPLIT_FUSED = ("adam", "adamw")  # those of them whose fused kernel takes split tensors


def check(cfg: TrainConfig) -> None:
    """Args:
        cfg: The recipe, each value within its key's bounds.

    Raises EvalkitError for values that do not go together.
    """
    from .optim import check_optimizer

    if not cfg.betas or max(cfg.betas) >= 1:
        raise EvalkitError(f"key 'betas' must be numbers from 0 to below 1, but got {cfg.betas}")
    check_optimizer(cfg)
    if len(cfg.crop_scale) != 2 or not 0 < cfg.crop_scale[0] <= cfg.crop_scale[1] <= 1:
        raise EvalkitError(
            "key 'crop_scale' must be the smallest and largest share of the image's area, such as [0.08, 1.0], but"
            f" got {cfg.crop_scale}"
        )
    if cfg.schedule == "step" and not cfg.decay_epochs:
        raise EvalkitError(
            "schedule=step needs the epochs at which the learning rate falls, for example decay_epochs=[30,60,90]"
        )
    check_schedule(cfg)
    if cfg.label_smoothing == 1:
        raise EvalkitError("label_smoothing=1 leaves nothing of any label; give less")
    if cfg.loss == "bce" and cfg.bce_threshold == 1:
        raise EvalkitError("bce_threshold=1 counts no label at all, since none is above 1; give less")
    if cfg.distill_teacher is not None and cfg.distill_type != "none" and cfg.distill_alpha == 0:
        raise EvalkitError("distill_alpha=0 leaves nothing to the teacher; give more, or leave distill_teacher out")
    if cfg.distill_type == "soft" and cfg.distill_teacher is None:
        raise EvalkitError("distill_type=soft needs distill_teacher=NAME, a timm name or a checkpoint")
    if cfg.data == "packed" and not cfg.data_dir:
        raise EvalkitError("data=packed needs data_dir=DIR, the folder that evalkit pack has written")
    if cfg.data == "folder" and not cfg.data_dir:
        raise EvalkitError(
            "data=folder needs data_dir=DIR, a folder with a sub-folder per split that holds a sub-folder per class"
        )
    if not cfg.data_dir and not cfg.data.startswith("digits"):
        from evalkit.data.known import KNOWN

        if cfg.data in KNOWN:
            raise EvalkitError(
                f"data={cfg.data} needs data_dir=DIR, the folder that {KNOWN[cfg.data].title} was unpacked in"
            )
    if cfg.fsdp:
        check_fsdp(cfg)
    if cfg.batch_size is None or cfg.micro_batch is None:
        return  # settled with the data
    if cfg.batch_size % cfg.micro_batch:
        raise EvalkitError(
            f"micro_batch={cfg.micro_batch} does not divide batch_size={cfg.batch_size}; "
            f"use one of {', '.join(str(d) for d in range(1, cfg.batch_size + 1) if cfg.batch_size % d == 0)}"
        )
    if cfg.batch_size // cfg.micro_batch % cfg.accumulate:
        raise EvalkitError(
            f"accumulate={cfg.accumulate} does not divide the {cfg.batch_size // cfg.micro_batch} micro-batches"
            " of a step"
        )


def check_fsdp(cfg: TrainConfig) -> None:
    """Args:
        cfg: The recipe, which asks for fsdp.

    Raises EvalkitError for what cannot go with it; see `fsdp.check` for network and mixup.
    """
    for key in ("compile", "channels_last", "auto_micro_batch"):
        if getattr(cfg, key):
            raise EvalkitError(f"fsdp=true does not go with {key}=true; set one of them to false")
    if cfg.opt not in SPLIT_OPTIMIZERS:
        raise EvalkitError(
            f"fsdp=true: optimizer '{cfg.opt}' does not change weights that are split as it does whole ones; use one"
            f" of {', '.join(SPLIT_OPTIMIZERS)}"
        )
    if cfg.opt_kernels == "fused" and cfg.opt not in SPLIT_FUSED:
        raise EvalkitError(
            f"fsdp=true: the fused kernel of optimizer '{cfg.opt}' does not take split weights; use opt_kernels=foreach"
        )
