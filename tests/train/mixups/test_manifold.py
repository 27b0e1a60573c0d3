import re

import numpy as np
import pytest
import timm
import torch
from scipy import stats
from torch import nn

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.train import create, train_step
from evalkit.train.mixups.manifold import ManifoldMixup, early_layers

from .fakes import context


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_network():
    """Affine from end to end: wherever it is mixed, the logits are those of the mixed image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, 2), nn.Flatten(), nn.Linear(5 * 4 * 4, 6))
    model.num_classes = 6
    return Network(model, "affine")


def test_layer_zero_is_mixup_bit_for_bit():
    x, y, net = images(5, 3, 11, 12), torch.arange(5), linear_network()
    for seed in range(10):
        draws = {"layer": 0, "lam": np.random.default_rng(seed).random(), "partner": [3, 1, 0, 4, 2]}
        ours = ManifoldMixup(layers=["input", "0"]).mix(context(draws=draws), x, y, net)
        theirs = create("mixup").mix(context(draws=draws), x, y, net)
        assert (
            torch.equal(ours.x, theirs.x)
            and torch.equal(ours.weights, theirs.weights)
            and torch.equal(ours.mask, theirs.mask)
        )
        assert ours.inject is None


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_linear_network_cannot_tell_where_it_is_mixed(layer):
    x, y, net = images(4, 3, 11, 11), torch.tensor([0, 1, 5, 5]), linear_network()
    method = ManifoldMixup(layers=["input", "0", "1"])
    ctx = context(6, draws={"layer": layer, "lam": 0.3, "partner": [2, 3, 1, 0]})
    mixed = method.mix(ctx, x, y, net)
    logits = net(mixed.x, inject=mixed.inject).logits
    plain = net(0.3 * x + 0.7 * x[[2, 3, 1, 0]]).logits
    assert torch.allclose(logits, plain, atol=1e-5) and not torch.allclose(logits, net(x).logits, atol=1e-2)
    log_p, expected = plain.log_softmax(1), 0.0
    for i, j in enumerate([2, 3, 1, 0]):
        expected -= (0.3 * log_p[i, y[i]] + 0.7 * log_p[i, y[j]]) / 4
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_features_are_mixed_at_that_layer():
    """Against the network cut in two by hand."""
    torch.manual_seed(1)
    net, x = models.create("resnet10_cifar", num_classes=5).eval(), images(4, 3, 32, 32)
    method = ManifoldMixup()
    method.setup(net)
    assert method.inject_layers == ["input", "layer1", "layer2"]
    mixed = method.mix(context(draws={"layer": 2, "lam": 0.4, "partner": [1, 2, 3, 0]}), x, torch.arange(4), net)
    model = net.model
    h = model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x))))))
    h = 0.4 * h + 0.6 * h[[1, 2, 3, 0]]
    expected = model.forward_head(model.layer4(model.layer3(h)))
    assert torch.equal(mixed.x, x) and mixed.mask is None and mixed.inject[0] == "layer2"
    assert torch.allclose(net(mixed.x, inject=mixed.inject).logits, expected, atol=1e-5)


def test_the_stages_of_moganet():
    """Two of its stages, each with the norm that ends it: cut by hand, the logits are the same."""
    torch.manual_seed(1)
    net, x = models.create("moganet_tiny", num_classes=5).eval(), images(3, 3, 32, 32)
    method = ManifoldMixup()
    method.setup(net)
    assert method.inject_layers == ["input", "norm1", "norm2"]
    mixed = method.mix(context(draws={"layer": 1, "lam": 0.4, "partner": [1, 2, 0]}), x, torch.arange(3), net)
    model, h = net.model, x
    with torch.no_grad():
        for stage in range(1, 5):
            h = getattr(model, f"patch_embed{stage}")(h)
            for block in getattr(model, f"blocks{stage}"):
                h = block(h)
            h = getattr(model, f"norm{stage}")(h)
            if stage == 1:
                h = 0.4 * h + 0.6 * h[[1, 2, 0]]
        assert torch.allclose(net(x, inject=mixed.inject).logits, model.forward_head(h), atol=1e-5)


def test_a_layer_of_several_tensors_is_refused_before_it_is_drawn():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Pair(), Merge()), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.num_classes = 4
    method = ManifoldMixup(layers=["input", "0", "1.0"])
    with pytest.raises(EvalkitError, match=re.escape("layer '1.0' gives more than one tensor")):
        method.check_size(Network(model, "pair"), 12, 12)
    ManifoldMixup(layers=["input", "0"]).check_size(Network(model, "pair"), 12, 12)


class Merge(nn.Module):
    def forward(self, both):
        return both[0] + both[1]


def test_nothing_is_left_behind():
    torch.manual_seed(2)
    net, x = models.create("vit_nano_patch4_32", num_classes=5), images(3, 3, 32, 32)
    before = net.eval()(x).logits
    net.train()
    for layer in (1, 2):
        ctx = context(draws={"layer": layer, "lam": 0.5, "partner": [1, 2, 0]})
        train_step(ctx, net, ManifoldMixup(), x, torch.arange(3))
    assert torch.equal(net.eval()(x).logits, before)


def test_gradients_flow_through_both_images():
    x, net = images(2, 3, 11, 11).requires_grad_(), linear_network()
    method = ManifoldMixup(layers=["1"])
    mixed = method.mix(context(draws={"lam": 0.3, "partner": [1, 0]}), x, torch.arange(2), net)
    net(mixed.x, inject=mixed.inject).logits[0].sum().backward()
    assert torch.allclose(0.7 * x.grad[0], 0.3 * x.grad[1], atol=1e-6) and x.grad[1].abs().sum() > 0


def test_depth_is_uniform_and_lambda_beta():
    ctx, x, net, n = context(seed=1), images(2, 3, 11, 11), linear_network(), 3000
    method = ManifoldMixup(layers=["input", "0", "1"], pairing="flip")
    mixes = [method.mix(ctx, x, torch.arange(2), net) for _ in range(n)]
    where = ["input" if m.inject is None else m.inject[0] for m in mixes]
    assert stats.chisquare([where.count(name) for name in ("input", "0", "1")]).pvalue > 1e-3
    assert stats.kstest([m.weights[0, 0].item() for m in mixes], stats.beta(2, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer1", "layer2"]),
        ("vit_tiny_patch16_224", ["blocks.2", "blocks.5"]),
        ("deit3_small_patch16_224", ["blocks.2", "blocks.5"]),
        ("vit_nano_patch4_32", ["blocks.0", "blocks.1"]),
        ("convnext_atto", ["stages.0", "stages.1"]),
        ("swin_tiny_patch4_window7_224", ["layers.0", "layers.1"]),
        ("pvt_tiny", ["block1.1", "block2.1"]),
    ],
)
def test_layers_of_each_family(name, expected):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert early_layers(model) == expected


@pytest.mark.parametrize("name", ["vit_nano_patch4_32", "pvt_tiny", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_each_family_runs_mixed(name):
    torch.manual_seed(3)
    arguments = {"swin": {"depths": (1, 1, 1, 1), "img_size": 64, "window_size": 2}, "conv": {"depths": (1, 1, 1, 1)}}
    net = models.create(name, num_classes=3, **arguments.get(name[:4], {})).eval()
    side = 32 if name.startswith("vit") else 64
    x, method, outs = images(2, 3, side, side), ManifoldMixup(), []
    for layer in range(3):
        mixed = method.mix(context(draws={"layer": layer, "lam": 0.5, "partner": [1, 0]}), x, torch.arange(2), net)
        with torch.no_grad():
            outs.append(net(mixed.x, inject=mixed.inject).logits)
    assert all(torch.allclose(o[0], o[1], atol=1e-4) for o in outs)  # lam = 1/2: both images have become the same one
    assert not torch.allclose(outs[0], outs[1], atol=1e-6) and not torch.allclose(outs[1], outs[2], atol=1e-6)


@pytest.mark.slow
def test_a_compiled_network_mixes_the_same():
    torch.manual_seed(4)
    net, x, graphs = models.create("vit_nano_patch4_32", num_classes=3).eval(), images(4, 3, 32, 32), []
    method = ManifoldMixup()
    method.setup(net)
    net.prepare(inject_layers=method.inject_layers)
    draws = [{"layer": layer, "lam": lam, "partner": [1, 2, 3, 0]} for lam in (0.2, 0.5, 0.9, 0.7) for layer in (1, 2)]
    mixes = [method.mix(context(draws=d), x, torch.arange(4), net) for d in draws]
    with torch.no_grad():
        eager = [net(m.x, inject=m.inject).logits for m in mixes]
        net.compile(backend=lambda graph, inputs: graphs.append(1) or graph.forward)
        for m, expected in zip(mixes, eager):
            assert torch.allclose(net(m.x, inject=m.inject).logits, expected, atol=1e-5)
    assert len(graphs) <= 4  # one per layer, and once more when lambda turns out to change


def test_errors():
    for layers in ("layer1", 1, []):
        with pytest.raises(
            ValueError, match=f"`layers` to be a list of names of layers, but got {re.escape(repr(layers))}"
        ):
            ManifoldMixup(layers=layers)
    with pytest.raises(EvalkitError, match="Sequential has no stages or blocks that manifold knows; name its `layers`"):
        ManifoldMixup().setup(linear_network())
    net = models.create("resnet10_cifar", num_classes=3)
    mixed = ManifoldMixup(layers=["layr1"]).mix(context(), images(2, 3, 32, 32), torch.arange(2), net)
    with pytest.raises(EvalkitError, match="Did you mean 'layer1'"):
        net(mixed.x, inject=mixed.inject)
    mixed = ManifoldMixup(layers=["layer1"]).mix(context(), images(2, 3, 32, 32), torch.arange(2), net)
    with pytest.raises(EvalkitError, match="gives more than one tensor"):
        mixed.inject[1]((torch.zeros(1), 2))


DIFFERS = """
the loss, which is the recipe's.
= test_sources.py::test_methods_without_a_loss_of_their_own | golden:manifold
"""
