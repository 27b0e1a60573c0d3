"""The feature maps of a timm model for images of any size.

This file, `adapted` and `positions` go along with an export, so they import nothing of evalkit but its errors.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalkit.errors import EvalkitError

from . import positions

PROBE = (64, 96)  # height and width of the image that shows whether a backbone takes any size


def for_any_size(create: Callable[..., Any], img_size: int | None) -> Any:
    """The timm model for images of any size: one that its patches do not divide is padded at the right and at the
    bottom, position embeddings are resampled to its grid (both as mmsegmentation's transformers do).

    Args:
        create: Makes the model, with further arguments of its constructor or without.
        img_size: Pixels per side that position embeddings are made for; None: as pre-trained.
    """
    accepted = {
        arg
        for base in type(create()).__mro__
        if "__init__" in vars(base)
        for arg in inspect.signature(vars(base)["__init__"]).parameters
    }
    size = ({} if img_size is None else {"img_size": img_size}) | {"dynamic_img_size": True, "strict_img_size": False}
    model = create(**{k: v for k, v in size.items() if k in accepted})
    for module in model.modules():
        if hasattr(module, "dynamic_img_pad"):
            module.dynamic_img_pad = True
    positions.resample_everywhere(model)
    return model


class Maps(nn.Module):
    """(B, 3, H, W) normalised images to maps (B, C, h, w) of some blocks; parameters that none of them depends on are
    frozen.

    Args:
        model: A timm model that `for_any_size` made.
        name: Of its architecture, for errors.
        out_indices: The blocks or stages whose maps are given, from 0.
        norm: Whether the model's final normalisation is applied to the maps, as a decoder on the last tokens of a ViT
            needs.
        freeze_statistics: Whether batch normalisation keeps its statistics as they were loaded.
    """

    def __init__(
        self, model: Any, name: str, out_indices: list[int], norm: bool = False, freeze_statistics: bool = False
    ):
        super().__init__()
        self.freeze_statistics = freeze_statistics
        self.out_indices, self.norm = list(out_indices), norm
        self.model = model
        self._freeze_unused(name)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            self.model.forward_intermediates(
                x, indices=self.out_indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
            )
        )

    def train(self, mode: bool = True) -> "Maps":
        super().train(mode)
        for module in self.modules() if self.freeze_statistics else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def _freeze_unused(self, name: str) -> None:
        """Freeze what gets no gradient: DistributedDataParallel would wait for it for ever."""
        mode = self.training
        self.eval()
        try:
            with torch.enable_grad():
                total = sum(m.sum() for m in self(torch.zeros(1, 3, *PROBE)))
        except Exception as e:
            why = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise EvalkitError(
                f"model '{name}' does not take images of any size ({why}), which segmentation and detection need; use a"
                " ViT, DeiT, PVT, Swin or ResNet"
            ) from e
        self.train(mode)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for p, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True)):
            if gradient is None:
                p.requires_grad_(False)
