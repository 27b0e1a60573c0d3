"""Transforms against torchvision and timm on PIL images, and random ones against their laws with the same draws."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import timm.data
import torch
import torchvision.transforms as tv
from PIL import Image, ImageOps
from scipy.stats import ks_2samp
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import functional as tvf

from evalkit.data import transforms as T
from evalkit.data.randaugment import RandAugment
from evalkit.errors import EvalkitError

BILINEAR = Image.Resampling.BILINEAR
RA = "rand-m9-mstd0.5-inc1"


def picture(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (max(2, height // 4), max(2, width // 4), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), BILINEAR)


def keys(**changes):
    defaults = {
        "image_size": 32,
        "augment": "none",
        "auto_augment": None,
        "color_jitter": 0.0,
        "erasing": 0.0,
        "interpolation": "bicubic",
    }
    defaults |= {"crop_scale": [0.08, 1.0], "decode": "exact", "augment_device": "cpu"}
    return SimpleNamespace(**(defaults | changes))


def pixels(tensor):
    return tensor.permute(1, 2, 0).numpy()


class TorchDraws:
    """A generator's methods on torch's global stream, drawn the way torchvision draws them."""

    def uniform(self, low, high):
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, low, high):
        return torch.randint(low, high, (1,)).item()


class PythonDraws:
    """A generator's methods on Python's global stream, drawn the way timm draws them."""

    def random(self):
        return random.random()

    def uniform(self, low, high):
        return random.uniform(low, high)

    def integers(self, low, high):
        return random.randint(low, high - 1)


# ---- evaluation


@pytest.mark.parametrize(
    "shape", [(500, 300), (300, 500), (224, 224), (333, 500), (640, 427), (1000, 60), (57, 91), (1, 1), (257, 256)]
)
@pytest.mark.parametrize("size", [224, 160, 33])
def test_published_equals_torchvision(shape, size):
    image = picture(*shape)
    resize = size * 256 // 224
    expected = tv.Compose([tv.Resize(resize, tv.InterpolationMode.BILINEAR), tv.CenterCrop(size), tv.PILToTensor()])(
        image
    )
    got = T.eval_transform("published", size)(image)
    assert got.dtype == torch.uint8 and got.shape == (3, size, size) and torch.equal(got, expected)


def test_published_vector_500_x_300():
    """Resized to 426 x 256, cropped from (16, 101): ties of the rounding go to even."""
    image = picture(500, 300)
    by_hand = image.resize((426, 256), BILINEAR).crop((101, 16, 325, 240))
    assert np.array_equal(pixels(T.eval_transform("published", 224)(image)), np.asarray(by_hand))


@pytest.mark.parametrize("resize, interpolation", [(236, "bicubic"), (256, "lanczos")])
def test_other_resizes_equal_torchvision(resize, interpolation):
    image = picture(321, 240)
    mode = {"bicubic": tv.InterpolationMode.BICUBIC, "lanczos": tv.InterpolationMode.LANCZOS}[interpolation]
    expected = tv.Compose([tv.Resize(resize, mode), tv.CenterCrop(224), tv.PILToTensor()])(image)
    assert torch.equal(T.EvalTransform(224, resize, interpolation)(image), expected)


@pytest.mark.parametrize(
    "name", ["deit_small_patch16_224", "eva02_tiny_patch14_336.mim_in22k_ft_in1k", "convnext_tiny.fb_in1k"]
)
def test_model_mode_is_timms(name):
    cfg = timm.get_pretrained_cfg(name).to_dict()
    expected = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg), is_training=False)
    size, image = cfg["input_size"][-1], picture(400, 300)
    got = T.eval_transform("model", size, cfg)(image)
    mean, std = (torch.tensor(cfg[k])[:, None, None] for k in ("mean", "std"))
    assert got.dtype == torch.uint8
    torch.testing.assert_close((got.float() / 255 - mean) / std, expected(image), rtol=0, atol=1e-5)


def test_native_takes_images_as_they_are():
    image = picture(32, 32)
    transform = T.eval_transform("native", 32)
    assert np.array_equal(pixels(transform(image)), np.asarray(image))
    with pytest.raises(EvalkitError, match="33 x 32, but 32 x 32"):
        transform(picture(33, 32))


def test_wrong_settings_are_refused():
    with pytest.raises(EvalkitError, match="Did you mean 'published'"):
        T.eval_transform("publshed", 224)
    with pytest.raises(EvalkitError, match="Did you mean 'bicubic'"):
        T.EvalTransform(224, 256, "bicubik")
    with pytest.raises(EvalkitError, match="less than the crop"):
        T.EvalTransform(224, 200)
    with pytest.raises(ValueError, match="cfg"):
        T.eval_transform("model", 224)


# ---- training


def test_none_changes_nothing_or_fits():
    rng = np.random.default_rng(0)
    image = picture(32, 32)
    assert np.array_equal(pixels(T.TrainTransform(keys())(image, rng)), np.asarray(image))
    fitted = tv.Compose([tv.Resize(32, tv.InterpolationMode.BICUBIC), tv.CenterCrop(32), tv.PILToTensor()])(
        picture(90, 50)
    )
    assert torch.equal(T.TrainTransform(keys())(picture(90, 50), rng), fitted)


def test_pad_crop_covers_all_offsets_evenly():
    image = picture(32, 32)
    padded = np.asarray(tvf.pad(image, [4], padding_mode="reflect"))
    windows = {padded[top : top + 32, left : left + 32].tobytes(): (top, left) for top in range(9) for left in range(9)}
    rng, transform = np.random.default_rng(0), T.TrainTransform(keys(augment="pad-crop"))
    offsets = [windows[pixels(transform(image, rng)).tobytes()] for _ in range(1500)]
    counts = np.zeros((9, 9), int)
    np.add.at(counts, tuple(np.transpose(offsets)), 1)
    assert counts.min() >= 5 and counts.max() <= 40  # 18.5 expected
    flipped = T.TrainTransform(keys(augment="pad-crop-flip"))
    mirrored = [pixels(flipped(image, rng)).tobytes() not in windows for _ in range(400)]
    assert 160 < sum(mirrored) < 240


@pytest.mark.parametrize("width, height", [(500, 375), (64, 64), (1000, 100), (40, 300), (3, 2)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.9)])
def test_random_resized_crop_draw_for_draw_as_torchvision(width, height, scale):
    image, same, draws = Image.new("RGB", (width, height)), 0, 300
    for seed in range(draws):
        torch.manual_seed(seed)
        top, left, h, w = tv.RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3))
        torch.manual_seed(seed)
        same += T.random_resized_crop(width, height, TorchDraws(), scale) == (left, top, w, h)
    assert same >= draws - 1  # torchvision takes the logarithms in float32: a side may round to the other neighbour


def test_rrc_with_its_own_generator_follows_the_same_law():
    rng = np.random.default_rng(0)
    ours = np.array([T.random_resized_crop(500, 375, rng) for _ in range(3000)])
    torch.manual_seed(0)
    image = Image.new("RGB", (500, 375))
    theirs = np.array([tv.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])[
        :, [1, 0, 3, 2]
    ]
    assert all(ks_2samp(ours[:, k], theirs[:, k]).pvalue > 1e-3 for k in range(4))


def test_rrc_resizes_the_crop_and_flips_half():
    image, transform = picture(80, 60), T.TrainTransform(keys(augment="rrc", crop_scale=[0.3, 0.6]))
    flips = 0
    for seed in range(60):
        got = pixels(transform(image, np.random.default_rng(seed)))
        left, top, w, h = T.random_resized_crop(80, 60, np.random.default_rng(seed), (0.3, 0.6))
        plain = tvf.resized_crop(image, top, left, h, w, (32, 32), tv.InterpolationMode.BICUBIC)
        mirrored = np.array_equal(got, np.asarray(ImageOps.mirror(plain)))
        assert mirrored or np.array_equal(got, np.asarray(plain))
        flips += mirrored
    assert 18 < flips < 42


def test_the_view_is_what_the_training_image_shows():
    """The box, cut out of the image and resized, is the training image."""
    image = picture(80, 60)
    for seed in range(20):
        sample = T.TrainTransform(keys(augment="rrc", color_jitter=0.0)).sample(image, np.random.default_rng(seed))
        got, view = sample.pixels, sample.view
        left, top, width, height = (
            round(v) for v in (80 * view.left, 60 * view.top, 80 * view.width, 60 * view.height)
        )
        plain = tvf.resized_crop(image, top, left, height, width, (32, 32), tv.InterpolationMode.BICUBIC)
        assert np.array_equal(pixels(got), np.asarray(ImageOps.mirror(plain) if view.flip else plain))
        assert torch.equal(got, T.TrainTransform(keys(augment="rrc"))(image, np.random.default_rng(seed)))
    for size, box in [((32, 32), (0, 0, 1, 1)), ((64, 32), (0.25, 0, 0.5, 1)), ((32, 128), (0, 0.375, 1, 0.25))]:
        view = T.TrainTransform(keys(color_jitter=0.4)).sample(picture(*size), np.random.default_rng(0)).view
        assert (view.left, view.top, view.width, view.height, view.flip) == (*box, False)
    for odd in ({"augment": "pad-crop"}, {"augment": "pad-crop-flip"}, {"augment": "rrc", "auto_augment": RA}):
        assert T.TrainTransform(keys(**odd)).sample(picture(32, 32), np.random.default_rng(0)).view is None


def test_color_jitter_is_torchvisions_with_uniform_factors():
    class Given:
        def __init__(self, factors, order):
            self.factors, self.order, self.bounds = iter(factors), order, []

        def uniform(self, low, high):
            self.bounds.append((low, high))
            return next(self.factors)

        def permutation(self, n):
            return self.order

    image, factors = picture(20, 16), (1.3, 0.7, 1.2)
    adjust = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        given, expected = Given(factors, order), image
        for i in order:
            expected = adjust[i](expected, factors[i])
        assert np.array_equal(np.asarray(T.color_jitter(image, T.color_changes(0.4, given))), np.asarray(expected))
        assert given.bounds == [(0.6, 1.4)] * 3 and tuple(tv.ColorJitter(0.4).brightness) == (0.6, 1.4)


def test_transform_is_driven_by_its_generator_alone():
    transform = T.TrainTransform(keys(augment="rrc", auto_augment=RA, erasing=1.0))
    image, rng = picture(50, 40), np.random.default_rng
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = [(s.pixels, s.erase) for s in (transform.sample(image, g) for g in map(rng, range(20)))]
    assert (
        random.getstate() == states[0]
        and np.array_equal(np.random.get_state()[1], states[1])
        and torch.equal(torch.get_rng_state(), states[2])
    )
    random.seed(2)
    again = [(s.pixels, s.erase) for s in (transform.sample(image, g) for g in map(rng, range(20)))]
    assert all(torch.equal(a, b) and box == same for (a, box), (b, same) in zip(first, again))
    assert len({a.numpy().tobytes() for a, _ in first}) == 20


def test_wrong_recipes_are_refused():
    for changes, message in (
        ({"augment": "rcc"}, "Did you mean 'rrc'"),
        ({"interpolation": "cubic"}, "Did you mean 'bicubic'"),
        ({"auto_augment": "randm9"}, "not a RandAugment string"),
        ({"auto_augment": "augmix-m5"}, "not a RandAugment string"),
        ({"auto_augment": "rand-mx9"}, "not a RandAugment string"),
        ({"auto_augment": RA, "color_jitter": 0.3}, "set color_jitter=0"),
        ({"erasing": 1.5}, "probability"),
        ({"color_jitter": -1}, "negative"),
    ):
        with pytest.raises(EvalkitError, match=message):
            T.TrainTransform(keys(**changes))


# ---- RandAugment


def test_rand_augment_is_timms_op_for_op():
    """timm's own operations, in the order and with the stream that ours draws, give the same pixels."""
    image = picture(48, 48)
    ours = RandAugment(RA, 48, T.IMAGENET_MEAN, Image.Resampling.BICUBIC)
    theirs = rand_augment_transform(
        RA, {"translate_const": 21, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    )
    assert ours.layers == 2 and ours.weights is None and [op.name for op in ours.ops] == [op.name for op in theirs.ops]
    state = random.getstate()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        chosen = rng.choice(15, 2)
        random.seed(int(rng.integers(2**63)))
        expected = image
        try:
            for i in chosen:
                expected = theirs.ops[i](expected)
        except ValueError:  # posterize to 0 bits, refused by Pillow 13
            continue
        assert np.array_equal(np.asarray(ours(image, np.random.default_rng(seed))), np.asarray(expected)), seed
    random.setstate(state)


def test_train_transform_gives_rand_augment_timms_settings():
    """The settings of timm's own training pipeline for the same size, mean and interpolation."""
    pipeline = timm.data.create_transform(224, is_training=True, auto_augment=RA, interpolation="bicubic")
    theirs = next(t for t in pipeline.transforms if hasattr(t, "ops"))
    ours = T.TrainTransform(keys(image_size=224, augment="rrc", auto_augment=RA)).rand_augment
    for a, b in zip(ours.ops, theirs.ops, strict=True):
        assert (a.name, a.prob, a.magnitude, a.magnitude_std, a.kwargs, a.hparams) == (
            b.name,
            b.prob,
            b.magnitude,
            b.magnitude_std,
            b.kwargs,
            b.hparams,
        )


def test_posterize_to_no_bits_is_black():
    ours = RandAugment("rand-m10-mstd0-inc1-p1", 8, T.IMAGENET_MEAN, BILINEAR)
    op = next(op for op in ours.ops if op.name == "PosterizeIncreasing")
    assert not np.asarray(op(picture(8, 8))).any()
    op.magnitude = 5  # 2 bits
    assert np.array_equal(np.asarray(op(picture(8, 8))), np.asarray(ImageOps.posterize(picture(8, 8), 2)))


@pytest.mark.slow
def test_rand_augment_of_the_deit_recipe_survives_20000_draws():
    ours, image, black = RandAugment(RA, 16, T.IMAGENET_MEAN, BILINEAR), picture(16, 16), 0
    for seed in range(20_000):
        out = ours(image, np.random.default_rng(seed))
        assert out.size == (16, 16) and out.mode == "RGB"
        black += not np.asarray(out).any()
    assert 5 < black < 120  # about 31 of 20,000 ask for 0 bits


def test_erase_box_probability():
    transform, rng = T.TrainTransform(keys(erasing=0.25)), np.random.default_rng(0)
    drawn = [transform.erase_box(rng)[2] > 0 for _ in range(2000)]
    assert 430 < sum(drawn) < 570
    assert T.TrainTransform(keys()).erase_box(rng) == (0, 0, 0, 0)
