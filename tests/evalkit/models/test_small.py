import pytest
import timm
import torch
from torch import nn

from evalkit.models import create


@pytest.mark.parametrize(
    ("name", "thousands"),
    [("vit_nano_patch4_32", 208), ("pvt_nano", 537), ("resnet10_cifar", 318), ("resnet18_cifar", 11174)],
)
def test_presets_are_timm_models_for_32_pixels(name, thousands):
    model = timm.create_model(name, num_classes=10).eval()
    assert round(sum(p.numel() for p in model.parameters()) / 1e3) == thousands
    cfg = timm.data.resolve_data_config(model=model)
    assert (
        cfg["input_size"] == (3, 32, 32)
        and cfg["mean"] == (0.485, 0.456, 0.406)
        and cfg["std"] == (0.229, 0.224, 0.225)
    )
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_vit_nano_geometry():
    net = create("vit_nano_patch4_32", num_classes=10)
    out = net(torch.randn(1, 3, 32, 32), attention=True)
    assert out.grid == (8, 8) and len(net.model.blocks) == 4 and net.model.blocks[0].attn.num_heads == 4


def test_pvt_nano_is_a_pvt_whose_maps_have_strides_4_to_32():
    net = create("pvt_nano", num_classes=10).eval()
    maps = net.model.forward_intermediates(torch.randn(1, 3, 64, 96), intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 16, 24), (64, 8, 12), (96, 4, 6), (128, 2, 3)]
    assert [(i["num_chs"], i["reduction"]) for i in net.model.feature_info] == [(32, 4), (64, 8), (96, 16), (128, 32)]
    assert net(torch.randn(1, 3, 64, 64), attention=True).grid == (2, 2)


def test_cifar_stem_keeps_the_resolution():
    model = timm.create_model("resnet18_cifar", num_classes=10).eval()
    stem = model.conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert isinstance(model.maxpool, nn.Identity)
    maps = model.forward_intermediates(torch.randn(1, 3, 32, 32), intermediates_only=True)
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4]
    assert [i["reduction"] for i in model.feature_info] == [1, 1, 2, 4, 8]
    # everything but the stem is timm's ResNet-18, so its weights fit there
    other = timm.create_model("resnet18", num_classes=10).state_dict()
    assert {k for k, v in model.state_dict().items() if other[k].shape != v.shape} == {"conv1.weight"}
