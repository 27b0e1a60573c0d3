import numpy as np
import pytest
import torch
from torch import nn

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import train_step
from evalkit.train.mixups import snapmix
from evalkit.train.mixups.parts.cam import check_linear_classifier, class_activation
from evalkit.train.mixups.snapmix import SnapMix, semantic_map

from .fakes import FakeNet, context

SWIN = {"depths": (1, 1, 1, 1), "img_size": 64, "window_size": 2, "embed_dim": 12}


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def resnet(**arguments):
    torch.manual_seed(0)
    return models.create("resnet10_cifar", num_classes=3, channels=(4, 4, 8, 8), **arguments)


def bilinear(image, size, corners):
    """(h, w) to size, written from the definition: `corners` keeps the corner pixels' centres in place, else the
    borders."""
    image = np.asarray(image, dtype=np.float64)

    def at(i, n, m):
        place = i * (m - 1) / max(n - 1, 1) if corners else min(max((i + 0.5) * m / n - 0.5, 0), m - 1)
        low = min(int(place), m - 1)
        return low, min(low + 1, m - 1), place - low

    out = np.empty(size)
    for r in range(size[0]):
        for c in range(size[1]):
            r0, r1, fr = at(r, size[0], image.shape[0])
            c0, c1, fc = at(c, size[1], image.shape[1])
            top, bottom = (1 - fc) * image[r0, c0] + fc * image[r0, c1], (1 - fc) * image[r1, c0] + fc * image[r1, c1]
            out[r, c] = (1 - fr) * top + fr * bottom
    return out


def planted(monkeypatch, maps):
    monkeypatch.setattr(snapmix, "class_activation", lambda net, x, y, positive: maps)


# ---- class activation maps


@pytest.mark.parametrize(("name", "size"), [("resnet10_cifar", 32), ("swin", 64)])
def test_the_mean_of_a_class_activation_map_is_the_logit(name, size):
    torch.manual_seed(0)
    net = (models.create("swin_tiny_patch4_window7_224", num_classes=3, **SWIN) if name == "swin" else resnet()).train()
    check_linear_classifier(net, "snapmix")
    x, y = images(4, 3, size, size), torch.tensor([2, 0, 1, 1])
    modes = [m.training for m in net.modules()]
    maps = class_activation(net, x, y)
    assert [m.training for m in net.modules()] == modes and not maps.requires_grad
    net.eval()
    with torch.no_grad():
        assert torch.allclose(maps.mean((1, 2)), net(x).logits.gather(1, y[:, None])[:, 0], atol=1e-5)
    assert maps.shape == ((4, 4, 4) if name == "resnet10_cifar" else (4, 2, 2))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_nano_patch4_32", {"depth": 1}),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}),
        ("resnet10_cifar", {"global_pool": "max"}),
        ("mobilenetv3_small_050", {}),
    ],
)
def test_other_heads_are_refused(name, arguments):
    with pytest.raises(
        EvalkitError,
        match=f"snapmix needs a linear classifier on the mean of a feature map, which '{name}' does not have",
    ):
        SnapMix().setup(models.create(name, num_classes=3, **arguments))


# ---- shares


@pytest.mark.parametrize(
    ("preset", "labels"),
    [("default", [0, 1, 2]), ("released", [0, 1, 2]), ("default", [1, 1, 2]), ("released", [1, 1, 2])],
)
def test_shares_pixel_by_pixel(preset, labels, monkeypatch):
    cam = images(3, 3, 3, seed=1)
    planted(monkeypatch, cam)
    target, source, partner, y = (1, 6, 2, 7), (3, 8, 0, 4), [1, 0, 2], torch.tensor(labels)
    method = SnapMix(**SnapMix.PRESETS[preset])
    x = images(3, 3, 8, 8)
    mixed = method.mix(context(draws={"box": [target, source], "partner": partner}), x, y, FakeNet())
    expected = np.zeros((3, 3))
    spm = []
    for i in range(3):
        pixels = bilinear(cam[i], (8, 8), corners=False)
        pixels -= pixels.min()
        spm.append(pixels / pixels.sum())
    for i, j in enumerate(partner):
        own = 1 - sum(spm[i][r, c] for r in range(1, 6) for c in range(2, 7))
        other = sum(spm[j][r, c] for r in range(3, 8) for c in range(0, 4))
        if preset == "released" and labels[i] == labels[j]:
            own, other = own + other, own + other
        expected[i, i] += own
        expected[i, j] += other
    assert torch.allclose(mixed.weights.double(), torch.from_numpy(expected), atol=1e-6)
    for i, j in enumerate(partner):
        for channel in range(3):
            pasted = bilinear(x[j, channel, 3:8, 0:4], (5, 5), corners=True)
            assert np.allclose(mixed.x[i, channel, 1:6, 2:7], pasted, atol=1e-5)
    outside = mixed.mask.expand(-1, 3, -1, -1) > 0
    assert (
        torch.equal(mixed.x[outside], x[outside])
        and (mixed.mask == 0).sum() == 3 * 25
        and not mixed.mask[:, 0, 1:6, 2:7].any()
    )


def test_negative_features_are_left_out():
    torch.manual_seed(0)
    net, x = models.create("swin_tiny_patch4_window7_224", num_classes=3, **SWIN).eval(), images(3, 3, 64, 64)
    target, source, partner, y = (0, 40, 8, 64), (24, 64, 0, 32), [1, 2, 0], torch.tensor([2, 0, 1])
    mixed = SnapMix().mix(context(3, draws={"box": [target, source], "partner": partner}), x, y, net)
    with torch.no_grad():
        features = net.model.forward_features(x)  # (3, 2, 2, D)
    assert (features < -0.5).any()
    head = net.model.get_classifier()
    for i, j in enumerate(partner):
        shares = []
        for k, (y0, y1, x0, x1) in ((i, target), (j, source)):
            cam = (features[k].clamp(min=0) * head.weight[y[k]]).sum(-1) + head.bias[y[k]]
            pixels = bilinear(cam.detach(), (64, 64), corners=False)
            pixels -= pixels.min()
            shares.append(pixels[y0:y1, x0:x1].sum() / pixels.sum())
        assert mixed.weights[i, i].item() == pytest.approx(1 - shares[0], abs=2e-5)
        assert mixed.weights[i, j].item() == pytest.approx(shares[1], abs=2e-5)


def test_the_loss_of_both_rules():
    net, x = resnet().eval(), images(2, 3, 16, 16)
    ctx = context(3, smoothing=0.1, draws={"box": [(0, 8, 0, 8), (4, 16, 4, 12)], "partner": [1, 0]})
    for labels in ([0, 2], [1, 1]):
        y = torch.tensor(labels)
        losses = []
        for rule in ("sum_once", "official"):
            method = SnapMix(same_label=rule)
            mixed = SnapMix().mix(ctx, x, y, net)
            own, other = mixed.weights.diagonal(), mixed.weights.flip(1).diagonal()
            log_p = net(mixed.x).logits.log_softmax(1)
            ce = [-(ctx.target(label) * log_p).sum(1) for label in (y, y.flip(0))]
            expected = (own * ce[0] + other * ce[1]).mean()
            if rule == "official" and labels[0] == labels[1]:
                expected = ((own + other) * ce[0] + (own + other) * ce[1]).mean()
            losses.append(train_step(ctx, net, method, x, y).item())
            assert losses[-1] == pytest.approx(expected.item(), rel=1e-5)
        assert losses[1] == pytest.approx(losses[0] * (2 if labels[0] == labels[1] else 1), rel=1e-5)


def test_a_map_that_is_the_same_everywhere_gives_the_share_of_pixels():
    net, x = resnet(), images(4, 3, 16, 16)
    nn.init.zeros_(net.model.fc.weight)
    nn.init.constant_(net.model.fc.bias, 0.3)
    ctx = context(draws={"box": [(0, 8, 0, 8), (4, 16, 4, 12)], "partner": [1, 2, 3, 0]})
    for rule in ("sum_once", "official"):
        mixed = SnapMix(same_label=rule).mix(ctx, x, torch.tensor([0, 0, 1, 2]), net)
        assert torch.equal(mixed.weights, 0.75 * torch.eye(4) + 0.25 * torch.eye(4)[[1, 2, 3, 0]])


def test_the_maps_are_taken_in_evaluation_mode():
    net, x, y = resnet(drop_rate=0.5).train(), images(3, 3, 16, 16), torch.tensor([0, 1, 2])
    with torch.no_grad():
        net(x)  # running statistics that are neither the initial ones nor this batch's
    ctx = context(draws={"box": [(0, 8, 0, 8), (4, 16, 4, 12)], "partner": [1, 2, 0]})
    training = SnapMix().mix(ctx, x, y, net).weights
    assert net.training and torch.equal(training, SnapMix().mix(ctx, x, y, net.eval()).weights)


def test_an_even_map_gives_the_shares_of_both_boxes(monkeypatch):
    cam = torch.ones(2, 64, 64)
    cam[:, 63, 63] = 1 - 1e-3  # a single dark pixel, so that there is a smallest one
    planted(monkeypatch, cam)
    mixed = SnapMix().mix(
        context(draws={"box": [(0, 16, 0, 32), (8, 40, 16, 48)], "partner": [1, 0]}),
        images(2, 3, 64, 64),
        torch.arange(2),
        FakeNet(),
    )
    assert torch.allclose(mixed.weights, torch.tensor([[0.875, 0.25], [0.25, 0.875]]), atol=1e-3)


def test_a_semantic_map_is_a_distribution():
    maps = semantic_map(images(5, 4, 6), (20, 30))
    assert (
        torch.allclose(maps.sum((1, 2)), torch.ones(5), atol=1e-5)
        and (maps >= 0).all()
        and torch.equal(maps.amin((1, 2)), torch.zeros(5))
    )
    assert semantic_map(torch.full((1, 3, 3), 0.1), (224, 224)).isnan().all()


@pytest.mark.parametrize("box", [[(0, 0, 0, 8), (0, 8, 0, 8)], [(0, 8, 0, 8), (3, 3, 2, 2)]])
def test_an_empty_box_leaves_the_batch_alone(box):
    x = images(3, 3, 8, 8)
    mixed = SnapMix().mix(context(draws={"box": box}), x, torch.arange(3), FakeNet())
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3))


def test_the_boxes_are_those_of_cutmix():
    """From the draws, by CutMix's own formula."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lam, centre = rng.beta(5, 5, size=2), rng.integers((20, 33), size=(2, 2))
        for box, share, (row, column) in zip(SnapMix().boxes(context(seed=seed), 20, 33), lam, centre, strict=True):
            cut = [int(side * np.sqrt(1 - share)) for side in (20, 33)]
            assert box[:2] == (max(row - cut[0] // 2, 0), min(row + cut[0] // 2, 20))
            assert box[2:] == (max(column - cut[1] // 2, 0), min(column + cut[1] // 2, 33))
    assert SnapMix(alpha=0).boxes(context(), 20, 20)[0][0] == SnapMix(alpha=0).boxes(context(), 20, 20)[0][1]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`same_label` to be 'sum_once' or 'official', but got 'twice'"):
        SnapMix(same_label="twice")
    assert SnapMix(**SnapMix.PRESETS["released"]).same_label == "official"


DIFFERS = """
`same_label`, which the preset "released" sets
= ::test_shares_pixel_by_pixel | golden:snapmix
the evaluation mode of the CAM's pass
= ::test_the_maps_are_taken_in_evaluation_mode
applying to every batch: a smaller probability is a choice with vanilla
= test_choice.py::test_a_smaller_probability_is_a_choice_with_vanilla
"""
