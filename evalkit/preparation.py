"""How images are prepared for a network: as its own run validates, as a protocol was published, as timm does, or not at
all."""

from collections.abc import Mapping
from typing import Any

from .data.images import Images
from .data.transforms import EvalTransform, TimmTransform, eval_transform, validation_transform
from .errors import EvalkitError
from .models import Facts, Loaded


def recipe_of(loaded: Facts) -> Mapping[str, Any]:
    """The recipe of the training run that the checkpoint is of; empty for other weights."""
    recipe = loaded.meta.get("config")
    return recipe if isinstance(recipe, dict) else {}


def preparation(
    loaded: Loaded, images: Images, mode: str | None, own: bool = True
) -> tuple[str, EvalTransform | TimmTransform]:
    """(mode, transform): how images are prepared, by the key `preprocess`.

    Args:
        loaded: The network.
        images: What it is evaluated on.
        mode: The key's value; None chooses "run" for a checkpoint of a run that validates at the network's size, else
            "native" for images of that size, else "published".
        own: Whether None may choose "run".

    Raises EvalkitError for "run" with weights that are of no run.
    """
    size, recipe = loaded.network.input_size[0], recipe_of(loaded)
    if mode is None and own and recipe:
        theirs = validation_transform(recipe, images.native_size)
        mode = "run" if theirs.size == size else None
    mode = mode or ("native" if images.native_size == size else "published")
    if mode != "run":
        return mode, eval_transform(mode, size, getattr(loaded.network.model, "pretrained_cfg", None))
    if not recipe:
        raise EvalkitError(
            f"{loaded.source} is no checkpoint of a run of evalkit, which preprocess=run needs; use published or model"
        )
    return mode, validation_transform(recipe, images.native_size)
