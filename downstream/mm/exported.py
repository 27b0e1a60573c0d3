"""The backbone of an export, by which mm's own tools load it. This file goes along, so it imports nothing else."""

from typing import Any

import timm
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from ..adapted import Adapted
from ..maps import for_any_size


@MODELS.register_module()  # in the root registry, where mmseg and mmdet both look
class ExportedTimmBackbone(Adapted):
    """Maps of a timm model for mmseg and mmdet.

    Args:
        model: timm's name of the architecture.
        out_indices: The blocks or stages whose maps are given, from 0.
        img_size: Pixels per side that position embeddings are made for; None: as pre-trained.
        norm: Whether the model's final normalisation is applied to the maps.
        model_args: What the model is built with beside its defaults.
        init_cfg: {"type": "Pretrained", "checkpoint": FILE}; None: nothing is loaded.
        adapted: Of `Maps` and `Adapted`: freeze_statistics, freeze, strides, out_norm.
    """

    def __init__(
        self,
        model: str,
        out_indices: list[int],
        img_size: int | None = None,
        norm: bool = False,
        model_args: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **adapted: Any,
    ):
        given = dict(model_args or {})
        made = for_any_size(lambda **size: timm.create_model(model, num_classes=0, **given | size), img_size)
        super().__init__(made, model, out_indices, norm, **adapted)
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Load what `init_cfg` names. mmengine's Runner calls this on every part after the model is built; timm's own
        would draw new weights."""
        if self.init_cfg:
            load_checkpoint(self, self.init_cfg["checkpoint"], map_location="cpu", strict=True)
