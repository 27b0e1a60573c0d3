import numpy as np
import pytest
import torch
from scipy import stats
from torch._dynamo.testing import CompileCounter

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import create, train_step
from evalkit.train.mixups.alignmix import AlignMix, sinkhorn, squared_distances

from .fakes import context


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(cost, eps, iterations, tol):
    """The published iteration in float64, plan by plan; all stop when the batch mean of the change of u is below tol.
    Also how many it took."""
    cost = cost.double().numpy()
    batch, places = cost.shape[:2]
    u, v, marginal = np.zeros((batch, places)), np.zeros((batch, places)), np.log(1 / places + 1e-8)

    def matrix(b):
        return (-cost[b] + u[b][:, None] + v[b][None, :]) / eps

    def lse(values):
        top = values.max()
        return top + np.log(np.exp(values - top).sum())

    count = 0
    while count < iterations:
        count += 1
        before = u.copy()
        for b in range(batch):
            m = matrix(b)
            u[b] = [u[b, j] + eps * (marginal - lse(m[j])) for j in range(places)]
            m = matrix(b)
            v[b] = [v[b, k] + eps * (marginal - lse(m[:, k])) for k in range(places)]
        if np.abs(u - before).sum(1).mean() < tol:
            break
    return np.stack([np.exp(matrix(b)) for b in range(batch)]), count


@pytest.mark.parametrize("tol", [0.1, 0.01, 0.0])
@pytest.mark.parametrize("scale", [0.03, 0.4, 3.0])
def test_sinkhorn_is_the_published_one(scale, tol):
    cost = scale * squared_distances(images(3, 7, 5), images(3, 7, 5, seed=1))
    expected, count = reference(cost, 0.1, 30, tol)
    assert torch.allclose(sinkhorn(cost, 0.1, 30, tol).double(), torch.from_numpy(expected), atol=2e-6)
    if tol == 0.1 and scale == 0.03:
        assert count < 5  # it stops early,
        longer, _ = reference(cost, 0.1, 30, 0.0)
        assert np.abs(longer - expected).max() > 1e-4  # which shows
    if tol == 0:
        assert count == 30


def test_all_plans_stop_together():
    easy, hard = torch.zeros(1, 4, 4), squared_distances(images(1, 4, 3), images(1, 4, 3, seed=1))
    both = sinkhorn(torch.cat([easy, hard]), 0.1, 100, 0.1)
    alone = sinkhorn(hard, 0.1, 100, 0.1)
    expected, _ = reference(torch.cat([easy, hard]), 0.1, 100, 0.1)
    assert torch.allclose(both.double(), torch.from_numpy(expected), atol=3e-6) and not torch.equal(both[1:], alone)


@pytest.mark.parametrize(("cost", "same", "other"), [(0.1, 0.365529, 0.134471), (1.0, 0.499977, 0.0000227)])
def test_two_places_in_closed_form(cost, same, other):
    plan = sinkhorn(torch.tensor([[[0, cost], [cost, 0]]]), 0.1, 100, 0.1)[0]
    e = np.exp(-cost / 0.1)
    assert plan.flatten().tolist() == pytest.approx([same, other, other, same], abs=1e-6)
    assert plan[0].tolist() == pytest.approx([0.5 / (1 + e), 0.5 * e / (1 + e)], abs=1e-6)


def test_distances():
    a, b = images(2, 3, 4), images(2, 5, 4, seed=1)
    brute = torch.tensor(
        [
            [[sum((a[i, j, c] - b[i, k, c]).item() ** 2 for c in range(4)) for k in range(5)] for j in range(3)]
            for i in range(2)
        ]
    )
    assert (
        torch.allclose(squared_distances(a, b), brute, atol=1e-5) and (squared_distances(100 + a, 100 + a) >= 0).all()
    )


def test_columns_of_the_plan_sum_to_one_and_rows_if_asked():
    own, other = images(3, 9, 64).relu(), images(3, 9, 64, seed=1).relu()
    plan = AlignMix().plan(own, other)
    assert torch.allclose(plan.sum(1), torch.ones(3, 9), atol=1e-4)
    assert not torch.allclose(plan.sum(2), torch.ones(3, 9), atol=0.1)  # 100 iterations are too few for such features
    finished = AlignMix(feat_l2norm=True, tol=1e-4).plan(own, other)
    assert torch.allclose(finished.sum(2), torch.ones(3, 9), atol=1e-2) and torch.allclose(
        finished.sum(1), torch.ones(3, 9), atol=1e-4
    )
    unit = [f / f.norm(dim=2, keepdim=True) for f in (own, other)]
    assert torch.allclose(finished, 9 * sinkhorn(squared_distances(*unit), 0.1, 100, 1e-4), atol=1e-5)


@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("align_own", [False, True])
def test_interpolation_place_by_place(align_own, row_normalize):
    method = AlignMix(row_normalize=row_normalize)
    own, other, lam = images(2, 4, 3), images(2, 4, 3, seed=1), 0.3
    plan = method.plan(own, other)
    expected = torch.empty_like(own)
    for b in range(2):
        for p in range(4):
            if align_own:
                aligned = sum(plan[b, j, p] * own[b, j] for j in range(4))
                expected[b, p] = lam * aligned + (1 - lam) * other[b, p]
            else:
                aligned = sum(plan[b, p, k] * other[b, k] for k in range(4)) / (
                    plan[b, p].sum() if row_normalize else 1
                )
                expected[b, p] = lam * own[b, p] + (1 - lam) * aligned
    assert torch.allclose(method.interpolate(own, other, lam, align_own), expected, atol=1e-5)


def test_the_ends_and_an_image_with_itself():
    method, own, other = AlignMix(), images(2, 6, 8), images(2, 6, 8, seed=1)
    assert torch.equal(method.interpolate(own, other, 1.0, False), own) and torch.equal(
        method.interpolate(own, other, 0.0, True), other
    )
    for direction in (False, True):
        # its places are far apart: each stays where it is
        assert torch.allclose(method.interpolate(own, own, 0.4, direction), own, atol=1e-3)
    moved = own[:, [3, 1, 5, 0, 2, 4]]
    assert torch.allclose(method.interpolate(own, moved, 0.4, False), own, atol=1e-3)  # and is found again


def test_the_plan_carries_no_gradient_but_both_images_do():
    method, own, other = AlignMix(), images(2, 5, 3).requires_grad_(), images(2, 5, 3, seed=1).requires_grad_()
    plan = method.plan(own, other)
    assert not plan.requires_grad
    loss = (method.interpolate(own, other, 0.3, False) * images(2, 5, 3, seed=2)).sum()
    got = torch.autograd.grad(loss, (own, other))
    assert torch.allclose(got[0], 0.3 * images(2, 5, 3, seed=2)) and torch.allclose(
        got[1], 0.7 * plan.transpose(1, 2) @ images(2, 5, 3, seed=2), atol=1e-6
    )


SWIN = (
    "swin_tiny_patch4_window7_224",
    {"depths": (1, 1, 1, 1), "img_size": (64, 96), "window_size": 2, "embed_dim": 12},
)
GAP = ("vit_nano_patch4_32", {"depth": 1, "class_token": False, "global_pool": "avg", "img_size": (16, 24)})


@pytest.mark.parametrize(
    ("name", "arguments"), [("resnet10_cifar", {"channels": (4, 4, 8, 8)}), SWIN, GAP], ids=["resnet", "swin", "gap"]
)
@pytest.mark.parametrize("direction", [0, 1])
def test_the_last_feature_map_is_mixed(name, arguments, direction):
    """Against the network cut in two by hand, its map written as a list of places."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=5, **arguments).eval()
    method, x, y = (
        AlignMix(),
        images(3, 3, *(net.input_size if arguments.get("img_size") else (32, 24))),
        torch.tensor([0, 3, 3]),
    )
    method.setup(net)
    ctx = context(draws={"layer": 1, "direction": direction, "lam": 0.3, "partner": [1, 2, 0]})
    features = net.model.forward_features(x)
    places = (
        features.flatten(2).transpose(1, 2)
        if name.startswith("resnet")
        else features.reshape(3, -1, features.shape[-1])
    )
    mixed = method.interpolate(places, places[[1, 2, 0]], 0.3, bool(direction))
    shaped = (
        mixed.transpose(1, 2).reshape(features.shape) if name.startswith("resnet") else mixed.reshape(features.shape)
    )
    logits = net.model.forward_head(shaped)
    log_p = logits.log_softmax(1)
    expected = -sum(0.3 * log_p[i, y[i]] + 0.7 * log_p[i, y[j]] for i, j in enumerate([1, 2, 0])) / 3
    assert not torch.allclose(logits, net(x).logits, atol=1e-3)
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(expected.item(), rel=1e-5)
    assert net.model.forward_features(x).equal(features)


def test_layer_zero_is_mixup_bit_for_bit():
    x, y, net = images(5, 3, 16, 16), torch.arange(5), models.create("resnet10_cifar", num_classes=5)
    draws = {"layer": 0, "lam": 0.37, "partner": [3, 1, 0, 4, 2]}
    ours, theirs = AlignMix().mix(context(draws=draws), x, y, net), create("mixup").mix(context(draws=draws), x, y, net)
    assert (
        torch.equal(ours.x, theirs.x)
        and torch.equal(ours.weights, theirs.weights)
        and torch.equal(ours.mask, theirs.mask)
        and ours.inject is None
    )


def test_statistics_of_the_draws():
    net, x, n = models.create("resnet10_cifar", num_classes=2), images(2, 3, 8, 8), 3000
    drawn = {"layer": [], "direction": []}
    lam = []

    class Noting:
        def draw(self, name, sample):
            value = sample(rng)
            drawn.get(name, []).append(value)
            return value

    rng = np.random.default_rng(0)
    for _ in range(n):
        lam.append(AlignMix(pairing="flip").mix(Noting(), x, torch.arange(2), net).weights[0, 0].item())
    assert stats.binomtest(sum(map(int, drawn["layer"])), n).pvalue > 1e-3
    assert stats.binomtest(sum(map(int, drawn["direction"])), len(drawn["direction"])).pvalue > 1e-3
    assert stats.kstest(lam, stats.beta(2, 2).cdf).pvalue > 1e-3
    assert int(context().draw("layer", lambda rng: rng.random() >= AlignMix(input_prob=1.0).input_prob)) == 0


def test_nothing_is_read_back_from_the_device():
    plan = sinkhorn(torch.empty(2, 4, 4, device="meta"), 0.1, 5, 0.1)
    assert plan.device.type == "meta" and plan.shape == (2, 4, 4)


def test_half_precision_features_and_a_compiled_network():
    torch.manual_seed(0)
    net, x = models.create("resnet10_cifar", num_classes=5, channels=(4, 4, 8, 8)), images(3, 3, 16, 16)
    method, ctx = AlignMix(), context(draws={"layer": 1, "direction": 1, "lam": 0.3, "partner": [1, 2, 0]})
    method.setup(net)
    net.prepare(inject_layers=method.inject_layers)
    mixed = method.mix(ctx, x, torch.arange(3), net)
    assert mixed.inject[1](images(3, 8, 2, 2).bfloat16()).dtype == torch.bfloat16
    plain = net(mixed.x, inject=mixed.inject).logits
    frames = CompileCounter()
    net.compile(backend=frames)
    for _ in range(2):
        torch.testing.assert_close(net(mixed.x, inject=mixed.inject).logits, plain)
    assert frames.frame_count == 1  # Sinkhorn is no part of the graph
    torch._dynamo.reset()


def test_errors():
    for name in ("vit_nano_patch4_32", "pvt_tiny"):
        with pytest.raises(
            EvalkitError, match=f"alignmix needs a network that pools a feature map.*but '{name}' has a class token"
        ):
            AlignMix().setup(models.create(name, num_classes=2))
    for key, value in (
        ("input_prob", 2),
        ("eps", 0),
        ("iterations", 0),
        ("tol", -1),
        ("row_normalize", 1),
        ("feat_l2norm", 0),
    ):
        with pytest.raises(ValueError, match=f"Expected argument `{key}` to be .*, but got {value}"):
            AlignMix(**{key: value})


DIFFERS = """
nothing of the code's
= golden:alignmix
which leaves out the autoencoder of the paper's variant
= read: shashankvkt/AlignMixup_CVPR22, imagenet
OpenMixup switches with Manifold Mixup instead of the images: a choice of manifold and of this with input_prob 0.
= test_sources.py::test_openmixups_alignmix_is_a_choice
"""
