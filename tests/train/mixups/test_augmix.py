import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.special import rel_entr, softmax

from evalkit.errors import EvalkitError
from evalkit.train import train_step
from evalkit.train.mixups import augmix as module
from evalkit.train.mixups.augmix import OPERATIONS, AugMix, Views, augmix, jensen_shannon

from .fakes import TinyCNN, context

TOP = 10.0


class Scripted:
    """A generator whose draws are written down."""

    def __init__(self, **script):
        self.script = {name: iter(values) for name, values in script.items()}

    def __getattr__(self, name):
        return lambda *args, **kwargs: next(self.script[name])


def photo(width=32, height=32, seed=0):
    noise = np.random.default_rng(seed).random((height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0))
    return Image.fromarray((255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8))


def apply(name, level, image, sign=0.0):
    return np.asarray(getattr(module, f"_{name}")(image, level, Scripted(random=[sign]))).astype(int)


# ---- the blend


def test_the_equation():
    """Three chains of 1, 2 and 3 operations; weights 0.2, 0.3, 0.5; 0.4 of the augmented image."""
    image = photo()
    add = [lambda i, level, rng, k=k: Image.fromarray(np.asarray(i) // 4 + k) for k in range(4)]
    script = Scripted(
        dirichlet=[np.array([0.2, 0.3, 0.5])], beta=[0.4], integers=[1, 3, 2, 0, 1, 3, 2, 2, 0], uniform=[1.0] * 6
    )
    view = augmix(image, script, 3.0, 3, 0, tuple(add))
    x = np.asarray(image).astype(int)
    chains = [x // 4 + 3, (x // 4) // 4 + 1, ((x // 4 + 2) // 4 + 2) // 4]
    expected = (0.6 * x + 0.4 * (0.2 * chains[0] + 0.3 * chains[1] + 0.5 * chains[2])) / 255
    assert view.dtype == np.float32 and np.allclose(view, expected, atol=1e-6)


def test_no_augmented_share_and_identity_chains_give_the_clean_image():
    image, clean = photo(40, 24), (np.asarray(photo(40, 24)) / 255).astype(np.float32)
    script = Scripted(
        dirichlet=[np.array([1.0, 0.0, 0.0])],
        beta=[0.0],
        integers=[1, 5, 1, 5, 1, 5],
        uniform=[3.0] * 3,
        random=[0.0] * 3,
    )
    assert np.array_equal(augmix(image, script, 3.0, 3, 0, OPERATIONS), clean)
    identity = augmix(image, np.random.default_rng(0), 3.0, 3, 0, (lambda i, level, rng: i,))
    assert np.allclose(identity, clean, atol=1e-6)


def test_draws_have_the_published_laws():
    """Dirichlet(1, 1, 1), Beta(1, 1), depths 1 to 3 and levels from 0.1 to the severity, read off constant images."""
    levels, counts = [], []

    def record(image, level, rng):
        levels.append(level)
        counts[-1] += 1
        return image

    def depth(image):
        counts.append(0)
        return image

    rng = np.random.default_rng(1)
    for _ in range(400):
        depth(None)
        augmix(Image.new("RGB", (2, 2)), rng, 3.0, 1, 0, (record,))
    assert (
        min(levels) >= 0.1
        and max(levels) <= 3.0
        and np.mean(levels) == pytest.approx(1.55, abs=4 * 2.9 / np.sqrt(12 * len(levels)))
    )
    assert set(counts) == {1, 2, 3} and np.mean(counts) == pytest.approx(2, abs=4 * 0.82 / 20)
    fixed = [len(levels)]
    counts.append(0)
    augmix(Image.new("RGB", (2, 2)), rng, 3.0, 3, 4, (record,))
    assert len(levels) - fixed[0] == 12
    black, white = (
        lambda i, level, rng: Image.new("RGB", i.size),
        lambda i, level, rng: Image.new("RGB", i.size, "white"),
    )
    share = [augmix(Image.new("RGB", (1, 1)), rng, 3.0, 3, 1, (white,))[0, 0, 0] for _ in range(1500)]
    assert np.mean(share) == pytest.approx(0.5, abs=4 * 0.2887 / np.sqrt(1500))  # m alone: the weights sum to 1
    share = [augmix(Image.new("RGB", (1, 1)), rng, 3.0, 3, 1, (white, black, black))[0, 0, 0] for _ in range(1500)]
    assert np.mean(share) == pytest.approx(1 / 6, abs=4 * np.std(share) / np.sqrt(1500))


def test_views_of_the_loader():
    maker = AugMix().loader_extras["views"]
    image = photo(40, 24)
    views = maker(image, np.random.default_rng(2))
    assert views.shape == (2, 3, 24, 40) and views.dtype == torch.float32 and views.is_contiguous()
    assert views.min() >= 0 and views.max() <= 1 and not torch.equal(views[0], views[1])
    assert torch.equal(views, maker(image, np.random.default_rng(2)))
    assert AugMix(jsd=False).loader_extras["views"](image, np.random.default_rng(2)).shape == (1, 3, 24, 40)
    assert Views(all_ops=True)(image, np.random.default_rng(3)).shape == (2, 3, 24, 40)


# ---- the operations


@pytest.mark.parametrize("sign", [0.0, 1.0])
@pytest.mark.parametrize(("name", "axis"), [("translate_x", 1), ("translate_y", 0)])
def test_translations_move_by_a_third_at_most(name, axis, sign):
    image = photo(36, 30)
    x = np.asarray(image).astype(int)
    shift = int(8.4 * (x.shape[axis] / 3) / 10)
    moved = np.zeros_like(x)
    inner, outer = [slice(None)] * 2, [slice(None)] * 2
    inner[axis], outer[axis] = slice(shift, None), slice(None, -shift)
    if sign <= 0.5:  # output (r, c) shows input (r + shift, c + shift)
        moved[tuple(outer)] = x[tuple(inner)]
    else:
        moved[tuple(inner)] = x[tuple(outer)]
    assert np.array_equal(apply(name, 8.4, image, sign), moved)


@pytest.mark.parametrize(
    ("name", "sign", "matrix"),
    [
        ("shear_x", 0.0, [[1, 0.24, 0], [0, 1, 0]]),
        ("shear_x", 1.0, [[1, -0.24, 0], [0, 1, 0]]),
        ("shear_y", 0.0, [[1, 0, 0], [0.24, 1, 0]]),
    ],
)
def test_shears_against_opencv(name, sign, matrix):
    image = photo(40, 40)
    matrix = np.array(matrix, dtype=np.float64)
    matrix[:, 2] = matrix[:, :2] @ [0.5, 0.5] - 0.5  # pixel centres
    expected = cv2.warpAffine(
        np.asarray(image), matrix, (40, 40), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=0
    )
    inside = (
        cv2.warpAffine(np.ones((40, 40), np.float32), matrix, (40, 40), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        == 1
    )
    got = apply(name, 8.0, image, sign)
    assert np.abs(got - expected)[inside].max() <= 3 and (got[~inside] == 0).any() and inside.mean() > 0.7


@pytest.mark.parametrize("sign", [0.0, 1.0])
def test_rotation_against_opencv(sign):
    image = photo(41, 41)
    degrees = int(7.1 * 30 / 10) * (1 if sign <= 0.5 else -1)
    matrix = cv2.getRotationMatrix2D((20, 20), degrees, 1.0)
    expected = cv2.warpAffine(np.asarray(image), matrix, (41, 41), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.ones((41, 41), np.float32), matrix, (41, 41), flags=cv2.INTER_LINEAR) == 1
    assert np.abs(apply("rotate", 7.1, image, sign) - expected)[inside].max() <= 3 and inside.mean() > 0.7


def test_pointwise_operations():
    image = photo()
    x = np.asarray(image).astype(int)
    assert np.array_equal(apply("posterize", 2.6, image), x // 32 * 32)  # int(1.04) = 1 bit less than 4
    assert np.array_equal(apply("solarize", 5.0, image), np.where(x < 128, x, 255 - x))
    stretched = photo().point(lambda v: 40 + v // 2)
    flat = np.asarray(stretched).astype(float)
    low, high = flat.min((0, 1)), flat.max((0, 1))
    assert np.abs(apply("autocontrast", 1.0, stretched) - (flat - low) * 255 / (high - low)).max() <= 1
    levels = apply("equalize", 1.0, stretched)
    assert levels.min() == 0 and levels.max() >= 250
    for channel in range(3):  # a monotone map whose histogram is as flat as it can be
        order = flat[:, :, channel].ravel().argsort(kind="stable")
        assert (np.diff(levels[:, :, channel].ravel()[order]) >= 0).all()
        assert np.abs(np.quantile(levels[:, :, channel], [0.25, 0.5, 0.75]) - [64, 127, 191]).max() < 25


def test_operations_that_overlap_with_imagenet_c():
    image = photo()
    x = np.asarray(image).astype(float)
    factor = 0.1 + 5.0 * 0.18
    grey = np.asarray(image.convert("L")).astype(float)
    expected = {"brightness": x * factor, "color": grey[:, :, None] + factor * (x - grey[:, :, None])}
    expected["contrast"] = int(grey.mean() + 0.5) + factor * (x - int(grey.mean() + 0.5))
    for name, values in expected.items():
        assert np.abs(apply(name, 5.0, image) - np.clip(values, 0, 255)).max() <= 1
    assert np.array_equal(apply("sharpness", 5.0, image).shape, x.shape)
    assert np.array_equal(apply("sharpness", 0.0, Image.new("RGB", (8, 8), (90, 90, 90))), np.full((8, 8, 3), 90))
    blurred, sharp = (np.abs(np.diff(apply("sharpness", level, image), axis=1)).sum() for level in (0.0, 10.0))
    assert blurred < np.abs(np.diff(x, axis=1)).sum() < sharp


def test_the_nine_operations_of_the_paper_and_no_other():
    names = [operation.__name__.lstrip("_") for operation in OPERATIONS]
    assert names == [
        "autocontrast",
        "equalize",
        "posterize",
        "rotate",
        "solarize",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
    ]
    image = photo(24, 40)
    for operation in OPERATIONS + module.EXTRA:
        for level in (0.1, 3.0, 9.99):
            assert operation(image, level, np.random.default_rng(0)).size == (24, 40)


# ---- the loss


def test_the_divergence_against_scipy():
    rng = np.random.default_rng(3)
    logits = [rng.standard_normal((5, 7)) * 2 for _ in range(3)]
    p = softmax(np.stack(logits), axis=2)
    expected = np.mean([rel_entr(q, p.mean(0)).sum(1) for q in p])
    got = jensen_shannon(tuple(torch.tensor(z, dtype=torch.float32) for z in logits))
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_the_divergence_is_zero_for_equal_views_and_log_3_for_disjoint_ones():
    z = torch.randn(4, 6)
    assert jensen_shannon((z, z, z)).item() == pytest.approx(0, abs=1e-6)
    far = tuple(50 * torch.eye(3)[k].expand(2, 3) for k in range(3))
    assert jensen_shannon(far).item() == pytest.approx(np.log(3), abs=1e-5)
    extreme = tuple(
        z.bfloat16().requires_grad_() for z in (1e4 * torch.randn(4, 6), 1e4 * torch.randn(4, 6), torch.zeros(4, 6))
    )
    loss = jensen_shannon(extreme)
    loss.backward()
    assert 0 <= loss.item() <= np.log(3) + 1e-5 and all(z.grad.isfinite().all() for z in extreme)


def batch(jsd=True):
    views = torch.rand(4, 2 if jsd else 1, 3, 9, 9, generator=torch.Generator().manual_seed(4))
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(5))
    return x, torch.tensor([0, 1, 2, 4]), views, context(smoothing=0.1, extras={"views": views})


def test_three_views_in_one_pass():
    x, y, views, ctx = batch()
    mixed = AugMix().mix(ctx, x, y, None)
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.equal(mixed.x[:4], x)
    for k in range(2):
        assert np.allclose(mixed.x[4 + 4 * k : 8 + 4 * k].numpy(), (views[:, k].numpy() - mean) / std, atol=1e-5)
    assert torch.equal(mixed.weights, torch.eye(4).repeat(3, 1))
    torch.manual_seed(0)
    net = TinyCNN().eval()
    z = net(mixed.x).logits.detach().double().numpy()
    target = np.full((4, 5), 0.02) + 0.9 * np.eye(5)[y]
    ce = -(target * np.log(softmax(z[:4], axis=1))).sum(1).mean()
    p = softmax(z.reshape(3, 4, 5), axis=2)
    expected = ce + 12 * np.mean([rel_entr(q, p.mean(0)).sum(1) for q in p])
    assert train_step(ctx, net, AugMix(), x, y).item() == pytest.approx(expected, rel=1e-5)


def test_without_the_divergence_one_view_is_trained_on():
    x, y, _, ctx = batch(jsd=False)
    torch.manual_seed(0)
    method, net = AugMix(jsd=False), TinyCNN().eval()
    mixed = method.mix(ctx, x, y, None)
    assert mixed.x.shape == x.shape and not torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(4))
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(
        ctx.criterion(net(mixed.x).logits, ctx.target(y)).item()
    )


def test_half_precision_and_a_batch_of_one():
    x, y, views, _ = batch()
    mixed = AugMix().mix(context(extras={"views": views[:1]}), x[:1].bfloat16(), y[:1], None)
    assert (
        mixed.x.dtype == torch.bfloat16
        and torch.equal(mixed.x[:1], x[:1].bfloat16())
        and mixed.weights.tolist() == [[1.0]] * 3
    )


def test_errors():
    with pytest.raises(
        EvalkitError, match=r"augmix needs views from the data loader: put method.loader_extras\['views'\]"
    ):
        AugMix().mix(context(), torch.zeros(1, 3, 4, 4), torch.zeros(1), None)
    for arguments, said in (
        ({"severity": 11}, "`severity` to be a number from 0.1 to 10"),
        ({"width": 0}, "`width` to be a whole number of chains"),
        ({"depth": -1}, "`depth` to be a whole number of operations"),
        ({"jsd": 1}, "`jsd` to be true or false"),
        ({"jsd_weight": -1}, "`jsd_weight` to be a number of at least 0"),
    ):
        with pytest.raises(ValueError, match=said):
            AugMix(**arguments)


DIFFERS = """
drawing integer parameters for non-square images from each side's own length.
= ::test_translations_move_by_a_third_at_most
"""
