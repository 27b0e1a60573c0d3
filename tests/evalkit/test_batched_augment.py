"""Augmentation in batch against timm's operations on PIL images, one by one."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from timm.data.auto_augment import rand_augment_transform

from evalkit.data import transforms as T
from evalkit.data.batched_augment import OPERATIONS, augment
from evalkit.data.decode import to_image, to_tensor
from evalkit.data.embedded import photos
from evalkit.data.randaugment import RandAugment

from .test_transforms import RA, keys

FILL = (124, 116, 104)


def crops(n, size, seed=0):
    """Crops of photographs; the first is of one colour, the second of few, the third uses a part of the levels."""
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        left, top = rng.integers(0, 300, 2)
        photo = list(photos().values())[i % 2].crop((left, top, left + size + 20, top + size + 9))
        out.append(photo.resize((size, size), Image.Resampling.BICUBIC))
    out[0] = Image.new("RGB", (size, size), (7, 200, 31))
    out[1] = Image.fromarray(np.asarray(out[1]) // 120 * np.uint8(90))
    out[2] = Image.fromarray(np.asarray(out[2]) // 3 + np.uint8(40))
    return out


def batch(images):
    return torch.stack([to_tensor(image) for image in images])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("config", ["rand-m9-mstd2-inc1-p1", "rand-m6-mstd4-p1"])
def test_every_operation_is_timms_within_a_grey_level(config, interpolation):
    settings = {"img_mean": FILL, "interpolation": T.INTERPOLATIONS[interpolation]}
    timms = rand_augment_transform(config, settings)
    ours = RandAugment(config, 61, T.IMAGENET_MEAN, T.INTERPOLATIONS[interpolation])
    images, state = crops(16, 61), random.getstate()
    for i, op in enumerate(timms.ops):
        expected, drawn = [], []
        ours.layers, ours.weights = 1, np.eye(len(timms.ops))[i]  # this operation and no other
        for seed, image in enumerate(images):
            rng = np.random.default_rng(seed)
            drawn.append(ours.coded(ours.draw(rng), 61))
            rng = np.random.default_rng(seed)
            rng.choice(len(timms.ops), 1, replace=False, p=ours.weights)
            random.seed(int(rng.integers(2**63)))
            try:
                expected.append(op(image))
            except ValueError:  # posterize to 0 bits, black until Pillow 13 refused it
                expected.append(Image.new("RGB", image.size))
        codes = np.array(drawn)
        got = augment(batch(images), codes[..., 0].astype(int), codes[..., 1], FILL, interpolation)
        difference = (got.int() - batch(expected).int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02, op
        moved = op.name.startswith(("Rotate", "Shear", "Translate"))
        assert moved or difference.max() == 0, op
    random.setstate(state)


def test_layers_follow_one_another_and_images_keep_to_themselves():
    """The batch, layer upon layer, is what each image becomes alone."""
    ours, images = RandAugment(RA, 40, T.IMAGENET_MEAN, Image.Resampling.BICUBIC), crops(48, 40)
    drawn = [ours.draw(np.random.default_rng(seed)) for seed in range(48)]
    codes = np.array([ours.coded(d, 40) for d in drawn])
    x = batch(images)
    before = x.clone()
    together = augment(x, codes[..., 0].astype(int), codes[..., 1], FILL, "bicubic")
    assert torch.equal(x, before) and {len(d) for d in drawn} == {0, 1, 2}
    for i in range(48):
        one = augment(x[i : i + 1], codes[i : i + 1, :, 0].astype(int), codes[i : i + 1, :, 1], FILL, "bicubic")
        assert torch.equal(one[0], together[i])
        if not drawn[i]:
            assert torch.equal(together[i], x[i])
    exact = batch([ours.apply(image, d) for image, d in zip(images, drawn)])
    apart = (together.int() - exact.int()).abs()
    assert (apart > 2).float().mean() < 1e-3  # a level more or less may cross a threshold of the second operation


def test_color_jitter_in_batch_is_torchvisions():
    images, transform = crops(12, 32), T.TrainTransform(keys(color_jitter=0.4, augment_device="device"))
    samples = [transform.sample(image, np.random.default_rng(seed)) for seed, image in enumerate(images)]
    codes = np.array([sample.augment for sample in samples])
    got = transform.finish(batch(images), codes[..., 0].astype(int), codes[..., 1])
    adjust = {"brightness": tvf.adjust_brightness, "contrast": tvf.adjust_contrast, "color": tvf.adjust_saturation}
    for image, sample, pixels in zip(images, samples, got):
        assert torch.equal(sample.pixels, to_tensor(image)) and len(sample.augment) == 3
        for operation, factor in sample.augment:
            image = adjust[OPERATIONS[operation]](image, factor)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(to_image(pixels)).astype(int)).max() <= 1


def test_the_device_gets_the_draws_of_the_cpu():
    """Same generator, same crops, flips, operations and erased boxes; pixels apart by rounding alone."""
    settings = {"image_size": 48, "augment": "rrc", "auto_augment": RA, "erasing": 0.5}
    here, there = (T.TrainTransform(keys(**settings, augment_device=where)) for where in ("cpu", "device"))
    image = next(iter(photos().values()))
    for seed in range(60):
        a, b = (t.sample(image, np.random.default_rng(seed)) for t in (here, there))
        assert a.erase == b.erase and a.view == b.view and not a.augment and len(b.augment) == 2
        codes = np.array([b.augment])
        got = there.finish(b.pixels[None], codes[..., 0].astype(int), codes[..., 1])[0]
        assert ((a.pixels.int() - got.int()).abs() > 2).float().mean() < 1e-3


@pytest.mark.slow
def test_the_law_is_timms():
    """20,000 draws: how often which operation, its value and its sign, against timm's own calls."""
    seen: list[tuple[str, float]] = []
    timms = rand_augment_transform(RA, {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC})
    for op in timms.ops:
        op.aug_fn = lambda image, *args, name=op.name, **_: seen.append((name, float(args[0]) if args else 0.0))
    random.seed(0), np.random.seed(0)
    for _ in range(20_000):
        timms(None)
    ours, drawn = RandAugment(RA, 224, T.IMAGENET_MEAN, Image.Resampling.BICUBIC), []
    for seed in range(20_000):
        for op, args in ours.draw(np.random.default_rng(seed)):
            drawn.append((op.name, float(args[0]) if args else 0.0))
    for sample in (seen, drawn):
        counts = [sum(name == op.name for name, _ in sample) for op in timms.ops]
        assert chisquare(counts).pvalue > 1e-3 and abs(sum(counts) - 20_000) < 500
    for op in timms.ops:
        a, b = (np.array([v for name, v in sample if name == op.name]) for sample in (seen, drawn))
        assert ks_2samp(a, b).pvalue > 1e-3, op.name
        assert abs((a > 0).mean() - (b > 0).mean()) < 0.06
