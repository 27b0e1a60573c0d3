"""Maps that are made what a stock config reads, of a backbone of which parts stay as they were loaded."""

from typing import Any

from timm.layers import LayerNorm2d
from timm.models import group_parameters
from torch import Tensor, nn

from evalkit.errors import EvalkitError

from .maps import Maps


def layers(model: nn.Module, name: str, coarse: bool = False) -> dict[str, int]:
    """Parameter -> its layer as timm counts them from the stem, 0, on; `coarse`: stages where the model has some.
    Raises EvalkitError for a model that timm cannot count.

    Args:
        model: A timm model.
        name: Its name, for errors.
        coarse: Whether stages are counted instead of blocks.
    """
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise EvalkitError(
            f"model '{name}' does not say which layers it has (timm's group_matcher), which freeze_stages and"
            " layer_decay need; leave these keys out"
        )
    found: dict[str, int] = group_parameters(model, matcher(coarse=coarse), reverse=True)
    return found


def rescaling(channels: int, stride: int, wanted: int) -> nn.Module:
    """(B, C, h, w) of `stride` to the stride `wanted`, a power of two away: transposed convolutions up, as in BEiT's
    pyramid for mmsegmentation (ViTDet's layer normalisation between them, which is the same for any number of
    processes), max-pooling down.

    Args:
        channels: C, which stays.
        stride: Pixels of the image per cell of the map.
        wanted: The same of what comes out.
    """
    if wanted >= stride:
        return nn.Identity() if wanted == stride else nn.MaxPool2d(wanted // stride)
    parts: list[nn.Module] = []
    while stride > wanted:
        parts += [LayerNorm2d(channels), nn.GELU()] if parts else []
        parts.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
        stride //= 2
    return nn.Sequential(*parts)


class Adapted(Maps):
    """`Maps` that are rescaled or normalised, parts of the model frozen.

    Args:
        args: Of the class behind this one, `Maps` or one derived from it, in order.
        freeze: The stem and this many first stages (blocks of a ViT) stay wholly as they were loaded, or "all" of them.
        strides: Of the maps after rescaling those of a plain ViT, whose own are all the same; None: as they are.
        out_norm: Whether each map is normalised by a LayerNorm of its own, which no checkpoint holds.
        kwargs: Of the class behind this one, by name.
    """

    def __init__(
        self,
        *args: Any,
        freeze: int | str | None = None,
        strides: list[int] | None = None,
        out_norm: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        info = [self.model.feature_info[i] for i in self.out_indices]
        self.after = nn.ModuleList()
        if strides is not None:
            self.after = nn.ModuleList(rescaling(m["num_chs"], m["reduction"], s) for m, s in zip(info, strides))
        elif out_norm:
            self.after = nn.ModuleList(LayerNorm2d(m["num_chs"], eps=1e-5) for m in info)
        self.held: list[nn.Module] = []
        if freeze is not None:
            self.held = self._freeze(type(self.model).__name__, freeze)
        self.train(self.training)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps, after = super().forward(x), getattr(self, "after", ())  # none yet while `Maps` is built
        return tuple(f(m) for f, m in zip(after, maps)) if len(after) else maps

    def train(self, mode: bool = True) -> "Adapted":
        super().train(mode)
        for module in getattr(self, "held", ()):
            module.eval()
        return self

    def _freeze(self, name: str, stages: int | str) -> list[nn.Module]:
        """Freeze the parameters of the stem and of `stages`, or "all"; the modules that must stay in evaluation for
        statistics, dropout and stochastic depth to be frozen too."""
        layer = layers(self.model, name, coarse=True) if stages != "all" else {}
        count = len(set(layer.values())) - 1
        if layer and int(stages) > count:
            raise EvalkitError(
                f"freeze_stages={stages}, but model '{name}' has {count} stages; freeze=backbone freezes all"
            )
        chosen = {n for n, _ in self.model.named_parameters() if stages == "all" or layer[n] <= int(stages)}
        held = []
        for prefix, module in self.model.named_modules():
            own = [f"{prefix}.{n}" if prefix else n for n, _ in module.named_parameters()]
            if own and all(n in chosen for n in own):
                held.append(module)
        for n, p in self.model.named_parameters():
            if n in chosen:
                p.requires_grad_(False)
        return held
