"""Which recipe a training run is of."""

from typing import Any

from omegaconf import OmegaConf

from evalkit import config, keys

from .config import TrainConfig

SETTLED = ("auto", "cpu")  # of augment_device, whose pixels are then the recipe's


def recipe_name(cfg: TrainConfig) -> str | None:
    """The recipe of evalkit whose settings these are, but for the seed and the keys of execution, with its own network
    and mixup, or others that it has settings for, or no mixup at all; None where no recipe has them."""
    own = config.to_dict(cfg)
    method = own["mixup"].get("name") if isinstance(own["mixup"], dict) else own["mixup"]
    compared = keys.named(TrainConfig, "setting") - {"methods", "models", "applied"}
    for name, path in config.recipes("train").items():
        given = config.read(path)
        if cfg.model not in (given.get("model"), *given.get("models", {})):  # the others need not be resolved
            continue
        network = [] if cfg.model == given["model"] else [f"model={cfg.model}"]
        chosen = [f"mixup={method}"] if method in (*given.get("methods", {}), "vanilla") else []
        for overrides in (network, network + chosen):
            theirs: Any = OmegaConf.to_container(config.resolve(TrainConfig, name, overrides))
            if all(own[key] == theirs[key] or (theirs[key], own[key]) == SETTLED for key in compared):
                return name
    return None
