import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import create, train_step
from evalkit.train.losses import BinaryCrossEntropy
from evalkit.train.mixups.tokenmix import TokenMix

from .fakes import FakeNet, FakeOutput, context, index_images


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def resnet(num_classes=5):
    torch.manual_seed(0)
    return models.create("resnet10_cifar", num_classes=num_classes, channels=(4, 4, 8, 8))


def vit(**arguments):
    torch.manual_seed(1)
    return models.create("vit_nano_patch4_32", num_classes=5, depth=2, **arguments)


def given(maps, tokens, labels=(0, 1), smoothing=0.0, classes=2, **arguments):
    """Two images, tokens of 2 x 2 pixels, the maps from `Context.extras`. (context, mixed batch, method)."""
    maps = torch.tensor(maps)
    method = TokenMix("offline", cell=2, **arguments)
    ctx = context(classes, smoothing=smoothing, draws={"tokens": tokens}, extras={"maps": maps})
    x = index_images(len(maps), *(2 * side for side in maps.shape[1:]), channels=3)
    return ctx, method.mix(ctx, x, torch.tensor(labels), FakeNet(2)), method


A, B = [[0.1, 0.4], [0.3, 0.2]], [[0.25, 0.5], [0.125, 0.125]]


def target_of(ctx, mixed, method, labels, classes):
    """The target that reaches the loss, read with a criterion that returns it."""
    seen = []
    ctx = dataclasses.replace(ctx, criterion=lambda logits, target: seen.append(target) or target.sum())
    method.loss(ctx, mixed.x, torch.tensor(labels), mixed, FakeOutput(torch.zeros(len(labels), classes)), None)
    return seen[0]


@pytest.mark.parametrize("scale", [1.0, 7.0])  # maps are normalised
def test_worked_example(scale):
    ctx, mixed, method = given([[[scale * v for v in row] for row in m] for m in (A, B)], [[1, 0], [1, 1]])
    assert torch.allclose(mixed.weights, torch.tensor([[0.6, 0.5], [0.4, 0.5]]), atol=1e-6)
    assert torch.allclose(target_of(ctx, mixed, method, [0, 1], 2)[0], torch.tensor([0.6, 0.5]), atol=1e-6)
    assert mixed.x[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert mixed.x[1, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_smoothing_is_split_between_both_labels():
    classes, e = 4, 0.1
    ctx, mixed, method = given([A, B], [[1, 0], [1, 1]], labels=(0, 3), smoothing=e, classes=classes)
    off = e / (2 * classes)
    expected = torch.full((2, classes), 2 * off)
    for i, (label, other, own_share, other_share) in enumerate([(0, 3, 0.6, 0.5), (3, 0, 0.5, 0.4)]):
        expected[i, label] = (own_share - e / 2 + off) + off
        expected[i, other] = (other_share - e / 2 + off) + off
    target = target_of(ctx, mixed, method, [0, 3], classes)
    assert torch.allclose(target, expected, atol=1e-6)
    assert torch.allclose(target.sum(1), torch.tensor([1.1, 0.9]), atol=1e-6)  # s_A + s_B


def test_equal_labels_add_up():
    ctx, mixed, method = given([A, B], [[1, 0], [1, 1]], labels=(2, 2), smoothing=0.1, classes=4)
    target = target_of(ctx, mixed, method, [2, 2], 4)
    assert torch.allclose(target[0], torch.tensor([0.025, 0.025, 1.1 - 0.1 + 0.025, 0.025]), atol=1e-6)


@pytest.mark.parametrize("clamp", [True, False])
def test_shares_smaller_than_the_smoothing(clamp):
    maps = [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]
    # all of A, nothing of B
    ctx, mixed, method = given(maps, [[1, 0], [1, 1]], labels=(0, 3), smoothing=0.2, classes=4, clamp=clamp)
    own, off = 1 - 0.1 + 0.025, 0.025
    other = 0.0 if clamp else -0.1 + 0.025
    assert torch.allclose(
        target_of(ctx, mixed, method, [0, 3], 4)[0], torch.tensor([own + off, 2 * off, 2 * off, other + off]), atol=1e-6
    )


def test_even_maps_give_the_shares_of_the_tokens():
    tokens = [[1, 0, 0], [1, 1, 0]]
    # even, and nothing to go by
    for maps in ([[[2.0] * 3] * 2] * 2, [[[0.0] * 3] * 2] * 2, [[[3e-7, 0, 0], [0, 0, 0]]] * 2):
        _, mixed, _ = given(maps, tokens)
        assert torch.allclose(mixed.weights, torch.full((2, 2), 0.5), atol=1e-6)
    method = TokenMix("area", cell=2)
    mixed = method.mix(
        context(draws={"tokens": [[1, 0, 0], [0, 0, 0]]}), index_images(2, 4, 6, 3), torch.arange(2), FakeNet(2)
    )
    assert torch.allclose(mixed.weights, torch.tensor([[1 / 6, 5 / 6], [5 / 6, 1 / 6]]), atol=1e-6)


def test_each_image_falls_back_for_itself():
    _, mixed, _ = given([A, [[0.0, 0.0], [0.0, 0.0]]], [[1, 0], [1, 1]])
    # B has no scores: 1 of 4 tokens is pasted, 3 of 4 are own
    assert torch.allclose(mixed.weights, torch.tensor([[0.6, 0.25], [0.4, 0.75]]), atol=1e-6)


def test_complementary_masks_swap_what_counts():
    tokens = torch.tensor([[1, 0], [0, 1]])
    one, other = given([A, B], tokens.numpy())[1].weights, given([A, B], (1 - tokens).numpy())[1].weights
    assert torch.allclose(one + other, torch.ones(2, 2), atol=1e-6)


# ---- masks


@pytest.mark.parametrize("mask", ["block", "random"])
def test_counts_on_the_published_grid(mask):
    method, counts, grids = TokenMix("area", mask=mask), [], []
    for seed in range(400):
        own = method.tokens(context(seed=seed), (14, 14))
        counts.append((~own).sum())
        grids.append(~own)
    assert (
        max(counts) == 112
        and np.mean(np.array(counts) == 112) >= (1 if mask == "random" else 0.95)
        and min(counts) >= 98
    )
    if mask == "random":
        assert np.abs(np.mean(grids, 0) - 112 / 196).max() < 4.5 * (0.25 / 400) ** 0.5
    drawn = {
        int((~TokenMix("area", mask="random", lam_const=None).tokens(context(seed=s), (14, 14))).sum())
        for s in range(50)
    }
    assert len(drawn) > 30 and min(drawn) >= 14 and max(drawn) <= 196
    assert (~TokenMix("area", mask="random", min_tokens=3, lam_const=0.25).tokens(context(), (4, 5))).sum() == 15 + 3


def test_tokens_come_whole_from_one_image():
    x = index_images(4, 224, 224, 3)
    method = TokenMix("area", cell=16)
    mixed = method.mix(context(), x, torch.arange(4), FakeNet(16))
    tokens = mixed.x.unfold(2, 16, 16).unfold(3, 16, 16).flatten(4)
    assert torch.equal(tokens.amin(4), tokens.amax(4))
    assert torch.equal(mixed.partner, torch.arange(4).flip(0)) and mixed.mask.mean().item() * 196 == pytest.approx(
        196 - 112, abs=4
    )


# ---- teachers


def test_the_class_activation_map_of_a_teacher():
    net, teacher = vit().eval(), resnet().eval()
    with torch.no_grad():
        teacher.model.fc.weight.mul_(50)  # so that some of each map is above 0
    method = TokenMix(network=teacher)
    method.setup(net)
    x, y = images(3, 3, 32, 32), torch.tensor([4, 0, 2])
    ctx = context()
    features = teacher.feature_map(x)
    maps = torch.stack(
        [
            F.conv2d(f[None], teacher.model.fc.weight[k][None, :, None, None], teacher.model.fc.bias[k][None])[0, 0]
            for f, k in zip(features, y)
        ]
    )
    expected = F.interpolate(maps.relu()[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(method.scores(ctx, x, y, net, (8, 8)), expected, atol=1e-5)
    mixed = method.mix(ctx, x, y, net)
    a = expected / (expected.sum((1, 2), keepdim=True) + 1e-8)
    own = mixed.mask[0, 0, ::4, ::4]
    assert (expected.sum((1, 2)) > 0.1).all() and (expected == 0).any()
    for i, j in enumerate([2, 1, 0]):
        if i != j:
            assert mixed.weights[i, i].item() == pytest.approx((a[i] * own).sum().item(), abs=1e-5)
            assert mixed.weights[i, j].item() == pytest.approx((a[j] * (1 - own)).sum().item(), abs=1e-5)
    assert not mixed.weights.requires_grad and mixed.weights[1, 1].item() == pytest.approx(1, abs=1e-5)


def test_the_class_attention_of_a_teacher_or_of_the_network_itself():
    net, x, y = vit().train(), images(2, 3, 32, 32), torch.arange(2)
    with torch.no_grad():
        expected = net.eval().class_attention(x)[0].view(2, 8, 8)
    net.train()
    for method in (TokenMix("attn", network=vit()), TokenMix("self")):
        method.setup(net)
        assert torch.allclose(method.scores(context(), x, y, net, (8, 8)), expected, atol=1e-6)
        assert all(m.training for m in net.modules())
    student = resnet()
    method = TokenMix("self", cell=4)
    method.setup(student)
    teacher = TokenMix("cam", network=resnet(), cell=4)
    teacher.setup(student)
    assert torch.allclose(
        method.scores(context(), x, y, student, (8, 8)), teacher.scores(context(), x, y, student, (8, 8)), atol=1e-6
    )
    assert all(m.training for m in student.modules())


def test_a_teacher_from_a_weights_file_is_in_no_checkpoint(tmp_path):
    torch.save(models.create("resnet10_cifar", num_classes=5).model.state_dict(), tmp_path / "teacher.pth")
    method = create("tokenmix", network=str(tmp_path / "teacher.pth"), network_model="resnet10_cifar")
    method.setup(vit())
    digest = hashlib.sha256((tmp_path / "teacher.pth").read_bytes()).hexdigest()
    assert method.teacher.sha256 == digest and not method.state_dict() and not list(method.parameters())


def test_a_training_step_with_binary_cross_entropy():
    net, x, y = vit(), images(4, 3, 32, 32), torch.tensor([0, 1, 1, 4])
    method = TokenMix("self")
    method.setup(net)
    ctx = dataclasses.replace(context(smoothing=0.1), criterion=BinaryCrossEntropy(None, "mean"))
    loss = train_step(ctx, net, method, x, y)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in net.parameters())


def test_presets():
    default, released = create("tokenmix"), create("tokenmix", "released")
    assert (default.kind, default.clamp, released.kind, released.clamp) == ("cam", True, "offline", False)
    assert (default.mask, default.lam_const, default.min_tokens, default.pairing) == ("block", 0.5, None, "flip")


def test_errors(tmp_path):
    net = vit()
    for method, message in [
        (
            TokenMix(network=resnet(7)),
            "tokenmix needs a teacher of the same 5 classes, but this one has 7; give another network=",
        ),
        (TokenMix(network=vit()), "tokenmix needs a linear classifier on the mean of a feature map"),
        (TokenMix("attn", network=resnet()), "no class attention"),
        (TokenMix("offline"), "reads maps from a folder, and none is not one; give maps=DIR"),
        (TokenMix("offline", maps=str(tmp_path / "nowhere")), "nowhere is not one; give maps=DIR"),
    ]:
        with pytest.raises(EvalkitError, match=message):
            method.setup(net)
    with pytest.raises(
        EvalkitError,
        match="this model has no patches for the mask's tokens; give tokenmix their side in pixels, e.g. cell=16",
    ):
        TokenMix("area").setup(resnet())
    with pytest.raises(EvalkitError, match="put method.loader_extras"):
        TokenMix("offline", cell=2).mix(context(), images(2, 3, 4, 4), torch.arange(2), net)
    with pytest.raises(EvalkitError, match="tokens of 16 pixels are larger than the image, 8 x 32"):
        TokenMix("area", cell=16).mix(context(), images(2, 3, 8, 32), torch.arange(2), net)
    for wrong, message in [
        ({"teacher": "camm"}, "`teacher` to be 'cam', 'attn', 'self', 'area' or 'offline', but got 'camm'"),
        ({"mask": "blocks"}, "`mask` to be 'block' or 'random'"),
        ({"lam_const": 2}, "`lam_const` to be a number from 0 to 1, or none"),
        ({"min_tokens": -1}, "`min_tokens`"),
        ({"cell": 0}, "`cell`"),
        ({"clamp": 1}, "`clamp`"),
    ]:
        with pytest.raises(ValueError, match=message):
            TokenMix(**wrong)


DIFFERS = """
the default teacher, a class activation map instead of maps made beforehand
= ::test_the_class_activation_map_of_a_teacher | ::test_presets
`clamp`
= ::test_shares_smaller_than_the_smoothing
the preset "released" sets both as there.
= ::test_presets | golden:tokenmix
"""
