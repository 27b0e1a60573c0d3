import json

import pytest
import torch
from torch import nn

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train.mixups.parts.teacher import Teacher

from ..fakes import context
from ..saliency_fakes import TeacherNet


def test_a_teacher_sees_its_own_normalisation():
    pixels = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    ctx = context()
    seen = Teacher(TeacherNet()).view(ctx, (pixels - ctx.mean[:, None, None]) / ctx.std[:, None, None])
    assert torch.allclose(seen, (pixels - 0.5) / 0.25, atol=1e-6)
    assert Teacher(TeacherNet()).view(ctx, pixels.bfloat16()).dtype == torch.float32


def test_a_teacher_is_frozen_and_outside_the_module_tree():
    class Method(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = Teacher(TeacherNet().train())

    method = Method()
    network = method.teacher.load()
    assert network is method.teacher.load() and not network.training and not network.weight.requires_grad
    assert not list(method.parameters()) and not method.state_dict() and len(list(method.modules())) == 1


def test_a_teacher_from_a_weights_file(tmp_path):
    torch.manual_seed(0)
    net = models.create("resnet10_cifar", num_classes=3)
    torch.save(net.model.state_dict(), tmp_path / "teacher.pth")
    teacher = Teacher(str(tmp_path / "teacher.pth"), "resnet10_cifar")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(teacher.on(x)(x).logits, net.eval()(x).logits, atol=1e-6)
    assert len(teacher.sha256) == 64 and json.dumps(teacher.sha256)


def test_a_teacher_that_does_not_exist():
    with pytest.raises(EvalkitError):
        Teacher("resnet5o").load()
