"""SUMix beside a slow reading of its formula, with injected draws."""

import math

import numpy as np
import pytest
import torch

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import create, train_step
from evalkit.train.batchnorm import BatchNormStatistics
from evalkit.train.mixups.sumix import distance

from .fakes import context

K = 5


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def unit(v):
    return v / math.sqrt(sum(float(t) ** 2 for t in v))


def cross_entropy(logits, label):
    return float(np.log(np.exp(logits).sum()) - logits[label])


def by_hand(clean, seen, y, partner, lam):
    """lam' of each image and its two terms of the regulariser, image by image; `clean` and `seen` are (logits, u)."""
    n, shares, terms = len(y), [], []
    for i, j in enumerate(partner):
        own, other, mixed = softmax(clean[0][i]).copy(), softmax(clean[0][j]).copy(), softmax(seen[0][i])
        own[y[j]] = 0
        other[y[i]] = 0
        a, b = unit(softmax(mixed - own)) * n, unit(softmax(mixed - other)) * n
        first, second = lam * math.exp(-a[y[i]]), (1 - lam) * math.exp(-b[y[j]])
        shares.append(first / (first + second))
        terms.append(
            lam * cross_entropy(np.exp(-(clean[1][i] + seen[1][i] + a)), y[i])
            + (1 - lam) * cross_entropy(np.exp(-(clean[1][j] + seen[1][i] + b)), y[j])
        )
    return np.array(shares), float(np.mean(terms))


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return models.create("resnet10_cifar", num_classes=K, channels=(4, 4, 8, 8)).to(dtype).eval()


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("average", [False, True])
def test_the_formula(own_head, average):
    net = network()
    with torch.no_grad():
        net.model.fc.weight.mul_(20)  # opinions that differ
    method = create("sumix", weight=0.5, own_head=own_head, average=average)
    method.setup(net)
    if own_head:
        torch.nn.init.normal_(method.uncertain.weight, std=2, generator=torch.Generator().manual_seed(1))
    x, y = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 3, 3, 1])
    partner, box = [2, 0, 3, 1], (4, 20, 0, 16)
    lam = 1 - 16 * 16 / 32**2
    ctx = context(K, draws={"box": box, "partner": partner})
    pasted = x.clone()
    pasted[:, :, 4:20, :16] = x[partner][:, :, 4:20, :16]

    def read(images):
        features = net.model.forward_features(images)
        logits = net.model.fc(features.mean((2, 3)))
        u = method.uncertain(features.mean((2, 3))).softmax(1) if own_head else logits
        u = u / (u**2).sum(1, keepdim=True).sqrt() if own_head else u
        return logits.detach().numpy(), u.detach().numpy()

    clean, seen = read(x), read(pasted)
    shares, term = by_hand(clean, seen, y.tolist(), partner, lam)
    if average:
        shares[:] = shares.mean()
    losses = [
        s * cross_entropy(seen[0][i], y[i]) + (1 - s) * cross_entropy(seen[0][i], y[partner[i]])
        for i, s in enumerate(shares)
    ]
    expected = np.mean(losses) + 0.5 * term
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(expected, rel=1e-6)


def test_large_batches_do_not_underflow():
    """B = 1000 with two classes makes e^(-a) 0 in float32; the share is the formula's in logarithms."""
    seen = torch.tensor([[0.9, 0.1]]).repeat(1000, 1)
    own, other = torch.tensor([[1.0, 0.0]]).repeat(1000, 1), torch.tensor([[0.0, 1.0]]).repeat(1000, 1)
    a = distance(seen, own, torch.ones(1000, dtype=torch.int64))[0, 0]
    b = distance(seen, other, torch.zeros(1000, dtype=torch.int64))[0, 1]
    assert (-a).exp() == 0 and (-b).exp() == 0
    share = (torch.tensor(0.5).logit() - a + b).sigmoid()
    assert 0 <= share <= 1 and share.isfinite()


def test_an_image_of_its_own_keeps_its_label():
    """Paired with itself, lam = 1 and so is lam': without the regulariser the loss is vanilla's."""
    net, method = network(), create("sumix", weight=0)
    method.setup(net)
    x, y = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1])
    ctx = context(K, draws={"box": (0, 16, 0, 16), "partner": [0, 1]})
    plain = train_step(context(K), net, create("vanilla"), x, y).item()
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(plain, rel=1e-6)


def test_what_the_gradient_reaches_and_what_the_optimizer_gets():
    net = network(torch.float32).train()
    method = create("sumix")
    method.setup(net)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    train_step(context(K), net, method, x, y).backward()
    assert method.uncertain.weight.grad.abs().sum() > 0 and net.model.conv1.weight.grad.abs().sum() > 0
    groups = method.param_groups()
    assert sum(len(g["params"]) for g in groups) == 2 and groups[1]["weight_decay"] == 0
    assert method.uncertain.weight.std().item() == pytest.approx(0.01, rel=0.6) and not method.uncertain.bias.any()
    assert create("sumix", "imagenet").uncertain is None and create("sumix", "tiny").weight == 1


def test_whose_batch_norm_statistics_the_network_keeps():
    """The clean images': they are seen last."""
    net, x, y = network(torch.float32).train(), torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    method, statistics = create("sumix"), BatchNormStatistics(net)
    method.setup(net)
    with torch.no_grad():
        clean = net.model.conv1(x).mean((0, 2, 3))
    with statistics.micro_batch():
        train_step(context(K, draws={"box": (0, 16, 0, 16), "partner": [1, 0, 3, 2]}), net, method, x, y)
    statistics.step()
    assert torch.allclose(net.model.bn1.running_mean, 0.1 * clean, atol=1e-6)


def test_it_needs_pairs_and_one_method():
    net = network(torch.float32)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    method = create("sumix", method=create("regmixup"))
    method.setup(net)
    with pytest.raises(EvalkitError, match="sumix needs a method that mixes pairs of images, but got RegMixup"):
        method.mix(context(K), x, y, net)
    with pytest.raises(ValueError, match="Expected argument `method`"):
        create("sumix", method=3)
    with pytest.raises(ValueError, match="Expected argument `weight`"):
        create("sumix", weight=-1)


DIFFERS = """
weighing each image's own loss by its own lam', which the preset "released" averages
= ::test_the_formula | test_preset_sources.py::test_a_preset_is_its_source
computing lam' by logarithms: for large B the code's exponentials are 0.
= ::test_large_batches_do_not_underflow
The code shows the clean images first and updates batch norm's running statistics by both passes; here they come last
and theirs count.
= ::test_whose_batch_norm_statistics_the_network_keeps
"""
