import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.train.mixups import supermix
from evalkit.train.mixups.supermix import SuperMix, normalised_masks, smoothed

from .fakes import FakeNet, FakeOutput, context
from .saliency_fakes import TeacherNet


class FakeNetOf(FakeNet):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def colours(batch, size=16):
    """Image i is bright in channel i % 3, everywhere: a linear teacher of mean colours is sure of it."""
    x = torch.full((batch, 3, size, size), -1.0)
    for i in range(batch):
        x[i, i % 3] = 1.0
    return x


def teacher(scale=4.0):
    return TeacherNet(classify=lambda x: scale * x.mean((2, 3)))


def test_masks_are_shares():
    theta = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = normalised_masks(theta, (10, 12))
    raw = 1 / (1 + np.exp(-F.interpolate(theta, size=(10, 12), mode="bilinear").numpy()))
    assert np.allclose(masks, raw / raw.sum(1, keepdims=True), atol=1e-6) and torch.allclose(
        masks.sum(1), torch.ones(2, 10, 12)
    )


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 5), (1.3, 6), (2.0, 10), (0.1, 1)])
def test_smoothing_against_scalar_sums(sigma, size):
    maps = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    t = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-0.5 * (5 * t / size) ** 2)
    kernel /= kernel.sum()
    before = (size - 1) // 2
    expected = np.zeros((2, 6, 6))
    for y in range(6):
        for x in range(6):
            for i in range(size):
                for j in range(size):
                    if 0 <= y + i - before < 6 and 0 <= x + j - before < 6:
                        expected[:, y, x] += kernel[i] * kernel[j] * maps[0, :, y + i - before, x + j - before].numpy()
    assert np.allclose(smoothed(maps, sigma)[0], expected, atol=1e-5)


def test_mixtures_that_are_returned_show_all_their_classes_to_the_teacher():
    x, y = colours(6), torch.arange(6) % 3
    ratio = np.random.default_rng(0).dirichlet([3, 3], 6)
    method = SuperMix(teacher(), width=4, tolerance=0.0)
    method.setup(FakeNetOf(3))
    mixed = method.mix(context(3, draws={"ratio": ratio}), x, y, FakeNetOf(3))
    assert 0 < len(mixed.x) <= 6 and mixed.weights.shape == (len(mixed.x), 6)
    top = mixed.x.mean((2, 3)).topk(2).indices.sort(1).values
    for row, weights in zip(top, mixed.weights, strict=True):
        sources = weights.nonzero()[:, 0]
        i = next(i for i in range(6) if {i, (i + 1) % 6} == set(sources.tolist()))
        assert weights[i].item() == pytest.approx(ratio[i, 0]) and weights[(i + 1) % 6].item() == pytest.approx(
            ratio[i, 1]
        )
        assert row.tolist() == sorted({i % 3, (i + 1) % 3})


def test_the_teachers_prediction_approaches_the_wanted_one(monkeypatch):
    # never stop
    monkeypatch.setattr(supermix, "shows", lambda logits, classes: torch.zeros(len(logits), dtype=torch.bool))
    x, ratio = colours(4, 8), torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5], [0.65, 0.35]])
    wanted = torch.zeros(4, 3)
    for i in range(4):
        wanted[i, i % 3] += ratio[i, 0]
        wanted[i, (i + 1) % 4 % 3] += ratio[i, 1]
    divergences = []
    for iterations in (1, 3, 10):
        method = SuperMix(teacher(), width=4, sparsity=0, iterations=iterations)
        logits = method.optimise(context(3), x, ratio)[2]
        divergences.append(F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1).mean().item())
    assert divergences[0] > divergences[1] > divergences[2] and divergences[2] < 0.05


@pytest.mark.parametrize(
    ("logits", "classes", "expected"),
    [
        ([3.0, 2, 1, 0], [0, 1], True),
        ([3.0, 2, 1, 0], [1, 0], True),
        ([3.0, 2, 1, 0], [0, 2], False),
        ([3.0, 2, 1, 0], [0, 0], True),
        ([3.0, 2, 1, 0], [1, 1], False),
        ([3.0, 2, 1, 0], [0, 1, 0], True),
        ([3.0, 2, 1, 0], [0, 2, 0], False),
    ],
)
def test_success(logits, classes, expected):
    assert supermix.shows(torch.tensor([logits]), torch.tensor([classes])).tolist() == [expected]


def test_what_has_succeeded_is_left_alone():
    x, ratio = (
        colours(6, 8) + 0.5 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.full((6, 2), 0.5),
    )
    few, many = (
        SuperMix(teacher(), width=4, sigma=0.5, iterations=n, tolerance=0.0).optimise(context(3), x, ratio)
        for n in (1, 4)
    )
    assert few[3].any() and torch.equal(many[0][few[3]], few[0][few[3]]) and (many[3] | ~few[3]).all()


def test_the_steps_are_the_published_ones():
    x, ratio = (
        colours(3, 8) + 0.1 * torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]),
    )
    ctx = context(3, mean=(0.5,) * 3, std=(0.25,) * 3)  # the teacher's own
    mixed = SuperMix(teacher(1.0), width=3, sigma=0.5, sparsity=2.0, iterations=1).optimise(ctx, x, ratio)[0]
    theta = torch.zeros(3, 2, 3, 3, requires_grad=True)
    shares = torch.stack([torch.sigmoid(F.interpolate(t[None], size=(8, 8), mode="bilinear"))[0] for t in theta])
    shares = shares / shares.sum(1, keepdim=True)
    for i in range(3):
        j = (i + 1) % 3
        wanted = torch.zeros(3).index_add(0, torch.tensor([i, j]), ratio[i])
        p = (shares[i, 0] * x[i] + shares[i, 1] * x[j]).mean((1, 2)).softmax(0)
        loss = (wanted[wanted > 0] * (wanted[wanted > 0] / p[wanted > 0]).log()).sum() + 2 * (
            shares[i] * (1 - shares[i])
        ).mean()
        (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
        v, smooth = gradient[i], smoothed(gradient[i][None], 0.5)[0]
        new = -(loss / ((v * smooth).sum() + 1e-10)).clamp(1e-4, 2000) * smooth
        m = torch.sigmoid(F.interpolate(new[None].detach(), size=(8, 8), mode="bilinear"))[0]
        m = m / m.sum(0)
        assert torch.allclose(mixed[i], m[0] * x[i] + m[1] * x[j], atol=1e-4)


@pytest.mark.parametrize("label", ["target", "teacher"])
def test_the_loss_is_taken_with_the_teachers_classes(label):
    x, wrong = colours(6), torch.zeros(6, dtype=torch.int64)  # true labels play no part
    method = SuperMix(teacher(), width=4, tolerance=0.0, label=label)
    ctx = context(3, smoothing=0.1, draws={"ratio": np.full((6, 2), 0.5)})
    mixed = method.mix(ctx, x, wrong, FakeNetOf(3))
    logits = torch.randn(len(mixed.x), 3, generator=torch.Generator().manual_seed(0))
    if label == "target":
        target = mixed.weights @ ctx.target(torch.arange(6) % 3)
    else:
        target = (4 * ((mixed.x * ctx.std[:, None, None] + ctx.mean[:, None, None] - 0.5) / 0.25).mean((2, 3))).softmax(
            1
        )
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert method.loss(ctx, x, wrong, mixed, FakeOutput(logits), None).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_images_of_one_class_succeed_at_once():
    x = colours(3)[:1].expand(4, -1, -1, -1)
    mixed = SuperMix(teacher(), images=3, width=4, iterations=1).mix(
        context(3), x, torch.zeros(4, dtype=torch.int64), FakeNetOf(3)
    )
    assert (
        len(mixed.x) == 4
        and torch.allclose(mixed.x, x, atol=1e-5)
        and torch.allclose(mixed.weights.sum(1), torch.ones(4))
    )


@pytest.mark.parametrize(("tolerance", "passes"), [(0.7, 6), (0.6, 13)])
def test_it_stops_once_few_enough_fail(monkeypatch, tolerance, passes):
    """4 of 6 fail: at most 4.2 may by default, and only every fifth iteration is asked."""
    monkeypatch.setattr(supermix, "shows", lambda logits, classes: torch.arange(len(logits)) < 2)
    network = teacher()
    SuperMix(network, width=4, tolerance=tolerance, iterations=12).mix(
        context(3), colours(6), torch.arange(6) % 3, FakeNetOf(3)
    )
    assert len(network.seen) == 1 + passes  # the sources; then iterations 0, 1, ..


def test_nothing_succeeds(monkeypatch):
    monkeypatch.setattr(supermix, "shows", lambda logits, classes: torch.zeros(len(logits), dtype=torch.bool))
    x = colours(3)
    mixed = SuperMix(teacher(), width=4, iterations=2).mix(context(3), x, torch.arange(3), FakeNetOf(3))
    assert (
        torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3)) and torch.equal(mixed.state, torch.eye(3))
    )


def test_repeatable_half_precision_and_one_image():
    method, x = SuperMix(teacher(), width=4), colours(5)
    before = x.clone()
    first, again = (method.mix(context(3, seed=2), x, torch.arange(5) % 3, FakeNetOf(3)) for _ in range(2))
    assert torch.equal(first.x, again.x) and torch.equal(x, before)
    assert method.mix(context(3, seed=2), x.bfloat16(), torch.arange(5) % 3, FakeNetOf(3)).x.dtype == torch.bfloat16
    one = method.mix(context(3), x[:1], torch.tensor([2]), FakeNetOf(3))
    assert torch.equal(one.x, x[:1]) and one.weights.tolist() == [[1.0]] and one.state.tolist() == [[0.0, 0.0, 1.0]]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Expected argument `images` to be a whole number of at least 2, but got 1"):
        SuperMix(images=1)
    with pytest.raises(
        ValueError, match="Expected argument `tolerance` to be a number from 0 to less than 1, but got 70"
    ):
        SuperMix(tolerance=70)
    with pytest.raises(EvalkitError, match="supermix needs a teacher of the same 10 classes, but this one has 3"):
        SuperMix(teacher()).setup(FakeNetOf(10))


DIFFERS = """
mixing while training (the code makes a data set beforehand)
= ::test_the_loss_is_taken_with_the_teachers_classes | golden:supermix
asking only every fifth iteration whether to stop
= ::test_it_stops_once_few_enough_fail
comparing distinct classes: where images of a mixture share a class, the code asks for an arbitrary other class besides,
of two images as of more.
= ::test_success | test_sources.py::test_supermixs_code_asks_for_an_arbitrary_class_where_two_images_share_one
"""
