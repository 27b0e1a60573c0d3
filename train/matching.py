"""Which recipe a training run is of."""

from typing import Any

from omegaconf import OmegaConf

from evalkit import config, keys

from .config import TrainConfig

SETTLED = ("auto", "cpu")  # of augment_device, whose pixels are then the recipe's


def recipe_name(cfg: TrainConfig) -> str | None:
    """The recipe of evalkit whose settings these are, but for the seed and the keys of execution, with its method or
    one that it has settings for; None if there is none."""
    own = config.to_dict(cfg)
    compared = keys.named(TrainConfig, "setting") - {"mixup", "methods"}
    for name in config.recipes("train"):
        theirs: Any = OmegaConf.to_container(config.resolve(TrainConfig, name))
        different = [key for key in compared if own[key] != theirs[key] and (theirs[key], own[key]) != SETTLED]
        if not different and _same_method(own, theirs):
            return name
    return None


def _same_method(own: dict[str, Any], theirs: dict[str, Any]) -> bool:
    if own["mixup"] == theirs["mixup"]:
        return _settings_of(own) == _settings_of(theirs)
    named = isinstance(own["mixup"], str) and (own["mixup"] == "vanilla" or own["mixup"] in theirs["methods"])
    return named and _settings_of(own) == _settings_of(theirs, own["mixup"])


def _settings_of(recipe: dict[str, Any], method: Any = None) -> Any:
    method = recipe["mixup"] if method is None else method
    return recipe["methods"].get(method) if isinstance(method, str) else None
