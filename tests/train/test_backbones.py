"""Every backbone of the papers takes a training step with a class count of its own."""

import pytest
import torch

from evalkit import models
from evalkit.train import create, train_step
from tests.train.mixups.fakes import context

BACKBONES = {  # real widths, few layers, small images
    "ca_swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (1, 1, 1, 2)}, 56),
    "cait_xxs24_224": ({"img_size": 32, "depth": 2}, 32),
    "convnext_tiny": ({"depths": (1, 1, 1, 1)}, 64),
    "deit_tiny_distilled_patch16_224": ({"img_size": 32, "depth": 2}, 32),
    "deit_tiny_patch16_224": ({"img_size": 32, "depth": 2}, 32),
    "efficientnet_b0": ({}, 32),
    "mobilenetv2_100": ({}, 64),
    "moganet_tiny": ({"depths": (1, 1, 1, 1)}, 32),
    "pvt_tiny": ({}, 32),
    "resnet18": ({}, 64),
    "resnet50": ({"layers": (1, 1, 1, 1)}, 64),
    "resnext50_32x4d": ({"layers": (1, 1, 1, 1)}, 64),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (1, 1, 1, 1)}, 56),
    "xcit_tiny_12_p16_224": ({"depth": 2}, 64),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_one_step(name):
    args, size = BACKBONES[name]
    torch.manual_seed(0)
    net = models.create(name, num_classes=7, **args).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in net.parameters()]
    x, y = torch.randn(4, 3, size, size), torch.tensor([0, 6, 3, 3])
    loss = train_step(context(7), net, create("cutmix"), x, y)
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert any(not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert net.eval()(x).logits.shape == (4, 7)
