"""What mm's parts give, to compare an export with."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from evalkit.errors import EvalkitError

from ..stock_backbones import Stock
from .engine import quiet
from .stock import said


def register(scope: str) -> Any:
    """Make the parts of mmseg or mmdet, and evalkit's, known by name; the registry of models."""
    import_module(f"{scope}.utils").register_all_modules(init_default_scope=True)
    return import_module(f"{scope}.registry").MODELS


@torch.inference_mode()
def stock_maps(stock: Stock, scope: str, x: Tensor) -> list[Tensor] | str:
    """The maps of mm's own backbone with the weights of `stock`, or why it does not take them.

    Args:
        stock: The candidate.
        scope: mmseg or mmdet.
        x: Normalised images.
    """
    models = register(scope)
    try:
        with quiet():
            made: nn.Module = models.build(dict(stock.config))
        lacking, unused = made.load_state_dict(stock.tensors, strict=False)
        lacking = [name for name in lacking if not name.endswith("relative_position_index")]
        if lacking or unused:
            return f"{len(lacking)} tensors are lacking, {len(unused)} have no place, such as {[*lacking, *unused][0]}"
        made.eval()  # which not all of them return
        return list(made(x))
    except (TypeError, RuntimeError, ValueError, KeyError, AssertionError) as e:
        return said(e)


def own_model(config: dict[str, Any], weights: dict[str, Tensor], exported: dict[str, Any], scope: str) -> Any:
    """The network of a run as evalkit builds it, with the weights of a checkpoint; raises EvalkitError where these are
    not its own.

    Args:
        config: The mm config of the run.
        weights: The state dict of the checkpoint.
        exported: The config of the export, by which mm's apis prepare images.
        scope: mmseg or mmdet.
    """
    models = register(scope)
    import_module(f"{__package__}.backbone")
    model = Config({"model": config["model"]}).model
    model.backbone.checkpoint = None
    model.backbone.weights = None
    try:
        with quiet():
            made = models.build(model)
        made.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError) as e:
        raise EvalkitError(f"the checkpoint does not fit the mm_config.py of its run ({said(e)})") from e
    made.cfg = Config(exported)
    return made.eval()


def palette(count: int) -> list[list[int]]:
    """A colour of each class, as the sheets of transfers have them."""
    from ..sheets import colour

    return [[round(255 * part) for part in colour(label)] for label in range(count)]


def outputs(scope: str, probe: str, model: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """What the probe of an export finds with a network of evalkit's.

    Args:
        scope: mmseg or mmdet.
        probe: Python, see `evalkit.export.clean.run`.
        model: The network.
        image: (H, W, 3) uint8.
    """
    apis = import_module(f"{scope}.apis")
    scope_of_probe = {"model": model, "given": {"image": image}} | {
        name: getattr(apis, name) for name in ("inference_model", "inference_detector") if hasattr(apis, name)
    }
    with torch.no_grad():
        exec(probe, scope_of_probe)
    found: dict[str, np.ndarray] = scope_of_probe["found"]
    return found
