import pytest
import torch

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train.mixups.attentive_cutmix import AttentiveCutMix

from .fakes import FakeNet, context, index_images, own_share, own_weight
from .saliency_fakes import TeacherNet, smooth_images

PLANTED, APART = torch.rand(2, 4, 7, 7, generator=torch.Generator().manual_seed(0))


def planted(x):
    """(B, 2, 7, 7) whose channel mean is PLANTED, and neither channel's order of cells."""
    return torch.stack([PLANTED - 5 * APART, PLANTED + 5 * APART], 1)[: len(x)]


@pytest.mark.parametrize("size", [(224, 224), (28, 42), (32, 40)])
def test_the_cells_of_largest_attention_are_shown(size):
    method = AttentiveCutMix(TeacherNet(planted), top=6)
    method.setup(FakeNet())
    x, partner = index_images(4, *size, channels=3), [1, 2, 3, 0]
    mixed = method.mix(context(draws={"partner": partner}), x, torch.arange(4), FakeNet())
    for i in range(4):
        best = set(PLANTED[i].flatten().argsort(descending=True)[:6].tolist())
        for r in range(size[0]):
            row = r * 7 // size[0]
            expected = [i if 7 * row + c * 7 // size[1] in best else partner[i] for c in range(size[1])]
            assert mixed.x[i, 0, r].tolist() == expected
    assert torch.allclose(own_weight(mixed.weights), own_share(mixed.x).float(), atol=1e-6)
    if size == (224, 224):
        assert own_weight(mixed.weights).tolist() == pytest.approx([6 / 49] * 4)


def test_the_teacher_sees_images_of_its_size():
    teacher = TeacherNet(planted)
    x = torch.rand(2, 3, 20, 24)
    AttentiveCutMix(teacher).mix(context(), x, torch.arange(2), FakeNet())
    AttentiveCutMix(teacher).mix(context(), torch.rand(2, 3, 28, 28), torch.arange(2), FakeNet())
    assert [tuple(s.shape) for s in teacher.seen] == [(2, 3, 28, 28)] * 2


@pytest.mark.parametrize("batch", [1, 3])
def test_half_precision_and_one_image(batch):
    x = smooth_images(batch, 32, 0).bfloat16()
    before = x.clone()
    mixed = AttentiveCutMix(TeacherNet(planted)).mix(context(), x, torch.arange(batch), FakeNet())
    assert torch.equal(x, before) and mixed.x.dtype == torch.bfloat16
    assert torch.equal(mixed.x, torch.where(mixed.mask > 0, x, x[mixed.partner]))
    assert torch.allclose(mixed.weights.sum(1), torch.ones(batch))
    if batch == 1:
        assert torch.equal(mixed.x, x) and mixed.weights.tolist() == [[1.0]]


def test_a_network_as_teacher():
    torch.manual_seed(0)
    method = AttentiveCutMix(models.create("resnet10_cifar", num_classes=3), top=2)
    x = smooth_images(3, 32, 0)
    mixed = method.mix(context(), x, torch.arange(3), FakeNet())
    cells = method.attended(context(), x).flatten(1)
    assert mixed.mask.mean((1, 2, 3)).tolist() == pytest.approx([2 / cells.shape[1]] * 3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Expected argument `top` to be a whole number larger than 0, but got 0"):
        AttentiveCutMix(top=0)
    with pytest.raises(EvalkitError, match="pastes 50 cells, but the teacher's feature map has only 49"):
        AttentiveCutMix(TeacherNet(planted), top=50).mix(
            context(), torch.rand(2, 3, 28, 28), torch.arange(2), FakeNet()
        )


DIFFERS = """
nothing known: there is no official code.
= ::test_the_cells_of_largest_attention_are_shown | read: arXiv:2003.13048, no repository is named
"""
