"""What evalkit's own backbones have in common: timm's description of them, stages with maps, a linear classifier."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn


def config(**own: Any) -> dict[str, Any]:
    """timm's description of one architecture: that of an ImageNet classifier, but for what is its `own`."""
    return {
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "pool_size": None,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head",
        **own,
    }


def build_staged(cls: type[nn.Module], name: str, pretrained: bool, **kwargs: Any) -> Any:
    """A model that timm can also make with `features_only`: it then gives all four maps.

    Args:
        cls: Its class.
        name: Its name in timm.
        pretrained: Whether published weights are fetched.
        kwargs: Arguments of the class.
    """
    features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(cls, name, pretrained, feature_cfg=features, **kwargs)


def init_linear(module: nn.Module) -> None:
    """Truncated normal of deviation 0.02, bias 0, if `module` is a linear layer."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class Staged:
    """timm's `forward_intermediates` of a network that says how its stages run."""

    feature_info: list[dict[str, Any]]  # one entry per stage

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """What each stage makes of the images `x`, one after the other."""
        raise NotImplementedError

    def stage_map(self, i: int, out: Tensor, norm: bool) -> Tensor:
        """(B, C, h, w) of what stage `i` gave; with the final norm, where there is one, if `norm`."""
        return out

    def features_of(self, outs: Sequence[Tensor]) -> Tensor:
        """What `forward_features` gives, from what the stages gave."""
        raise NotImplementedError

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps (B, C, h, w) of some stages and, before them, the classification features.

        Args:
            x: (B, in_chans, H, W) images.
            indices: which stages; None: all; n: the last n.
            norm: apply the final norm to the last map, where there is one.
            stop_early: run no stage after the last one asked for, if the features are not asked for.
            output_fmt: "NCHW"; anything else raises ValueError.
            intermediates_only: the maps without the features.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"Expected argument `output_fmt` to be 'NCHW', but got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        outs = list(islice(self.stages(x), last + 1 if stop_early and intermediates_only else None))
        maps = [self.stage_map(i, out, norm) for i, out in enumerate(outs) if i in wanted]
        return maps if intermediates_only else (self.features_of(outs), maps)


class StagedClassifier(Staged, nn.Module):
    """A network of stages, the first of stride 4, each other of twice the stride before, with a linear classifier
    `head`, which pools in one way, `pooling`.

    Args:
        embed_dims: Channels of each stage.
        outputs: Name of the modules whose maps are the stages', without their number.
    """

    pooling: str
    num_classes: int
    num_features: int
    head: nn.Module
    grad_checkpointing = False

    def __init__(self, embed_dims: Sequence[int], outputs: str):
        super().__init__()
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"{outputs}{i + 1}"} for i, dim in enumerate(embed_dims)
        ]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for `num_classes` classes (0: none). Raises ValueError for a pooling that there is not."""
        if global_pool not in (None, self.pooling):
            raise ValueError(f"Expected argument `global_pool` to be None or {self.pooling!r}, but got {global_pool!r}")
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(next(self.parameters()).device).train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
