import numpy as np
import pytest
import torch

from evalkit import models
from evalkit.train.mixups.saliency_grafting import SaliencyGrafting

from .fakes import context, own_weight


class Planted:
    """A network whose feature map is given."""

    def __init__(self, features):
        self.features, self.seen = features, []

    def feature_map(self, x):
        self.seen.append(x)
        return self.features


def maps(batch, height, width, seed=0):
    return torch.randn(batch, 5, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("side", "size"), [((14, 14), (28, 28)), ((7, 7), (49, 56)), ((4, 6), (32, 48)), ((4, 4), (30, 18))]
)
def test_equals_the_definition_cell_by_cell(side, size):
    features, partner, lam = maps(4, *side), [2, 0, 3, 1], 0.6
    rows, columns = (min(7, s) for s in side)
    keep = np.random.default_rng(1).random((4, rows, columns))
    x = torch.randn(4, 3, *size)
    net = Planted(features)
    mixed = SaliencyGrafting().mix(
        context(draws={"lam": lam, "partner": partner, "keep": keep}), x, torch.arange(4), net
    )
    assert torch.equal(net.seen[0], x)

    step = side[0] // rows, side[1] // columns
    f = features.double().abs().mean(1).numpy()
    phi = f.reshape(4, rows, step[0], columns, step[1]).mean((2, 4))
    s = np.exp(phi / 0.2) / np.exp(phi / 0.2).sum((1, 2), keepdims=True)
    for i, j in enumerate(partner):
        grafted = [[s[j, r, c] > s[j].mean() and keep[i, r, c] < lam for c in range(columns)] for r in range(rows)]
        assert 0 < np.sum(grafted) < rows * columns
        for y in range(size[0]):
            for z in range(size[1]):
                source = j if grafted[y * rows // size[0]][z * columns // size[1]] else i
                assert torch.equal(mixed.x[i, :, y, z], x[source, :, y, z])
        own, other = s[i][~np.array(grafted)].sum(), s[j][np.array(grafted)].sum()
        assert own_weight(mixed.weights)[i].item() == pytest.approx(own / (own + other), rel=1e-5)
    assert torch.allclose(mixed.weights.sum(1), torch.ones(4))


def test_nearly_uniform_salience_gives_the_share_of_cells():
    """The candidates are then half of the cells, told apart by a hair."""
    ripple = 1e-6 * (-1.0) ** torch.arange(49).view(1, 1, 7, 7)
    mixed = SaliencyGrafting().mix(
        context(draws={"lam": 0.5}),
        torch.randn(6, 3, 28, 28),
        torch.arange(6),
        Planted((1 + ripple).expand(6, 1, 7, 7)),
    )
    shown = mixed.mask.mean((1, 2, 3))
    lam = torch.where(mixed.partner == torch.arange(6), 1.0, shown)
    assert torch.allclose(mixed.weights.diagonal(), lam, atol=1e-4) and shown.min() > 0.5 - 1e-6 and shown.max() < 1


NOTHING = [
    (torch.ones(3, 2, 7, 7), {"lam": 1.0}),
    (maps(3, 7, 7), {"lam": 0.0}),
    (maps(3, 7, 7), {"keep": np.ones((3, 7, 7))}),
]


@pytest.mark.parametrize(("features", "draws"), NOTHING)
def test_nothing_grafted_is_the_own_image(features, draws):
    """Uniform salience has no salient cells; else none of them is kept."""
    x = torch.randn(3, 3, 28, 28)
    mixed = SaliencyGrafting().mix(context(draws=draws | {"partner": [1, 2, 0]}), x, torch.arange(3), Planted(features))
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3)) and (mixed.mask == 1).all()


def test_grafted_share_follows_lambda():
    method, features, x = SaliencyGrafting(), maps(200, 7, 7), torch.zeros(200, 1, 7, 7)
    candidates = ((features.abs().mean(1) / 0.2).flatten(1).softmax(1) > 1 / 49).float().sum(1)
    for lam in (0.2, 0.8):
        mixed = method.mix(context(seed=3, draws={"lam": lam}), x, torch.arange(200), Planted(features))
        grafted = (mixed.mask == 0).float().sum((1, 2, 3))
        assert (grafted / candidates[mixed.partner]).mean().item() == pytest.approx(lam, abs=0.02)


@pytest.mark.parametrize("name", ["resnet10_cifar", "vit_nano_patch4_32"])
def test_a_real_network(name):
    torch.manual_seed(0)
    net, x = models.create(name, num_classes=3).train(), torch.randn(4, 3, 32, 32)
    mixed = SaliencyGrafting().mix(context(seed=1), x, torch.arange(4) % 3, net)
    with torch.autocast("cpu", torch.bfloat16):
        again = SaliencyGrafting().mix(context(seed=1), x, torch.arange(4) % 3, net)
    assert (
        torch.equal(mixed.x, again.x)
        and torch.equal(mixed.weights, again.weights)
        and net.training
        and not mixed.weights.requires_grad
    )


def test_wrong_arguments():
    with pytest.raises(
        ValueError, match="Expected argument `grid` to be a whole number of cells per side, 1 or more, but got 0"
    ):
        SaliencyGrafting(grid=0)
    with pytest.raises(ValueError, match="Expected argument `temperature` to be a number larger than 0, but got 0"):
        SaliencyGrafting(temperature=0)


DIFFERS = """
what its abstract leaves open; the details above are guesses
= ::test_equals_the_definition_cell_by_cell
there is no public code.
= read: the paper names no repository
"""
