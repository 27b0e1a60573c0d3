"""Labels of a grid of cells that minimise unary plus pairwise costs, for a whole batch on its device, without waiting
for it.

    E(l) = sum_p unary_p(l_p) + sum_(p above q) down_p cost(l_p, l_q) + sum_(p left of q) right_p cost(l_p, l_q)

Everywhere `unary` is (B, R, C, L), `down` (B, R - 1, C), `right` (B, R, C - 1), `cost` symmetric with a
zero diagonal, (L, L) or (B, L, L), labels (B, R, C) int64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

EXACT_ROWS = 8  # up to here two labels are solved exactly in one pass


def energy(unary: Tensor, down: Tensor, right: Tensor, cost: Tensor, labels: Tensor) -> Tensor:
    """(B,) E of the labels.

    Args:
        unary: Cost of each label in each cell.
        down: Weight of each border between a cell and the one below.
        right: Weight of each border between a cell and the one to its right.
        cost: Cost of two labels beside each other.
        labels: The labels that are judged.
    """
    vertical = down * _pair_cost(cost, labels[:, :-1], labels[:, 1:])
    horizontal = right * _pair_cost(cost, labels[:, :, :-1], labels[:, :, 1:])
    return unary.gather(3, labels[..., None]).sum((1, 2, 3)) + vertical.sum((1, 2)) + horizontal.sum((1, 2))


def solve(unary: Tensor, down: Tensor, right: Tensor, cost: Tensor) -> Tensor:
    """The labels of least E, exactly: dynamic programming over columns, whose states are the L^R labelings of one
    column.

    Args:
        unary: Cost of each label in each cell.
        down: Weight of each border between a cell and the one below.
        right: Weight of each border between a cell and the one to its right.
        cost: Cost of two labels beside each other.
    """
    batch, rows, columns, count = unary.shape
    states = _digits(count**rows, rows, count, unary)  # (S, R)
    onehot = F.one_hot(states, count).to(unary.dtype).flatten(1)  # (S, R L)
    # (L, L, B or 1): the batch last, so that every step runs along it
    last = (cost if cost.ndim == 3 else cost[None]).permute(1, 2, 0)

    column = onehot @ unary.permute(1, 3, 2, 0).reshape(rows * count, -1)  # energy of each state in each column
    column = column.view(-1, columns, batch)
    beside = last[states[:, :-1], states[:, 1:]]  # (S, R - 1, B or 1)
    for r in range(rows - 1):
        column = column + beside[:, r, None] * down[:, r].T
    across = right.permute(1, 2, 0)  # (R, C - 1, B)

    best, before = column[:, 0], []
    for c in range(1, columns):
        before.append(best)
        best = _relax(best, across[:, c - 1], last) + column[:, c]
    state, path = best.argmin(0), []
    for c in range(columns - 1, 0, -1):  # back from the last column: the state before that led here most cheaply
        path.append(state)
        step = _cost_rows(cost, states[state]) * across[:, c - 1].T[..., None]  # (B, R, L)
        state = (before[c - 1] + onehot @ step.flatten(1).T).argmin(0)
    path.append(state)
    return states[torch.stack(path[::-1])].permute(1, 2, 0)


def sweep(unary: Tensor, down: Tensor, right: Tensor, cost: Tensor, labels: Tensor, height: int, step: int) -> Tensor:
    """Labels of no larger E: strips of rows, then of columns, each solved exactly with the cells around it fixed. The
    last strip ends with the grid.

    Args:
        unary: Cost of each label in each cell.
        down: Weight of each border between a cell and the one below.
        right: Weight of each border between a cell and the one to its right.
        cost: Cost of two labels beside each other.
        labels: Where the sweep begins.
        height: Rows, or columns, of a strip.
        step: By how many rows or columns a strip begins after the one before.
    """
    for turned in (False, True):
        if turned:
            unary, labels, down, right = (
                unary.transpose(1, 2),
                labels.transpose(1, 2),
                right.transpose(1, 2),
                down.transpose(1, 2),
            )
        rows = unary.shape[1]
        for a in [*range(0, rows - height, step), max(rows - height, 0)]:
            b = min(a + height, rows)
            strip = unary[:, a:b]
            if a > 0:
                fixed = down[:, a - 1, :, None] * _cost_rows(cost, labels[:, a - 1])
                strip = torch.cat([strip[:, :1] + fixed[:, None], strip[:, 1:]], 1)
            if b < rows:
                fixed = down[:, b - 1, :, None] * _cost_rows(cost, labels[:, b])
                strip = torch.cat([strip[:, :-1], strip[:, -1:] + fixed[:, None]], 1)
            solved = solve(strip, down[:, a : b - 1], right[:, a:b], cost)
            labels = torch.cat([labels[:, :a], solved, labels[:, b:]], 1)
    return labels.transpose(1, 2)


def best_of(unary: Tensor, down: Tensor, right: Tensor, cost: Tensor, starts: Tensor, height: int, step: int) -> Tensor:
    """The best of one sweep from each of several labelings, all at once.

    Args:
        unary: Cost of each label in each cell.
        down: Weight of each border between a cell and the one below.
        right: Weight of each border between a cell and the one to its right.
        cost: Cost of two labels beside each other.
        starts: The N labelings, (N, B, R, C).
        height: Rows, or columns, of a strip.
        step: By how many rows or columns a strip begins after the one before.
    """
    count = len(starts)
    unary, down, right = (t.repeat(count, 1, 1, *[1] * (t.ndim - 3)) for t in (unary, down, right))
    cost = cost.repeat(count, 1, 1) if cost.ndim == 3 else cost
    labels = sweep(unary, down, right, cost, starts.flatten(0, 1), height, step)
    best = energy(unary, down, right, cost, labels).view(count, -1).argmin(0)
    return labels.view(starts.shape).gather(0, best[None, :, None, None].expand_as(starts[:1]))[0]


def cut(on: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """(B, R, C) int64 in {0, 1}: minimum of sum_p on_p x_p + sum down |x_p - x_q| + sum right |x_p - x_q|.

    Exact up to 8 rows. Beyond, the better of two sweeps over overlapping 8-row strips, from all 0 and from all 1, which
    close in on the minimum from both sides: without proof, but the minimum in every one of many hundred trials with the
    energies of PuzzleMix.

    Args:
        on: Cost of x_p = 1, (B, R, C).
        down: Weight of each border between a cell and the one below.
        right: Weight of each border between a cell and the one to its right.
    """
    unary = torch.stack([torch.zeros_like(on), on], 3)
    cost = 1 - torch.eye(2, dtype=on.dtype, device=on.device)
    if on.shape[1] <= EXACT_ROWS:
        return solve(unary, down, right, cost)
    zeros = torch.zeros_like(on, dtype=torch.int64)
    return best_of(unary, down, right, cost, torch.stack([zeros, zeros + 1]), EXACT_ROWS, EXACT_ROWS // 2)


def three_labels(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Minimum of E for L = 3 labels, cost (l - l')^2 / 4, unary convex in the label and weights >= 0; as exact as
    `cut`.

    Such an energy is L-natural-convex, so the minimum is one cut up and one cut down from the middle label: first which
    cells go from 1 to 2, then which cells go one down (Murota, Discrete Convex Analysis, 2003; Kolmogorov & Shioura,
    Discrete Optimization 6, 2009).

    Args:
        unary: Cost of each of the three labels in each cell.
        down: Weight of each border between a cell and the one below.
        right: Weight of each border between a cell and the one to its right.
    """
    down, right = down / 4, right / 4
    labels = 1 + cut(unary[..., 2] - unary[..., 1], down, right)

    step = unary.gather(3, labels[..., None] - 1)[..., 0] - unary.gather(3, labels[..., None])[..., 0]
    # (d - 1)^2 - d^2 = -2 d + 1 for the difference d of a cell and its neighbour
    vertical = 2 * down * (labels[:, :-1] - labels[:, 1:])
    horizontal = 2 * right * (labels[:, :, :-1] - labels[:, :, 1:])
    step = (
        step
        - F.pad(vertical, (0, 0, 0, 1))
        + F.pad(vertical, (0, 0, 1, 0))
        - F.pad(horizontal, (0, 1))
        + F.pad(horizontal, (1, 0))
    )
    return labels - cut(step, down, right)


def transport(saliency: Tensor, visible: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Where each cell's content comes from (the masked transport of PuzzleMix, arXiv:2009.06962): `source` (B, N) int64
    and `filled` (B, N) bool, N = G^2.

    Moving cell i to j costs eps |i - j|^2 / (G - 1)^2 - saliency_i visible_j. In each of G rounds every cell claims its
    cheapest place; a place goes to the cheapest claim if that is below 0, all others pay 1 more.

    Args:
        saliency: Of each cell, (B, G, G), sums to 1.
        visible: Where the mask shows the image, (B, G, G) bool.
        eps: Cost of moving from one corner to the next.
    """
    batch, side, _ = saliency.shape
    cells = side * side
    index = torch.arange(cells, device=saliency.device)
    distance = (index[:, None] // side - index // side) ** 2 + (index[:, None] % side - index % side) ** 2
    price = eps * distance / (side - 1) ** 2 - saliency.reshape(batch, cells, 1) * visible.reshape(batch, 1, cells)
    index = index.expand(batch, cells)
    for _ in range(side):
        value, place = price.min(2)
        cheapest = torch.zeros_like(value).scatter_reduce(1, place, value, "amin")
        able = (value < 0) & (value == cheapest.gather(1, place))
        winner = torch.full_like(index, cells).scatter_reduce(1, place, torch.where(able, index, cells), "amin")
        lost = winner.gather(1, place) != index
        price.scatter_(2, place[..., None], (value + lost)[..., None])
    return winner.clamp(max=cells - 1), winner < cells


# ---- pieces


def _digits(count: int, length: int, base: int, like: Tensor) -> Tensor:
    """(count, length) int64 digits of 0 .. count - 1."""
    numbers = torch.arange(count, device=like.device)
    return torch.stack([numbers // base ** (length - 1 - i) % base for i in range(length)], 1)


def _relax(best: Tensor, weight: Tensor, cost: Tensor) -> Tensor:
    """(S, B): least over previous states s' of best(s') + sum_r weight_r cost(s'_r, s_r); `weight` (R, B), `cost` (L,
    L, B or 1)."""
    states, batch = best.shape
    count = len(cost)
    switch = cost[0, -1] * weight  # (R, B), of two labels; of one, nothing uses it
    for r in range(len(weight)):
        rest = count ** (len(weight) - 1 - r)
        v = best.view(-1, count, rest, batch)
        if count == 2:
            v = torch.minimum(v, v.flip(1) + switch[r])
        else:
            v = (v[:, :, None] + (cost * weight[r])[:, :, None]).amin(1)
        best = v.reshape(states, batch)
    return best


def _cost_rows(cost: Tensor, labels: Tensor) -> Tensor:
    """(B, C, L) cost of every label beside the given ones (B, C)."""
    if cost.ndim == 2:
        return cost[labels]
    return cost.gather(1, labels[..., None].expand(-1, -1, cost.shape[2]))


def _pair_cost(cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Cost of labels a beside b, of the same shape (B, ...)."""
    if cost.ndim == 2:
        return cost[a, b]
    flat = a.flatten(1) * cost.shape[2] + b.flatten(1)
    return cost.flatten(1).gather(1, flat).view(a.shape)
