"""Random erasing against timm's, draw for draw."""

import random

import numpy as np
import torch
from scipy.stats import kstest
from timm.data.random_erasing import RandomErasing

from evalkit.data.erasing import erase_boxes, erase_noise, random_erase_box

from .test_transforms import PythonDraws


def test_erase_box_draw_for_draw_as_timm():
    for seed in range(300):
        random.seed(seed)
        x = torch.zeros(3, 40, 56)
        RandomErasing(0.5, mode="pixel", device="cpu")(x)
        random.seed(seed)
        top, left, h, w = random_erase_box(40, 56, 0.5, PythonDraws())
        expected = torch.zeros(40, 56, dtype=torch.bool)
        expected[top : top + h, left : left + w] = True
        assert torch.equal((x != 0).all(dim=0), expected)


def test_erase_boxes_fills_the_boxes_with_standard_normal_noise():
    x, boxes = torch.full((3, 3, 64, 64), 7.0), torch.tensor([[4, 8, 50, 40], [0, 0, 0, 0], [0, 60, 64, 4]])
    noise = erase_noise(boxes, np.random.default_rng(0))
    expected, at = x.clone(), 0
    for image, (top, left, h, w) in zip(expected, boxes.tolist()):
        image[:, top : top + h, left : left + w] = noise[at : at + 3 * h * w].view(3, h, w)
        at += 3 * h * w
    assert at == len(noise) and torch.equal(erase_boxes(x, boxes, noise), expected)
    assert kstest(noise.numpy(), "norm").pvalue > 1e-3
    assert torch.equal(noise, erase_noise(boxes, np.random.default_rng(0)))
    last = x.clone(memory_format=torch.channels_last)
    assert torch.equal(erase_boxes(last.fill_(7.0), boxes, noise), expected)
    none = torch.zeros(2, 4, dtype=torch.int64)
    untouched = erase_boxes(torch.ones(2, 3, 8, 8), none, erase_noise(none, np.random.default_rng(0)))
    assert (untouched == 1).all()
