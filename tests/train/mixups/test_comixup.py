from itertools import combinations, product

import numpy as np
import pytest
import torch

from evalkit.errors import EvalkitError
from evalkit.train import create
from evalkit.train.mixups.comixup import CoMixup, best_output, peak_distances, same_inputs, two_largest, weighed
from evalkit.train.mixups.parts.grid_solver import energy, solve
from evalkit.train.mixups.parts.saliency import shares

from .fakes import context, index_images
from .saliency_fakes import SaliencyNet, smooth_images, smooth_saliency


def choices(counts, n):
    """What one output may show in a cell, as vectors over the inputs: inputs, and halves of two of its most shown
    ones."""
    vectors = list(np.eye(n))
    if counts is not None:
        shown = [k for k in np.argsort(-counts, kind="stable")[:3] if counts[k] > 0]
        vectors += [(np.eye(n)[a] + np.eye(n)[b]) / 2 for a, b in combinations(sorted(shown), 2)]
    return vectors


def neighbour_cost(a, b):
    """V of two vectors of `choices`."""
    if (a == b).all():
        return 0.0
    one, two = sorted((a, b), key=lambda v: -v.max())
    return 0.25 if one.max() == 1 and two.max() == 0.5 and two[one.argmax()] == 0.5 else 1.0


def output_energy(grid, cost, beta):
    """Energy of an output: `grid` (m, m, n) of vectors, cost (m, m, n) of whole inputs."""
    m = len(grid)
    total = sum(grid[r, c] @ cost[r, c] - 5e-4 * (grid[r, c].max() == 0.5) for r in range(m) for c in range(m))
    total += beta * sum(neighbour_cost(grid[r, c], grid[r + 1, c]) for r in range(m - 1) for c in range(m))
    return total + beta * sum(neighbour_cost(grid[r, c], grid[r, c + 1]) for r in range(m) for c in range(m - 1))


def least_output(cost, beta, counts):
    vectors = choices(counts, cost.shape[-1])
    grids = (np.array(pick).reshape(2, 2, -1) for pick in product(vectors, repeat=4))
    return min(grids, key=lambda g: output_energy(g, cost, beta))


@pytest.mark.parametrize("counts", [None, [4.0, 0, 0], [2.5, 1.5, 0], [2.0, 1.0, 1.0]])
def test_an_output_is_the_minimum_over_all_choices(counts):
    cost = torch.rand(3, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4
    given = None if counts is None else torch.tensor(counts, dtype=torch.float64).expand(3, 3)
    shown = best_output(cost, 0.08, given)
    for i in range(3):
        least = least_output(cost[i].numpy(), 0.08, None if counts is None else np.array(counts))
        found = output_energy(shown[i].numpy(), cost[i].numpy(), 0.08)
        assert found == pytest.approx(output_energy(least, cost[i].numpy(), 0.08), abs=1e-12)


@pytest.mark.parametrize(("more", "share"), [(8e-4, 0.5), (1.2e-3, 1.0)])
def test_a_half_is_a_little_cheaper_than_its_inputs(more, share):
    cost = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    cost[..., 1] = more
    assert (best_output(cost, 0.02, torch.tensor([[3.0, 1.0]], dtype=torch.float64))[..., 0] == share).all()


def test_outputs_on_the_published_grid_are_near_the_minimum():
    rng = torch.Generator().manual_seed(1)
    cost = torch.rand(40, 4, 4, 5, generator=rng, dtype=torch.float64) / 10
    shown = best_output(cost, 0.02, None)
    weight = cost.new_full((40, 4, 4), 0.02)
    args = cost, weight[:, 1:], weight[:, :, 1:], 1 - torch.eye(5, dtype=torch.float64)
    found, exact = (energy(*args, labels) for labels in (shown.argmax(3), solve(*args)))
    assert (
        (found >= exact - 1e-12).all()
        and (found <= exact * 1.005).all()
        and (found <= exact + 1e-12).float().mean() > 0.9
    )


def reference_assign(cost, compatibility, labels, beta, gamma, limit, iterations, soft):
    """The published loop for one part with outputs solved by enumeration; cost (n, m, m), labels (n, m, m)."""
    n = len(cost)
    o = np.eye(n)[labels]
    extra = np.zeros((n, n))
    cells = np.moveaxis(cost, 0, -1)

    def objective():
        counts = o.sum((1, 2))
        smooth = ((o[:, 1:] - o[:, :-1]) ** 2).sum() + ((o[:, :, 1:] - o[:, :, :-1]) ** 2).sum()
        return (
            (cells * o).sum()
            + beta / 2 * smooth
            + gamma * sum(counts[i] @ counts[j] for i in range(n) for j in range(n) if i != j)
        )

    value = objective()
    for iteration in range(iterations):
        for j in range(n):
            counts = o.sum((1, 2))
            v = compatibility @ (counts.sum(0) - counts[j])
            penalty = [
                2 * gamma * ((v[k] - limit if soft else v[k]) if v[k] > limit else 0) + gamma * extra[j, k]
                for k in range(n)
            ]
            o[j] = least_output(cells + penalty, beta, counts[j] if iteration else None)
        if iteration == iterations - 2:
            sets = [tuple(np.flatnonzero(o[j].sum((0, 1)))) for j in range(n)]
            for a, b in combinations(range(n), 2):
                if sets[a] == sets[b] and len(sets[a]) > 1:
                    extra[a, sets[a][0]] = extra[b, sets[a][1]] = 1
        before, value = value, objective()
        if abs(before - value) < 1e-6 * abs(value):
            break
    return o


@pytest.mark.parametrize(("soft", "iterations"), [(False, 4), (True, 4), (False, 8)])
def test_the_assignment_follows_the_published_loop(soft, iterations):
    method = CoMixup(grid=2, threshold_type="soft" if soft else "hard", iterations=iterations)
    rng = np.random.default_rng(0)
    n, parts = 3, 6
    cost = (
        -rng.dirichlet(np.ones(4), (parts, n)).reshape(parts, n, 2, 2)
        - 0.02 * np.log(rng.dirichlet(np.full(n, 2), parts))[..., None, None]
    )
    distance = rng.random((parts, n, n)) * 10
    compatibility = method.compatibility(torch.from_numpy(distance))
    labels = rng.integers(n, size=(parts, n, 2, 2))
    found = method.assign(torch.from_numpy(cost), compatibility, torch.from_numpy(labels))
    for p in range(parts):
        a = 0.999 * np.eye(n) + 0.001 * distance[p] / distance[p].sum() * n
        assert np.allclose(compatibility[p], a)
        expected = reference_assign(cost[p], a, labels[p], 0.32 / 4, 1 / 4, 0.83 * 4, iterations, soft)
        assert np.allclose(found[p], expected)


def test_the_objective_against_sums():
    rng = np.random.default_rng(0)
    method, n, m = CoMixup(grid=3), 4, 3
    cost, o = rng.random((n, m, m)), np.eye(n)[rng.integers(n, size=(n, m, m))]
    counts = o.sum((1, 2))
    expected = sum(cost[o[j, r, c].argmax(), r, c] for j in range(n) for r in range(m) for c in range(m))
    pairs = [(o[j, r, c], o[j, r + 1, c]) for j in range(n) for r in range(m - 1) for c in range(m)]
    pairs += [(o[j, r, c], o[j, r, c + 1]) for j in range(n) for r in range(m) for c in range(m - 1)]
    expected += 0.32 / 9 * sum((a != b).any() for a, b in pairs)
    expected += sum(counts[i] @ counts[j] for i in range(n) for j in range(n) if i != j) / 9
    found = method.objective(torch.from_numpy(cost).permute(1, 2, 0)[None], torch.from_numpy(o)[None])
    assert found.item() == pytest.approx(expected)


def test_outputs_of_the_same_inputs():
    shown = torch.tensor([[[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [1, 1, 0]]], dtype=torch.bool)
    assert same_inputs(shown)[0].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_distances_of_salient_places():
    saliency = torch.zeros(3, 32, 32)
    saliency[0, 0:8, 0:8] = saliency[1, 10:18, 3:11] = saliency[2, 24:32, 24:32] = 1
    assert peak_distances(saliency).tolist() == [[0, 13, 48], [13, 0, 35], [48, 35, 0]]
    # of windows that do not overlap: (0, 0), then rows 8 to 15 and columns 0 to 7, then the last
    assert peak_distances(saliency, 8).tolist() == [[0, 1, 6], [1, 0, 5], [6, 5, 0]]


def test_the_released_threshold_comes_before_the_distances():
    """A N = (10.4, 13.6) for counts N = (10, 14), one of them above the limit of 12: the penalty is (0, 13.6), but as
    released A (0, 14) = (1.4, 12.6)."""
    compatibility, counts = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]]), torch.tensor([[10.0, 14.0]])
    v = weighed(compatibility, counts)
    assert v.tolist() == [[pytest.approx(10.4), pytest.approx(13.6)]]
    assert weighed(compatibility, (v > 12) * counts).tolist() == [[pytest.approx(1.4), pytest.approx(12.6)]]
    with pytest.raises(ValueError, match="Expected argument `threshold_first` to be false with a soft threshold"):
        CoMixup(threshold_first=True, threshold_type="soft")
    assert create("comixup", "imagenet").part == 16 and create("comixup", "released").part == 20


def test_two_inputs_per_cell():
    o = torch.tensor([1.0, 0, 0, 0, 0.5, 0.5]).view(1, 2, 1, 1, 3)
    image, share = two_largest(o)
    assert (
        share.flatten().tolist() == [1, 0, 0.5, 0.5]
        and image.flatten()[0] == 0
        and sorted(image.flatten()[2:].tolist()) == [1, 2]
    )


@pytest.mark.parametrize("batch", [5, 7, 13])
def test_labels_are_the_shares_of_the_pixels(batch):
    x = index_images(batch, 16, 16, channels=3) ** 2
    before = x.clone()
    mixed = CoMixup(part=6).mix(context(seed=batch), x, torch.arange(batch), SaliencyNet(smooth_saliency(batch, 16, 0)))
    assert torch.equal(x, before) and mixed.x.shape == x.shape
    assert torch.allclose(mixed.weights.sum(1), torch.ones(batch)) and (mixed.weights >= 0).all()
    assert torch.allclose(mixed.x.mean((1, 2, 3)), mixed.weights @ torch.arange(batch).float() ** 2, atol=1e-4)
    for a in range(0, batch, 6):  # nothing crosses the parts
        assert mixed.weights[a : a + 6, :a].sum() == 0 and mixed.weights[a : a + 6, a + 6 :].sum() == 0


def test_the_images_show_what_was_assigned():
    x, saliency, n = smooth_images(3, 16, 0), smooth_saliency(3, 16, 0), 3
    draws = {"ratio": [0.2, 0.3, 0.5], "labels": np.random.default_rng(0).integers(3, size=(3, 4, 4))}
    method = CoMixup(beta=0.05, part=3)
    mixed = method.mix(context(draws=draws), x, torch.arange(3), SaliencyNet(saliency))
    cost = (
        -shares(saliency, 4)
        - 0.05 / 16 * torch.tensor(draws["ratio"], dtype=torch.float64).add(1e-8).log()[:, None, None]
    )
    compatibility = method.compatibility(peak_distances(saliency)[None])
    o = method.assign(cost.float()[None], compatibility, torch.from_numpy(draws["labels"])[None])[0]
    for j in range(n):
        up = o[j].repeat_interleave(4, 0).repeat_interleave(4, 1).float()
        assert torch.allclose(mixed.x[j], sum(up[..., k] * x[k] for k in range(n)), atol=1e-6)
        assert torch.allclose(mixed.weights[j], o[j].mean((0, 1)).float())


def test_outputs_are_diverse():
    mixed = CoMixup().mix(
        context(seed=0), torch.rand(40, 3, 32, 32), torch.arange(40), SaliencyNet(smooth_saliency(40, 32, 1))
    )
    assert 2 < (mixed.weights > 0).float().sum(1).mean() < 4
    assert mixed.weights.sum(0).min() > 0.3 and mixed.weights.sum(0).max() < 2


def test_a_strong_prior_shows_one_input():
    ratio = np.array([0.98, 0.01, 0.01])
    method = CoMixup(eta=1000.0)
    mixed = method.mix(
        context(draws={"ratio": ratio}),
        torch.rand(3, 3, 16, 16),
        torch.arange(3),
        SaliencyNet(smooth_saliency(3, 16, 0)),
    )
    assert mixed.weights.tolist() == [[1, 0, 0]] * 3


def test_half_precision_one_image_and_a_part_of_one():
    x, net = smooth_images(3, 16, 0), SaliencyNet(smooth_saliency(3, 16, 0))
    assert CoMixup().mix(context(), x.bfloat16(), torch.arange(3), net).x.dtype == torch.bfloat16
    mixed = CoMixup(part=2).mix(context(), x, torch.arange(3), net)
    assert torch.equal(mixed.x[2], x[2]) and mixed.weights[2].tolist() == [0, 0, 1]
    one = CoMixup().mix(context(), x[:1], torch.arange(1), SaliencyNet(net.map[:1]))
    assert torch.equal(one.x, x[:1]) and one.weights.tolist() == [[1.0]]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Expected argument `threshold_type` to be 'hard' or 'soft', but got 'no'"):
        CoMixup(threshold_type="no")
    with pytest.raises(ValueError, match="Expected argument `part` to be a whole number of at least 1, but got 0"):
        CoMixup(part=0)
    with pytest.raises(EvalkitError, match="comixup with a 4 x 4 grid needs square images"):
        CoMixup().mix(context(), torch.rand(2, 3, 16, 20), torch.arange(2), SaliencyNet(torch.rand(2, 16, 20)))


DIFFERS = """
the solver of one output: strips of two rows or columns of cells, exactly, from five starts, instead of label swaps
= ::test_an_output_is_the_minimum_over_all_choices | ::test_outputs_on_the_published_grid_are_near_the_minimum
= parts/test_grid_solver.py::test_sweeps_never_get_worse_and_the_best_start_wins | golden:comixup
the hard penalty (see `threshold_first`)
= ::test_the_released_threshold_comes_before_the_distances | golden:comixup
one more forward pass for the clean loss; in both losses, which are the criterion's
= parts/test_saliency.py::test_the_loss_of_the_clean_batch
(the code's for CIFAR are the mean binary cross-entropy of the softmax and 2 / K of the cross-entropy of K classes)
= read: snu-mllab/Co-Mixup, main.py: train
batches that parts do not divide, which the code for ImageNet cuts off.
= ::test_labels_are_the_shares_of_the_pixels
"""
