"""Keys of a training that have no effect beside the others as they are, each with what would give it one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import TrainConfig


def idle(cfg: "TrainConfig") -> dict[str, str]:
    """Key -> what would give it an effect. What a mixup alone decides about (`mix_draws`, `accumulate`, `methods`) is
    none of them: a baseline is trained with the same keys.

    Args:
        cfg: The configuration, settled.
    """
    rules = [  # whether the keys are idle, the keys, why
        (cfg.augment != "rrc", ["crop_scale"], "it belongs to augment=rrc"),
        (not (cfg.auto_augment or cfg.color_jitter), ["augment_device"], "it belongs to auto_augment or color_jitter"),
        (cfg.holdout is not None, ["val_split"], "holdout validates on training images; give holdout=null for it"),
        (cfg.loss != "bce", ["bce_threshold", "bce_reduction"], "it belongs to loss=bce"),
        (
            cfg.distill_teacher is None,
            ["distill_type", "distill_alpha", "distill_tau"],
            "distillation needs distill_teacher=NAME, a timm name or a checkpoint",
        ),
        (
            cfg.distill_teacher is not None and cfg.distill_type == "none",
            ["distill_alpha"],
            "it belongs to distill_type=hard or soft",
        ),
        (
            cfg.distill_teacher is not None and cfg.distill_type != "soft",
            ["distill_tau"],
            "it belongs to distill_type=soft",
        ),
        (cfg.schedule != "cosine", ["min_lr", "cooldown_epochs"], "it belongs to schedule=cosine"),
        (cfg.ema is None, ["ema_warmup_epochs"], "it belongs to ema=DECAY"),
        (
            cfg.ema_warmup_epochs > cfg.epochs,
            ["ema_warmup_epochs"],
            f"epochs={cfg.epochs} end before ema reaches its value; give fewer ema_warmup_epochs or more epochs",
        ),
        (cfg.micro_batch == 1, ["auto_micro_batch"], "micro_batch=1 has no divisor to try; give a larger one"),
        (cfg.schedule != "step", ["decay_epochs", "decay_rate"], "it belongs to schedule=step"),
        (
            cfg.schedule == "constant" and not (cfg.warmup_epochs and cfg.warmup_by is None),
            ["schedule_by"],
            "it belongs to schedule=cosine or step",
        ),
        (not cfg.warmup_epochs, ["warmup_lr", "warmup_by"], "a warm-up needs warmup_epochs=N"),
        (
            cfg.warmup_epochs > cfg.epochs,
            ["warmup_epochs"],
            f"epochs={cfg.epochs} end before the warm-up does; give fewer warmup_epochs or more epochs",
        ),
        (not cfg.weight_decay, ["decay_norm_and_bias"], "it belongs to weight_decay above 0"),
        *_of_the_optimizer(cfg.opt),
    ]
    return {key: why for is_idle, keys, why in rules if is_idle for key in keys}


def _of_the_optimizer(opt: str) -> list[tuple[bool, list[str], str]]:
    from timm.optim import get_optimizer_info

    try:
        info = get_optimizer_info(opt)
    except ValueError:
        return []  # whoever makes it names the closest one
    takes = [name for name, has in (("momentum", info.has_momentum), ("betas", info.has_betas)) if has]
    others = f"opt={opt} has {' and '.join(takes) or 'neither momentum nor betas'} instead"
    return [
        (not info.has_momentum, ["momentum"], others),
        (not info.has_betas, ["betas"], others),
        (not info.has_eps, ["eps"], f"opt={opt} adds nothing to a denominator"),
    ]
