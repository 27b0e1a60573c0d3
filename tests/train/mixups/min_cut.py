"""The exact minimum of a three-label grid energy with costs (l - l')^2 / 4, by maximum flow."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

SQUARES = torch.tensor([[0, 1, 4], [1, 0, 1], [4, 1, 0]], dtype=torch.float64) / 4


def minimum(unary, down, right, scale=2e7):
    """Least energy of one sample; `unary` (R, C, 3), `down` (R - 1, C), `right` (R, C - 1).

    Binary variables a_p = [l_p > 0] >= b_p = [l_p > 1] turn (l - l')^2 / 4 into unary terms and -1/2 x_p x_q for all
    four pairs of them."""
    unary, down, right = (t.numpy() for t in (unary, down, right))
    rows, columns, _ = unary.shape
    node = np.arange(rows * columns * 2).reshape(rows, columns, 2)
    source, sink = node.size, node.size + 1
    linear = np.diff(unary, axis=2)
    capacity = np.zeros((node.size + 2, node.size + 2))
    edges = [((r, c), (r + 1, c), down[r, c]) for r in range(rows - 1) for c in range(columns)]
    edges += [((r, c), (r, c + 1), right[r, c]) for r in range(rows) for c in range(columns - 1)]
    for p, q, w in edges:
        for cell in (p, q):
            linear[cell] += w * np.array([0.25, 0.75])
        for i in node[p]:
            for j in node[q]:  # -w/2 x_i x_j = -w/2 x_j + w/2 x_j (1 - x_i)
                capacity[j, i] += w / 2
        linear[q] -= w
    flat = linear.ravel()
    capacity[source, : node.size] = np.maximum(-flat, 0)
    capacity[: node.size, sink] = np.maximum(flat, 0)
    whole = np.rint(capacity * scale).astype(np.int64)
    whole[node[..., 1].ravel(), node[..., 0].ravel()] = 2**30  # b_p implies a_p
    graph = csr_matrix(whole.astype(np.int32))
    rest = graph - maximum_flow(graph, source, sink).flow
    rest.data[rest.data < 0] = 0
    rest.eliminate_zeros()
    on = np.zeros(node.size + 2, bool)
    on[breadth_first_order(rest, source, return_predecessors=False)] = True
    labels = on[: node.size].reshape(node.shape).sum(2)

    total = np.take_along_axis(unary, labels[..., None], 2).sum()
    total += (down * np.diff(labels, axis=0) ** 2).sum() / 4 + (right * np.diff(labels, axis=1) ** 2).sum() / 4
    return float(total)
