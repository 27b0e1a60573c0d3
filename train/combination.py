"""Whether a network and a mixup go together, asked before anything is trained and without weights or memory."""

import difflib
import functools
import json
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from evalkit import models
from evalkit.data.images import Images
from evalkit.data.kept import in_memory
from evalkit.errors import EvalkitError

from .config import TrainConfig
from .mixups import from_config
from .mixups.base import MixMethod
from .mixups.choice import Choice
from .mixups.vanilla import Vanilla

CLASSES = 1000


def obstacle(cfg: TrainConfig) -> str | None:
    """Why the recipe's network cannot be trained with its mixup, such as class attention of a ResNet; None if it can.

    Frozen teachers are left out: whether their weights are there is not a question of the combination. Raises
    EvalkitError for a network or a method that does not exist or does not take its arguments.
    """
    if cfg.model is None:  # the network of a checkpoint, which the run will read
        return None
    given = json.dumps([cfg.model, cfg.model_args, cfg.mixup, cfg.image_size], sort_keys=True)
    return _obstacle(given)


@functools.cache
def _obstacle(given: str) -> str | None:
    model, arguments, mixup, size = json.loads(given)
    models.check_arguments(model, arguments)
    method = from_config(mixup)
    network = _network(model, json.dumps(arguments, sort_keys=True))
    for part in _without_teachers(method):
        try:
            part.setup(network)
            network.prepare(attention=part.attention, inject_layers=part.inject_layers)
            if size is not None:  # else the data of the run decide
                part.check_size(network, size, size)
        except EvalkitError as e:
            return str(e)
        except RuntimeError as e:
            if "meta" not in str(e):  # a network without memory has no values; a check of those waits for the training
                raise
    return None


def _without_teachers(method: MixMethod) -> list[MixMethod]:
    """The methods that `method` consists of, itself first, without those in which a frozen teacher would be loaded."""
    parts = [part for part in method.modules() if isinstance(part, MixMethod)]
    taught = [part for part in parts if part.stand_in]
    return [part for part in parts if not any(other in taught for other in part.modules())]


@functools.cache
def _network(model: str, arguments: str) -> Any:
    with torch.device("meta"):
        return models.create(model, num_classes=CLASSES, **json.loads(arguments))


def without_effect(cfg: TrainConfig, method: MixMethod, network: Any, images: Images) -> list[str]:
    """A sentence for each key that does nothing with this network and these images, and one where a micro-batch of one
    image leaves nothing to mix it with.

    Args:
        cfg: The recipe, settled.
        method: The mixup.
        network: What it trains.
        images: For training.
    """
    found = [*_mixes_nothing(cfg, method), *misspelt(method)]
    if not any(isinstance(layer, _BatchNorm) for layer in network.modules()):
        given = [key for key in ("precise_bn", "bn_batch") if getattr(cfg, key) is not None]
        found += [f"{key}={getattr(cfg, key)} has no effect: {cfg.model} has no batch norm" for key in given]
    if cfg.schedule == "step" and cfg.warmup_epochs > cfg.decay_epochs[0]:
        found.append(
            f"decay_epochs={cfg.decay_epochs} begin within warmup_epochs={cfg.warmup_epochs:g}: the learning rate rises"
            " to the whole lr first, and falls behind it"
        )
    if cfg.schedule == "step" and cfg.decay_epochs[-1] == cfg.epochs:
        found.append(f"decay_epochs={cfg.decay_epochs}: the last one is the end of the run, where no step is left")
    if cfg.init is None and "." in cfg.model:
        found.append(
            f"model={cfg.model} names weights that are not taken, since init=null: training starts from random ones"
        )
    if cfg.ema == 0:
        found.append("ema=0 averages nothing: its weights are those of the newest step")
    as_it_is = in_memory(images) and images.native_size == cfg.image_size and cfg.augment != "rrc"
    if cfg.decode == "fast" and as_it_is:
        found.append(f"decode=fast has no effect: the images of {images.name} are neither decoded nor resized")
    return found


def misspelt(method: MixMethod) -> list[str]:
    """A sentence for each function or attribute of a user's own method that nothing calls, but whose name is close to
    one that would be called: `re_label`.

    Args:
        method: The mixup.
    """
    known, found = [name for name in vars(MixMethod) if not name.startswith("_")], []
    for cls in {type(m) for m in method.modules() if isinstance(m, MixMethod)}:
        own = [c for c in cls.__mro__ if issubclass(c, MixMethod) and not c.__module__.startswith("evalkit.")]
        names = sorted({name for c in own for name in vars(c)} - set(known))
        for name in (name for name in names if not name.startswith("_")):
            if close := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
                found.append(f"{cls.__name__}.{name} is never looked at; was {close[0]} meant?")
    return found


def _mixes_nothing(cfg: TrainConfig, method: MixMethod) -> list[str]:
    parts = [m for m in method.modules() if isinstance(m, MixMethod) and not isinstance(m, Choice | Vanilla)]
    if off := sorted({type(m).__name__ for m in parts if getattr(m, "alpha", None) == 0}):
        return [f"{' and '.join(off)} with alpha=0 mixes nothing: that is training without a mixup"]
    if cfg.micro_batch > 1 or all("alone" in part.exempt for part in parts):
        return []
    return ["micro_batch=1: images are mixed within a micro-batch, so none is mixed with another one"]
