"""mmcv's operators as torchvision serves them, against references written out here in plain Python."""

import importlib
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision

from evalkit.downstream.mm import ext, require
from evalkit.errors import EvalkitError

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


def test_other_operators_say_what_is_missing():
    with pytest.raises(EvalkitError, match="mmcv's operator 'softnms' needs compiled code"):
        ops.soft_nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.5]))
    with pytest.raises(EvalkitError, match="pool_mode='max' needs"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), (2, 2), 1.0, 2, "max", True)


def test_a_compiled_extension_wins(tmp_path, monkeypatch):
    import mmcv

    (tmp_path / "_ext.py").write_text("compiled = True")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, ext.NAME)
    importlib.invalidate_caches()
    assert importlib.import_module(ext.NAME).compiled is True
    monkeypatch.delitem(sys.modules, ext.NAME)
    (tmp_path / "_ext.py").unlink()
    importlib.invalidate_caches()
    assert importlib.import_module(ext.NAME).nms is ext.nms


def test_installing_twice_is_installing_once():
    ext.install()
    assert sum(isinstance(finder, ext.Finder) for finder in sys.meta_path) == 1
