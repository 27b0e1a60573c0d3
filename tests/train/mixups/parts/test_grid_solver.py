from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from evalkit.train.mixups.parts.grid_solver import best_of, cut, energy, solve, sweep, three_labels, transport

from ..min_cut import SQUARES, minimum


def problem(batch, rows, columns, labels, seed, per_sample=False):
    rng = torch.Generator().manual_seed(seed)
    unary = torch.randn(batch, rows, columns, labels, generator=rng, dtype=torch.float64)
    down = torch.rand(batch, rows - 1, columns, generator=rng, dtype=torch.float64)
    right = torch.rand(batch, rows, columns - 1, generator=rng, dtype=torch.float64)
    cost = torch.rand(*([batch] if per_sample else []), labels, labels, generator=rng, dtype=torch.float64)
    cost = cost + cost.transpose(-1, -2)
    return unary, down, right, cost * (1 - torch.eye(labels, dtype=torch.float64))


def by_hand(unary, down, right, cost, labels):
    """E of one sample's labels, term by term."""
    rows, columns, _ = unary.shape
    total = sum(unary[r, c, labels[r][c]] for r in range(rows) for c in range(columns))
    total += sum(down[r, c] * cost[labels[r][c], labels[r + 1][c]] for r in range(rows - 1) for c in range(columns))
    return total + sum(
        right[r, c] * cost[labels[r][c], labels[r][c + 1]] for r in range(rows) for c in range(columns - 1)
    )


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "labels"), [(2, 2, 2), (2, 3, 2), (3, 2, 2), (1, 4, 3), (2, 2, 4), (3, 1, 3)]
)
def test_the_solution_is_the_minimum_over_all_labelings(rows, columns, labels, per_sample):
    unary, down, right, cost = problem(3, rows, columns, labels, 10 * rows + columns, per_sample)
    solved = solve(unary, down, right, cost)
    found = energy(unary, down, right, cost, solved)
    for i in range(3):
        arrays = [t[i].numpy() for t in (unary, down, right)] + [cost[i].numpy() if per_sample else cost.numpy()]
        assert found[i].item() == pytest.approx(by_hand(*arrays, solved[i].tolist()))
        least = min(
            by_hand(*arrays, np.reshape(every, (rows, columns)))
            for every in product(range(labels), repeat=rows * columns)
        )
        assert found[i].item() == pytest.approx(least, abs=1e-12)


def convex(batch, side, seed, strength=1.0):
    rng = torch.Generator().manual_seed(seed)
    a, b, below = (torch.rand(batch, side, side, generator=rng, dtype=torch.float64) for _ in range(3))
    unary = torch.stack([a, (a + b) / 2 - 0.3 * below, b], 3)
    down = strength * torch.rand(batch, side - 1, side, generator=rng, dtype=torch.float64)
    return unary, down, strength * torch.rand(batch, side, side - 1, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("side", [2, 3, 5, 8])
def test_two_cuts_find_the_minimum_of_three_labels(side, strength):
    unary, down, right = convex(6, side, side, strength)
    found = energy(unary, down, right, SQUARES, three_labels(unary, down, right))
    for i in range(6):
        assert found[i].item() == pytest.approx(minimum(unary[i], down[i], right[i]), abs=1e-9)


def test_large_grids_are_solved_as_well_as_exactly():
    unary, down, right = convex(12, 16, 0, 0.3)
    found = energy(unary, down, right, SQUARES, three_labels(unary, down, right))
    exact = torch.tensor([minimum(unary[i], down[i], right[i]) for i in range(12)], dtype=torch.float64)
    assert (found >= exact - 1e-9).all() and (found <= exact + 1e-3 * exact.abs()).all()
    assert (found <= exact + 1e-9).float().mean() > 0.9


def test_a_cut_of_a_hand_made_grid():
    weights = torch.full((1, 1, 2), 0.5, dtype=torch.float64), torch.full((1, 2, 1), 0.5, dtype=torch.float64)
    # alone: -1.2 + 1; with both neighbours: -1.2 + 2 beside + 1
    for beside, expected in ((0.4, [[1, 0], [0, 0]]), (-0.6, [[1, 1], [1, 0]])):
        on = torch.tensor([[[-1.2, beside], [beside, 3.0]]], dtype=torch.float64)
        assert cut(on, *weights).tolist() == [expected]


def test_sweeps_never_get_worse_and_the_best_start_wins():
    unary, down, right, cost = problem(4, 6, 6, 3, 1, per_sample=True)
    labels = torch.zeros(4, 6, 6, dtype=torch.int64)
    before = energy(unary, down, right, cost, labels)
    for _ in range(3):
        labels = sweep(unary, down, right, cost, labels, 2, 1)
        after = energy(unary, down, right, cost, labels)
        assert (after <= before + 1e-12).all()
        before = after
    exact = energy(unary, down, right, cost, solve(unary, down, right, cost))
    assert (before >= exact - 1e-12).all()
    starts = torch.stack([torch.full_like(labels, k) for k in range(3)])
    best = energy(unary, down, right, cost, best_of(unary, down, right, cost, starts, 2, 2))
    single = torch.stack([energy(unary, down, right, cost, sweep(unary, down, right, cost, s, 2, 2)) for s in starts])
    assert torch.allclose(best, single.amin(0))
    # one strip is the grid
    assert torch.allclose(energy(unary, down, right, cost, sweep(unary, down, right, cost, labels, 6, 6)), exact)


# ---- transport


def reference_transport(saliency, visible, eps):
    """Plan (N, N) of one image: rows are sources. The rule with whole matrices, as published."""
    side = len(saliency)
    r, c = np.divmod(np.arange(side**2), side)
    cost = eps * ((r[:, None] - r) ** 2 + (c[:, None] - c) ** 2) / (side - 1) ** 2 - np.outer(
        saliency.ravel(), visible.ravel()
    )
    for _ in range(side):
        plan = np.zeros_like(cost)
        plan[np.arange(side**2), cost.argmin(1)] = 1
        fight = plan * cost
        win = np.zeros_like(cost)
        win[fight.argmin(0), np.arange(side**2)] = 1
        win *= plan
        cost = cost + (1 - win) * plan
    return win


@pytest.mark.parametrize("side", [2, 4, 8])
def test_transport_follows_the_published_rule(side):
    rng = np.random.default_rng(side)
    for _ in range(10):
        saliency = rng.random((side, side)) ** 4
        saliency /= saliency.sum()
        visible = rng.random((side, side)) < 0.5
        source, filled = transport(torch.from_numpy(saliency)[None], torch.from_numpy(visible)[None], 0.8)
        plan = reference_transport(saliency, visible, 0.8)
        assert (plan.sum(0) <= 1).all() and (plan.sum(1) <= 1).all()
        shown = visible.ravel()
        assert filled[0].numpy()[shown].all()  # what the mask shows is always there
        # (at cell 0 the matrix form breaks a tie that nobody sees)
        assert np.array_equal(filled[0].numpy()[1:], plan.sum(0)[1:] == 1)
        assert np.array_equal(plan.sum(0)[shown] == 1, np.ones(shown.sum(), bool))
        assert np.array_equal(source[0].numpy()[shown], plan.argmax(0)[shown])
        moved = source[0].numpy()[shown]
        assert len(set(moved)) == len(moved)  # no cell is shown twice


def test_transport_without_conflicts_is_the_optimal_assignment():
    side, eps = 4, 0.8
    visible = np.zeros((side, side), bool)
    visible[0, 0] = visible[3, 3] = True
    saliency = np.full((side, side), 0.02)
    saliency[0, 1] = saliency[3, 2] = 0.36  # beside the windows, and worth the way: 0.8 / 9 each
    source, _ = transport(torch.from_numpy(saliency)[None], torch.from_numpy(visible)[None], eps)
    r, c = np.divmod(np.arange(16), side)
    cost = eps * ((r[:, None] - r) ** 2 + (c[:, None] - c) ** 2) / 9 - np.outer(saliency.ravel(), visible.ravel())
    rows, columns = linear_sum_assignment(cost)
    best = dict(zip(columns, rows, strict=True))
    assert [source[0, 0].item(), source[0, 15].item()] == [best[0], best[15]] == [1, 14]


def test_cells_without_saliency_stay_away():
    saliency = torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])
    source, filled = transport(saliency, torch.ones(1, 2, 2, dtype=torch.bool), 2.0)
    assert filled.tolist() == [[False, True, True, False]] and source[0, 1:3].tolist() == [1, 2]


def test_nothing_moves_where_everything_is_visible_and_equal():
    source, filled = transport(torch.full((2, 4, 4), 1 / 16), torch.ones(2, 4, 4, dtype=torch.bool), 0.8)
    assert filled.all() and torch.equal(source, torch.arange(16).expand(2, 16))
