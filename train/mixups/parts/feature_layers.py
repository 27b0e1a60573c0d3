"""The layer in the middle of a network whose output learned methods look at, as a map."""

import math
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.errors import EvalkitError, unknown

SWIN = (SwinTransformer, SwinTransformerV2)  # and CA-Swin, which is one


class Reached(Exception):
    """The layer has run; the rest of the pass is not needed."""


class FeatureTap:
    """Reads the output of a layer of a timm model as a map (B, C, h, w).

    Args:
        model: The timm model.
        layer: Path of the module; None: `default_layer`.

    Raises EvalkitError for a layer that does not exist, and when read, for one whose output is not one tensor laid out
    like the image.
    """

    def __init__(self, model: nn.Module, layer: str | None = None):
        self.layer, self.normalise = (layer, False) if layer else default_layer(model)
        modules = dict(model.named_modules())
        if not self.layer or self.layer not in modules:
            raise unknown("feature_layer", self.layer, filter(None, modules))
        self.listening = self.stop = False
        self.out: Any = None
        modules[self.layer].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if self.listening:
            self.out = out
            if self.stop:
                raise Reached

    def read(self, model: Any, x: Tensor, whole: bool) -> tuple[Tensor, Any]:
        """The map for images `x`, and what `model.forward_features` gives if the `whole` pass is run, else None."""
        self.listening, self.stop, features = True, not whole, None
        try:
            features = model.forward_features(x)
        except Reached:
            pass
        finally:
            self.listening = False
            out, self.out = self.out, None
        z = as_map(out, x, model)
        if z is None:
            found = f"gives {tuple(out.shape)}" if isinstance(out, Tensor) else "gives no tensor"
            raise EvalkitError(
                f"layer '{self.layer}' {found} for images of {x.shape[-2]} x {x.shape[-1]} pixels, no feature map; name"
                " another feature_layer"
            )
        if self.normalise:
            z = F.layer_norm(z.movedim(1, -1), z.shape[1:2]).movedim(-1, 1).contiguous()
        return z, features


def default_layer(model: nn.Module) -> tuple[str, bool]:
    """Name of the last stage but one, or of the middle block where all have one resolution, and whether its output is
    to be layer-normalised: for Swin it is the last patch merging (AutoMix, arXiv:2103.13027, and its code). Raises
    EvalkitError for models that timm has no list of stages of."""
    if isinstance(model, SWIN):
        return f"layers.{len(model.layers) - 1}.downsample", True
    stages = getattr(model, "feature_info", None)
    stages = getattr(stages, "info", stages)
    if not stages:
        raise EvalkitError(
            f"the stages of {type(model).__name__} are not known; name the layer whose features are to be mixed by:"
            " feature_layer=NAME"
        )
    one_resolution = len({stage["reduction"] for stage in stages}) == 1
    name = stages[max(len(stages) // 2 - 1 if one_resolution else len(stages) - 2, 0)]["module"]
    module = dict(model.named_modules()).get(name)
    return (f"{name}.{len(module) - 1}" if isinstance(module, nn.ModuleList) else name), False


def as_map(out: Any, x: Tensor, model: nn.Module) -> Tensor | None:
    """A layer's output as a map (B, C, h, w): a map as it is, channels first, or patch tokens (B, T, C) on the grid of
    the images; None for anything else.

    Args:
        out: What the layer gave.
        x: The images (B, C, H, W) of that pass.
        model: The timm model.
    """
    if not isinstance(out, Tensor) or len(out) != len(x):
        return None
    if out.ndim == 4:
        # CA-Swin's head reads tokens, its stages give maps
        channels_last = isinstance(model, SWIN) or getattr(model, "output_fmt", "NCHW") == "NHWC"
        return out.movedim(-1, 1).contiguous() if channels_last else out
    if out.ndim == 3:
        for prefix in (getattr(model, "num_prefix_tokens", 0), 0):  # some models add their class token later
            tokens = out.shape[1] - prefix
            stride = round(math.sqrt(x.shape[2] * x.shape[3] / tokens))
            grid = (x.shape[2] // stride, x.shape[3] // stride)
            if grid[0] * grid[1] == tokens:
                return out[:, prefix:].transpose(1, 2).unflatten(2, grid).contiguous()
    return None
