"""mmcv's operators as torchvision and PyTorch serve them, against references written out here in plain Python."""

import importlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision

from evalkit.downstream.mm import require

require("mmdet")
ops = importlib.import_module("mmcv.ops")


def reference_nms(boxes, scores, threshold, offset):
    """Greedy suppression in exact arithmetic: a box goes if it overlaps a better one by more than the threshold."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(0, width) * max(0, height)
    area = sum((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return Fraction(shared, area - shared)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [Fraction(3, 10), Fraction(1, 2), Fraction(7, 10)])
def test_nms_is_exact_suppression(threshold, offset):
    rng = np.random.default_rng(0)
    for _ in range(40):
        corner, side = rng.integers(0, 12, (25, 2)), rng.integers(1, 11, (25, 2))
        boxes, scores = np.concatenate([corner, corner + side], axis=1), rng.permutation(25) / 25 + 0.01
        kept = ops.nms(
            torch.tensor(boxes, dtype=torch.float32),
            torch.tensor(scores, dtype=torch.float32),
            float(threshold),
            offset,
        )[1]
        assert kept.tolist() == reference_nms(boxes.tolist(), scores, threshold, offset)


@pytest.mark.parametrize(("threshold", "other"), [(0.3, [0, 0, 3, 1]), (0.7, [0, 0, 7, 1])])
def test_an_overlap_of_exactly_the_threshold_is_kept(threshold, other):
    boxes = torch.tensor([[0, 0, 10, 1], other], dtype=torch.float32)
    assert ops.nms(boxes, torch.tensor([0.9, 0.8]), threshold)[1].tolist() == [0, 1]


def test_nms_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1]], dtype=torch.float32)  # as 2 x 2 pixels they share a third
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1] and ops.nms(boxes, scores, 0.3, offset=1)[
        1
    ].tolist() == [0]


def test_nms_of_no_boxes_and_batched():
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], dtype=torch.float32)
    kept = ops.batched_nms(
        boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0]), {"type": "nms", "iou_threshold": 0.5}
    )[1]
    assert sorted(kept.tolist()) == [1, 2]  # boxes of different classes do not suppress one another


def reference_roi_align(x, roi, size, scale, ratio, aligned):
    """Average of bilinear samples in each bin (Mask R-CNN, arXiv 1703.06870, section 3); `ratio` 0: one sample per
    pixel."""
    image, *corners = roi
    left, top, right, bottom = (c * scale - (0.5 if aligned else 0.0) for c in corners)
    width, height = (right - left, bottom - top) if aligned else (max(right - left, 1.0), max(bottom - top, 1.0))
    out = np.zeros((x.shape[1], size, size))
    rows, columns = (ratio or math.ceil(side / size) for side in (height, width))
    for i in range(size):
        for j in range(size):
            for a in range(rows):
                for b in range(columns):
                    v = top + (i + (a + 0.5) / rows) * height / size
                    u = left + (j + (b + 0.5) / columns) * width / size
                    out[:, i, j] += bilinear(x[int(image)], v, u) / (rows * columns)
    return out


def bilinear(x, v, u):
    height, width = x.shape[1:]
    if v < -1 or v > height or u < -1 or u > width:
        return 0.0
    v, u = min(max(v, 0.0), height - 1), min(max(u, 0.0), width - 1)
    v0, u0 = int(v), int(u)
    v1, u1 = min(v0 + 1, height - 1), min(u0 + 1, width - 1)
    p, q = v - v0, u - u0
    return (1 - p) * ((1 - q) * x[:, v0, u0] + q * x[:, v0, u1]) + p * ((1 - q) * x[:, v1, u0] + q * x[:, v1, u1])


ROIS = [[0, 1.0, 2.0, 21.0, 14.0], [1, 3.3, 4.7, 30.0, 23.0], [1, -6.0, -3.0, 8.0, 40.0], [0, 5.0, 5.0, 5.5, 5.2]]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(("size", "scale"), [(7, 0.5), (3, 0.25)])
def test_roi_align_is_the_average_of_bilinear_samples(size, scale, ratio, aligned):
    x = np.random.default_rng(1).normal(size=(2, 3, 12, 16))
    ours = ops.roi_align(
        torch.tensor(x), torch.tensor(ROIS, dtype=torch.float64), (size, size), scale, ratio, "avg", aligned
    )
    expected = [reference_roi_align(x, roi, size, scale, ratio, aligned) for roi in ROIS]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient_are_torchvisions(aligned):
    x = torch.randn(2, 4, 12, 16, requires_grad=True)
    rois, weight = torch.tensor(ROIS), torch.randn(4, 4, 7, 7)
    grads = []
    for pooled in (
        ops.roi_align(x, rois, (7, 7), 0.5, 0, "avg", aligned),
        torchvision.ops.roi_align(x, rois, (7, 7), 0.5, 0, aligned),
    ):
        grads.append((pooled, *torch.autograd.grad((pooled * weight).sum(), x)))
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])


def test_roi_align_gradient_is_that_of_finite_differences():
    x = torch.randn(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 1.0, 4.0, 4.0], [1, 0.0, 2.0, 5.0, 3.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, rois, (2, 2), 1.0, 2, "avg", True), x)


def test_roi_align_of_half_precision_keeps_the_coordinates_exact():
    x, rois = torch.randn(2, 3, 64, 64), torch.tensor([[0, 100.3, 90.7, 250.1, 230.9]])
    half = ops.roi_align(x.bfloat16(), rois, (7, 7), 0.25, 2, "avg", True)
    exact = ops.roi_align(x.bfloat16().float(), rois, (7, 7), 0.25, 2, "avg", True)
    assert half.dtype is torch.bfloat16 and torch.equal(half, exact.bfloat16())


def test_mask_targets_are_cut_and_resized():
    """mmdet cuts the masks of its training targets with RoIAlign."""
    masks = importlib.import_module("mmdet.structures.mask").BitmapMasks(
        np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8))[None], 16, 16
    )
    cut = masks.crop_and_resize(np.array([[0, 0, 16, 16]], np.float32), (4, 4), np.array([0]))
    assert cut.masks[0].tolist() == np.kron(np.eye(2, dtype=np.uint8), np.ones((2, 2), np.uint8)).tolist()


# ---- soft suppression


def reference_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """The loop of the paper's Algorithm 1, box by box."""
    left, picked = dict(enumerate(scores)), []
    while left:
        best = max(left, key=lambda i: left[i])
        picked.append((best, left.pop(best)))
        for i in list(left):
            iou = float(overlap(boxes[i], boxes[best], offset))
            if method == "gaussian":
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                left[i] *= 1 - iou if method == "linear" else 0.0
            if left[i] < min_score:
                del left[i]
    return picked


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_is_the_loop_of_the_paper(method, offset):
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner, side = rng.integers(0, 12, (20, 2)), rng.integers(1, 11, (20, 2))
        boxes, scores = np.concatenate([corner, corner + side], axis=1), rng.permutation(20) / 20 + 0.013
        dets, kept = ops.soft_nms(
            torch.tensor(boxes, dtype=torch.float32),
            torch.tensor(scores, dtype=torch.float32),
            0.37,
            0.5,
            0.05,
            method,
            offset,
        )
        expected = reference_soft_nms(boxes.tolist(), scores.tolist(), 0.37, 0.5, 0.05, method, offset)
        assert kept.tolist() == [i for i, _ in expected]
        np.testing.assert_allclose(dets[:, 4].numpy(), [s for _, s in expected], rtol=1e-5)
        assert torch.equal(dets[:, :4], torch.tensor(boxes, dtype=torch.float32)[kept])


def test_batched_suppression_keeps_classes_apart():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]], dtype=torch.float32)
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
    for kind in ("nms", "soft_nms"):
        found, kept = ops.batched_nms(boxes, scores, classes, {"type": kind, "iou_threshold": 0.5})
        rest = [0, 2] if kind == "nms" else [0, 2, 1]  # softly: 0.8 * (1 - 0.9) is left of the second
        assert kept.tolist() == rest and found[0, 4] == 0.9
        assert kind == "nms" or found[2, 4].item() == pytest.approx(0.8 * 0.1, abs=1e-5)


# ---- focal loss


def test_focal_loss_and_its_gradient_are_the_formula():
    """-(1 - p_t)^gamma alpha_t log(p_t), class 3 of 3 stands for background."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(8, 3)) * 3, rng.integers(0, 4, 8)
    logits = torch.tensor(x, requires_grad=True)
    for reduction in ("sum", "mean"):
        loss = ops.sigmoid_focal_loss(logits, torch.tensor(target), 1.5, 0.3, None, reduction)
        expected = 0.0
        for i in range(8):
            for c in range(3):
                p = 1 / (1 + math.exp(-x[i, c]))
                own = target[i] == c
                expected -= (0.3 if own else 0.7) * ((1 - p) if own else p) ** 1.5 * math.log(p if own else 1 - p)
        assert loss.item() == pytest.approx(expected / (8 if reduction == "mean" else 1), rel=1e-9)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    inside = torch.tensor(target % 3)
    for by_class in (None, weight):
        fn = lambda x, w=by_class: ops.sigmoid_focal_loss(x, inside, 1.5, 0.3, w, "mean")  # noqa: E731
        assert torch.autograd.gradcheck(fn, logits)


def test_focal_loss_is_that_of_mmdets_plain_form():
    """The one that mmdet takes on a CPU, without mmcv."""
    plain = importlib.import_module("mmdet.models.losses.focal_loss").py_sigmoid_focal_loss
    x, target = torch.randn(16, 5), torch.randint(0, 6, (16,))
    truth = torch.nn.functional.one_hot(target, 6)[:, :5]
    ours = ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, "sum")
    torch.testing.assert_close(ours, plain(x, truth, reduction="sum"), rtol=1e-5, atol=1e-5)


# ---- deformable convolution and attention


def zero_outside(x, v, u):
    """Bilinear sample of (C, H, W) at row v, column u, nothing beyond the edge."""
    total = np.zeros(x.shape[0])
    for row in (math.floor(v), math.floor(v) + 1):
        for column in (math.floor(u), math.floor(u) + 1):
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                total += x[:, row, column] * (1 - abs(v - row)) * (1 - abs(u - column))
    return total


def reference_deform(x, offset, weight, mask, stride, padding, dilation, groups):
    """Sum over the kernel of weights times samples at shifted places."""
    n, out, kh, kw = len(x), weight.shape[0], *weight.shape[2:]
    h, w = ((size + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for size, k in zip(x.shape[2:], (kh, kw)))
    found = np.zeros((n, out, h, w))
    per = x.shape[1] // groups
    for b in range(n):
        for i in range(h):
            for j in range(w):
                for k in range(kh * kw):
                    row, column = divmod(k, kw)
                    sample = []
                    for g in range(groups):
                        place = g * kh * kw + k
                        v = i * stride - padding + row * dilation + offset[b, 2 * place, i, j]
                        u = j * stride - padding + column * dilation + offset[b, 2 * place + 1, i, j]
                        part = zero_outside(x[b, g * per : (g + 1) * per], v, u)
                        sample.append(part * (1.0 if mask is None else mask[b, place, i, j]))
                    found[b, :, i, j] += weight[:, :, row, column] @ np.concatenate(sample)
    return found


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 2, 2, 2), (1, 0, 1, 2)])
def test_deformable_convolution_is_the_sum_over_shifted_places(stride, padding, dilation, groups):
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(2, 4, 6, 7)), rng.normal(size=(3, 4, 3, 3))
    h, w = ((s + 2 * padding - dilation * 2 - 1) // stride + 1 for s in x.shape[2:])
    offset, mask = rng.normal(size=(2, 18 * groups, h, w)), rng.random((2, 9 * groups, h, w))
    bias = rng.normal(size=3)
    given = [torch.tensor(v) for v in (x, offset, mask, weight, bias)]
    plain = ops.deform_conv2d(given[0], given[1], given[3], stride, padding, dilation, 1, groups)
    np.testing.assert_allclose(
        plain.numpy(), reference_deform(x, offset, weight, None, stride, padding, dilation, groups), atol=1e-9
    )
    modulated = ops.modulated_deform_conv2d(*given, stride, padding, dilation, 1, groups)
    expected = reference_deform(x, offset, weight, mask, stride, padding, dilation, groups) + bias[:, None, None]
    np.testing.assert_allclose(modulated.numpy(), expected, atol=1e-9)


def test_deformable_convolutions_have_the_gradients_of_finite_differences():
    rng = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=rng, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, weight, offset, mask, bias = draw(2, 2, 4, 4), draw(2, 2, 3, 3), draw(2, 18, 4, 4), draw(2, 9, 4, 4), draw(2)
    assert torch.autograd.gradcheck(lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1, 1, 1, 1), (x, offset, weight))
    assert torch.autograd.gradcheck(
        lambda *given: ops.modulated_deform_conv2d(*given, 1, 1, 1, 1, 1), (x, offset, mask, weight, bias)
    )
    without = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    assert all(g is not None for g in torch.autograd.grad(without.sum(), (x, offset, mask, weight)))


def test_deformable_attention_is_the_sum_of_samples():
    """Two levels, two heads, three points: weights times bilinear samples, places in [0, 1] of each map."""
    function = importlib.import_module("mmcv.ops.multi_scale_deform_attn").MultiScaleDeformableAttnFunction.apply
    rng = np.random.default_rng(3)
    sizes, heads, dim, queries, points = [(4, 5), (2, 3)], 2, 3, 4, 3
    keys = sum(h * w for h, w in sizes)
    value, places = rng.normal(size=(2, keys, heads, dim)), rng.uniform(-0.1, 1.1, (2, queries, heads, 2, points, 2))
    weights = rng.random((2, queries, heads, 2, points))
    expected = np.zeros((2, queries, heads, dim))
    for b, q, m, level, p in np.ndindex(2, queries, heads, 2, points):
        h, w = sizes[level]
        start = 0 if level == 0 else 20
        grid = value[b, start : start + h * w, m].T.reshape(dim, h, w)
        u, v = places[b, q, m, level, p]
        expected[b, q, m] += weights[b, q, m, level, p] * zero_outside(grid, v * h - 0.5, u * w - 0.5)
    given = [torch.tensor(v, requires_grad=True) for v in (value, places, weights)]
    shapes, starts = torch.tensor(sizes), torch.tensor([0, 20])
    run = lambda value, places, weights: function(value, shapes, starts, places, weights, 64)  # noqa: E731
    np.testing.assert_allclose(run(*given).detach().numpy(), expected.reshape(2, queries, -1), atol=1e-9)
    grads = torch.autograd.grad(run(*given).sum(), given)
    for leaf, gradient in zip(given, grads):  # along one direction, by finite differences
        direction, step = torch.randn_like(leaf), 1e-6
        moved = [
            run(*[x + sign * step * direction if x is leaf else x for x in given]).sum().item() for sign in (1, -1)
        ]
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=1e-4)
