"""FGSM and PGD: the equations on a network whose gradient is known by hand, the ball, and independence of how images
are batched."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from evalkit import models
from evalkit.data.transforms import eval_transform
from evalkit.errors import EvalkitError
from evalkit.inference import Pass, predict
from evalkit.robustness import attacks

from .fakes import CPU, noise, vit

NATIVE = eval_transform("native", 16)
ALPHA = 2 / 255


class Linear(nn.Module):
    """Logits W x + b over the normalised pixels: d CE / d pixel = W^T (softmax - onehot) / std."""

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)

    def __init__(self, side=16, classes=3):
        super().__init__()
        w = np.random.default_rng(0).normal(size=(classes, 3 * side * side))
        self.w = nn.Parameter(torch.from_numpy(w).float() / 30)

    def forward(self, x):
        return x.flatten(1) @ self.w.T


def by_hand(network, x, y):
    """The gradient in float64 NumPy from its formula."""
    w, std = network.w.detach().double().numpy(), np.repeat(network.std, x[0][0].numel())
    mean = np.repeat(network.mean, x[0][0].numel())
    rows = []
    for image, label in zip(x.double().flatten(1).numpy(), y.tolist()):
        z = w @ ((image - mean) / std)
        p = np.exp(z - z.max())
        p /= p.sum()
        p[label] -= 1
        rows.append(w.T @ p / std)
    return np.array(rows).reshape(x.shape)


@pytest.fixture
def case():
    network = Linear().eval()
    x = torch.from_numpy(np.random.default_rng(1).random((5, 3, 16, 16))).float()
    x[0, 0, 0, :4] = torch.tensor([0.0, 1.0, 0.001, 0.999])
    y = torch.tensor([0, 1, 2, 1, 0])
    return network, x, y, attacks.loss_gradient(network, attacks.normaliser(network, CPU), y)


def test_the_gradient_is_that_of_the_pixels_and_of_each_image_alone(case):
    network, x, y, gradient = case
    np.testing.assert_allclose(gradient(x).numpy(), by_hand(network, x, y), rtol=1e-4, atol=1e-6)
    alone = attacks.loss_gradient(network, attacks.normaliser(network, CPU), y[2:3])(x[2:3])
    # a mean over the batch would be five times smaller
    np.testing.assert_allclose(alone.numpy(), gradient(x)[2:3].numpy(), rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in network.parameters())


def test_fgsm_is_its_equation(case):
    network, x, y, gradient = case
    eps = 8 / 255
    expected = np.clip(x.numpy() + np.float32(eps) * np.sign(by_hand(network, x, y)), 0, 1)
    np.testing.assert_allclose(attacks.fgsm(gradient, x, eps).numpy(), expected, atol=1e-7)


def test_pgd_is_its_equation(case):
    network, x, y, gradient = case
    eps = 4 / 255
    start = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, x.shape)).float()
    expected = np.clip(x.double().numpy() + eps * start.double().numpy(), 0, 1)
    for _ in range(7):
        expected = expected + ALPHA * np.sign(by_hand(network, torch.from_numpy(expected), y))
        expected = np.clip(np.clip(expected, x.double().numpy() - eps, x.double().numpy() + eps), 0, 1)
    got = attacks.pgd(gradient, x, eps, alpha=ALPHA, steps=7, start=start)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    assert (got - x).abs().max() <= eps + 1e-7 and got.min() >= 0 and got.max() <= 1
    assert (got - x).abs().mean() > 0.9 * eps  # on a linear loss it ends in the corners of the ball


def test_the_loss_grows_with_eps_and_with_steps(case):
    network, x, y, gradient = case

    def loss(image):
        return float(torch.nn.functional.cross_entropy(network(attacks.normaliser(network, CPU)(image)).detach(), y))

    start = torch.zeros_like(x)
    by_eps = [loss(attacks.fgsm(gradient, x, e / 255)) for e in (0, 1, 2, 4, 8)]
    by_steps = [loss(attacks.pgd(gradient, x, 8 / 255, alpha=1 / 255, steps=n, start=start)) for n in (1, 2, 4, 8)]
    assert (
        by_eps == sorted(by_eps)
        and by_steps == sorted(by_steps)
        and by_eps[0] < by_eps[-1]
        and by_steps[0] < by_steps[-1]
    )


def test_no_strength_is_no_change_to_the_bit(case):
    _, x, _, gradient = case
    assert torch.equal(attacks.fgsm(gradient, x, 0.0), x)
    assert torch.equal(attacks.pgd(gradient, x, 0.0, alpha=ALPHA, steps=3, start=torch.ones_like(x)), x)


def test_the_random_start_belongs_to_seed_and_image():
    a = attacks.random_start(0, "c1/x.png", (3, 16, 16))
    assert a.dtype == np.float32 and np.array_equal(a, attacks.random_start(0, "c1/x.png", (3, 16, 16)))
    assert not np.array_equal(a, attacks.random_start(0, "c1/y.png", (3, 16, 16))) and not np.array_equal(
        a, attacks.random_start(1, "c1/x.png", (3, 16, 16))
    )
    assert abs(a.mean()) < 0.1 and abs(a.std() - 1 / math.sqrt(3)) < 0.05 and a.min() >= -1 and a.max() <= 1


# ---- the pass


def pgd_attack(gradient, x, eps, start):
    return attacks.pgd(gradient, x, eps, alpha=eps / 4, steps=3, start=start)


def run(network, images, eps=(2 / 255, 8 / 255), attack=pgd_attack, seed=0, rows=None, **options):
    return attacks.attack_all(
        network,
        images,
        images.labels,
        NATIVE,
        attacks.Attack(attack, eps, seed),
        Pass(CPU, **{"forward_batch": 4, "workers": 0} | options),
        rows,
    )


def test_the_clean_column_and_eps_0_are_the_clean_predictions():
    images, network = noise(13), vit()
    clean = predict(network, images, NATIVE, Pass(CPU, forward_batch=4, workers=0))
    got = run(network, images, eps=(0.0, 8 / 255))
    assert (
        got.ids == clean.ids
        and (got.predictions[:, 0] == clean.logits.argmax(1)).all()
        and (got.predictions[:, 1] == got.predictions[:, 0]).all()
    )


def centred_resnet(images):
    """A residual network whose mean logits are equal: an untrained one would call all images the same."""
    torch.manual_seed(0)
    network = models.create("resnet10_cifar", num_classes=3).eval()
    with torch.no_grad():
        network.model.fc.weight.mul_(10)
        network.model.fc.bias -= torch.from_numpy(
            predict(network, images, NATIVE, Pass(CPU, workers=0)).logits.mean(axis=0)
        )
    return network


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_batch_size_and_workers_change_nothing(name):
    images = noise(13)
    network = vit() if name == "vit" else centred_resnet(images)
    reference = run(network, images).predictions
    assert (reference[:, 0] != reference[:, 2]).any()
    for options in ({"batch_size": 1}, {"batch_size": 5, "workers": 2}, {"rows": np.arange(13)[::-1].copy()}):
        assert (run(network, images, **options).predictions == reference).all()
    some = run(network, images, rows=[1, 4, 12])
    # the other images in a pass do not matter, nor does the row that fills it up
    assert (some.predictions == reference[[1, 4, 12]]).all()


def test_another_forward_batch_changes_the_last_bits_only():
    """In float64 they are far from any decision, so that the predictions must agree."""
    images, network = noise(13), Linear().double().eval()
    double = lambda x: network(x.double())  # noqa: E731
    assert (run(double, images, forward_batch=13).predictions == run(double, images, forward_batch=1).predictions).all()


def test_batch_statistics_stay_and_a_network_in_training_mode_is_refused():
    torch.manual_seed(0)
    network = models.create("resnet10_cifar", num_classes=3).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    run(network, noise(5), eps=(1 / 255,))
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items()) and not any(
        m.training for m in network.modules()
    )
    with pytest.raises(ValueError, match="eval mode"):
        run(network.train(), noise(5))


def test_a_model_without_gradients_is_refused_in_one_line():
    fixed = lambda x: torch.from_numpy(x.detach().numpy().mean(axis=(2, 3)))  # noqa: E731
    with pytest.raises(EvalkitError, match="this model gives no gradients, which fgsm and pgd need"):
        run(fixed, noise(5))


def test_unreadable_images_and_outputs_that_are_not_finite():
    images = noise(6)
    images.bad = (2,)
    got = run(vit(), images)
    assert len(got.ids) == 5 and got.bad == [("c2/002.png", "image file is truncated")]
    with pytest.raises(EvalkitError, match="not finite for 6 of 6 images"):
        run(lambda x: x.mean(dim=(2, 3)) / 0, noise(6))
