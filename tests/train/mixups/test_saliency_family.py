"""What all saliency methods have in common."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from evalkit.train.mixups.attentive_cutmix import AttentiveCutMix
from evalkit.train.mixups.attentivemix_plus import AttentiveMixPlus
from evalkit.train.mixups.comixup import CoMixup
from evalkit.train.mixups.guidedmixup import GuidedMixup
from evalkit.train.mixups.puzzlemix import PuzzleMix
from evalkit.train.mixups.saliencymix import SaliencyMix
from evalkit.train.mixups.supermix import SuperMix

from .fakes import context
from .saliency_fakes import SaliencyNet, TeacherNet, smooth_images, smooth_saliency

TEACHER = TeacherNet(map=lambda x: x[:, :, ::4, ::4], classify=lambda x: x.mean((2, 3)))
METHODS = {
    "attentive_cutmix": AttentiveCutMix(TEACHER),
    "attentivemix_plus": AttentiveMixPlus(TEACHER),
    "comixup": CoMixup(part=4),
    "guidedmixup": GuidedMixup(),
    "guidedmixup-sr": GuidedMixup("sr"),
    "puzzlemix": PuzzleMix(grids=[8]),
    "puzzlemix-16": PuzzleMix(grids=[16], t_size=4),
    "saliencymix": SaliencyMix(),
    "saliencymix-paper": SaliencyMix(per_sample=True),
    "saliencymix-released": SaliencyMix(saliency="float_compat"),
    "supermix": SuperMix(TEACHER, width=4),
}


def mixed_by(method, x):
    return method.mix(context(3, seed=1), x, torch.arange(len(x)) % 3, SaliencyNet(smooth_saliency(len(x), 32, 1)))


@pytest.mark.parametrize("name", METHODS)
def test_precision_and_layout_of_the_caller_change_nothing(name):
    x = smooth_images(6, 32, 0)
    before, mixed = x.clone(), mixed_by(METHODS[name], x)
    with torch.autocast("cpu", torch.bfloat16):
        automatic = mixed_by(METHODS[name], x)
    for other in (
        automatic,
        mixed_by(METHODS[name], x.to(memory_format=torch.channels_last)),
        mixed_by(METHODS[name], x.repeat(1, 1, 1, 2)[..., :32]),
    ):
        assert torch.equal(other.x, mixed.x) and torch.equal(other.weights, mixed.weights)
    assert (
        torch.equal(x, before)
        and (mixed.weights >= 0).all()
        and torch.allclose(mixed.weights.sum(1), torch.ones(len(mixed.x)))
    )


# which waits for the device, as it says
@pytest.mark.parametrize("name", [name for name in METHODS if name != "supermix"])
def test_nothing_is_read_back_from_the_device(name):
    net = SaliencyNet()
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors without values: reading one raises
        net.map = torch.empty(6, 32, 32)
        mixed = METHODS[name].mix(context(3), torch.empty(6, 3, 32, 32), torch.zeros(6, dtype=torch.int64), net)
        assert mixed.x.shape == (6, 3, 32, 32) and mixed.weights.shape == (6, 6)
