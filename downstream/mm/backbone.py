"""The backbone under the name by which mm configs know it."""

from mmengine.registry import MODELS

from ..backbone import AdaptedBackbone


@MODELS.register_module()  # in the root registry, where mmseg and mmdet both look
class EvalkitTimmBackbone(AdaptedBackbone):
    """`AdaptedBackbone` for mmseg and mmdet."""

    def init_weights(self) -> None:
        """Nothing: mmengine's Runner calls this on every part after the model is built, which would wipe the weights
        that were loaded."""
