"""Architectures for 32-px images, registered with timm: a tiny ViT, a tiny PVT, and ResNets with the CIFAR stem."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from .common import build_staged, config
from .pvt import PyramidVisionTransformer
from .pvt import checkpoint_filter_fn as pvt_filter_fn


class CifarResNet(ResNet):
    """ResNet whose stem is one 3x3 convolution of stride 1 without pooling (He et al., CVPR 2016, section 4.2): strides
    1, 2, 4, 8.

    Args:
        args: As timm's ResNet takes them.
        kwargs: As timm's ResNet takes them.
    """

    conv1: Any
    maxpool: Any
    feature_info: list[dict[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        conv1 = nn.Conv2d(
            self.conv1.in_channels, self.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False
        )
        nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")
        self.conv1, self.maxpool = conv1, nn.Identity()
        self.feature_info = [info | {"reduction": max(1, info["reduction"] // 4)} for info in self.feature_info]


def _cfg(**own: Any) -> dict[str, Any]:
    return config(input_size=(3, 32, 32), crop_pct=1.0, **own)


default_cfgs = generate_default_cfgs(
    {
        "vit_nano_patch4_32": _cfg(
            first_conv="patch_embed.proj",
            fixed_input_size=True,
        ),
        "pvt_nano": _cfg(first_conv="patch_embed1.proj"),
        "resnet10_cifar": _cfg(first_conv="conv1", classifier="fc", pool_size=(4, 4)),
        "resnet18_cifar": _cfg(first_conv="conv1", classifier="fc", pool_size=(4, 4)),
        "resnext50_32x4d_cifar": _cfg(first_conv="conv1", classifier="fc", pool_size=(4, 4)),
    }
)


@register_model
def vit_nano_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """ViT of width 64, depth 4, 4 heads on 4-px patches: 0.2 M parameters.

    Args:
        pretrained: Must be False: there are no published weights.
        kwargs: Arguments of the class.
    """
    args: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4} | kwargs
    features = {"out_indices": 3, "feature_cls": "getter"}
    return build_model_with_cfg(
        VisionTransformer,
        "vit_nano_patch4_32",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=features,
        **args,
    )


@register_model
def pvt_nano(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT of widths 32 to 128, one block per stage: 0.5 M parameters; keys are reduced 4 and 2 times in its first
    stages, whose maps are small.

    Args:
        pretrained: Must be False: there are no published weights.
        kwargs: Arguments of the class.
    """
    args: dict[str, Any] = {
        "depths": (1, 1, 1, 1),
        "embed_dims": (32, 64, 96, 128),
        "num_heads": (1, 2, 3, 4),
        "reductions": (4, 2, 1, 1),
        "img_size": 32,
    } | kwargs
    return build_staged(PyramidVisionTransformer, "pvt_nano", pretrained, pretrained_filter_fn=pvt_filter_fn, **args)


@register_model
def resnet10_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """One narrow block per stage (16 to 128 channels): 0.3 M parameters.

    Args:
        pretrained: Must be False: there are no published weights.
        kwargs: Arguments of the class.
    """
    args: dict[str, Any] = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)} | kwargs
    return build_model_with_cfg(CifarResNet, "resnet10_cifar", pretrained, **args)


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-18 for 32-px images: 11.2 M parameters.

    Args:
        pretrained: Must be False: there are no published weights.
        kwargs: Arguments of the class.
    """
    args: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2)} | kwargs
    return build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, **args)


@register_model
def resnext50_32x4d_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNeXt-50 (32x4d) for 32-px images: 23.0 M parameters.

    Args:
        pretrained: Must be False: there are no published weights.
        kwargs: Arguments of the class.
    """
    args: dict[str, Any] = {"block": Bottleneck, "layers": (3, 4, 6, 3), "cardinality": 32, "base_width": 4} | kwargs
    return build_model_with_cfg(CifarResNet, "resnext50_32x4d_cifar", pretrained, **args)
