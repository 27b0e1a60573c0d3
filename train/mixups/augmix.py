"""AugMix: several random augmentations of one image, blended, and a loss that asks for the same prediction on all of
them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, laid_out_like
from .parts.checks import expect, flag, is_number, is_whole

VIEWS = "views"


class AugMix(MixMethod):
    """AugMix (Hendrycks et al., ICLR 2020, arXiv:1912.02781).

        (w_1, .., w_width) ~ Dirichlet(1, .., 1);   m ~ Beta(1, 1);
        each chain applies 1 to 3 random operations in sequence
        view(x) = (1 - m) x + m sum_i w_i chain_i(x);   p, q, r = predictions for x and two views,   a = (p + q + r) / 3
        L = L(f(x), s(y)) + jsd_weight (KL(p || a) + KL(q || a) + KL(r || a)) / 3

    No image or label is mixed with another's. The views come with the batch: the loader calls
    `method.loader_extras["views"]` (see Views) and the method finds (B, views, C, H, W) in [0, 1] in
    `ctx.extras["views"]`; normalising commutes with the blend.

    Args:
        severity: Strength of the operations, up to 10.
        width: Number of chains of operations that are mixed.
        depth: Operations in each chain; 0: 1 to 3, drawn.
        all_ops: Add the four operations that overlap with ImageNet-C.
        jsd: False: train on one view alone.
        jsd_weight: Weight of the Jensen-Shannon divergence in the loss.

    Draws: none in `mix`; a view is a function of the image and the generator given by the loader.

    Differs from the paper / the official code in drawing integer parameters for non-square images from each side's own
    length.
    """

    family = "augmentation"
    needs = "views from the data loader"
    extra_passes = "2 more images per image"
    bibtex = """
    @inproceedings{hendrycks2020augmix,
      title = {{AugMix}: A Simple Data Processing Method to Improve Robustness and Uncertainty},
      author = {Hendrycks, Dan and Mu, Norman and Cubuk, Ekin D. and Zoph, Barret and Gilmer, Justin and
        Lakshminarayanan, Balaji},
      booktitle = {International Conference on Learning Representations},
      year = {2020},
      eprint = {1912.02781},
      archivePrefix = {arXiv}
    }
    """
    exempt = {"alone": "rows are views", "itself": "rows are views"}
    counts_with = {"jsd_weight": ("jsd", [True])}
    PRESETS = {
        "default": {},
        "imagenet": {"severity": 1.0},
    }

    def __init__(
        self,
        severity: float = 3.0,
        width: int = 3,
        depth: int = 0,
        all_ops: bool = False,
        jsd: bool = True,
        jsd_weight: float = 12.0,
    ):
        super().__init__()
        expect(is_number(severity) and 0.1 <= severity <= 10, "severity", "a number from 0.1 to 10", severity)
        expect(is_whole(width) and width > 0, "width", "a whole number of chains, 1 or more", width)
        expect(is_whole(depth) and depth >= 0, "depth", "a whole number of operations, or 0 for 1 to 3", depth)
        expect(is_number(jsd_weight) and jsd_weight >= 0, "jsd_weight", "a number of at least 0", jsd_weight)
        self.jsd = flag("jsd", jsd)
        self.jsd_weight = jsd_weight
        self.loader_extras = {VIEWS: Views(2 if jsd else 1, severity, width, depth, flag("all_ops", all_ops))}

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        if VIEWS not in ctx.extras:
            raise EvalkitError(
                "augmix needs views from the data loader: put method.loader_extras['views'](image, rng) into"
                " Context.extras['views']"
            )
        views = ctx.extras[VIEWS].to(x.device, non_blocking=True)
        mean, std = (v.to(x.device, non_blocking=True)[:, None, None] for v in (ctx.mean, ctx.std))
        views = ((views - mean) / std).to(x.dtype)
        own = torch.eye(len(x), device=x.device)
        if not self.jsd:
            return Mixed(laid_out_like(x, views[:, 0]), own)
        return Mixed(laid_out_like(x, torch.cat([x, *views.unbind(1)])), own.repeat(3, 1))

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        if not self.jsd:
            return super().loss(ctx, x, y, mixed, out, net)
        logits = out.logits.chunk(3)
        return ctx.criterion(logits[0], ctx.target(y)) + self.jsd_weight * jensen_shannon(logits)


def jensen_shannon(logits: tuple[Tensor, ...]) -> Tensor:
    """Mean over the batch of the Jensen-Shannon divergence between the predictions (B, K) of several views, in nats;
    the mean is clamped at 1e-7."""
    with torch.autocast(logits[0].device.type, enabled=False):
        # (V, B, K); of a probability that has become 0, the logarithm keeps a gradient
        log_p = torch.stack(logits).float().log_softmax(2)
        p = log_p.exp()
        return (p * (log_p - p.mean(0).clamp(1e-7, 1).log())).sum(2).mean()


# ---- views, made in the loader


@dataclass(frozen=True)
class Views:
    """(RGB image, generator) -> (count, 3, H, W) float32 in [0, 1]: independent AugMix views of the image, not
    normalised.

    Args:
        count: How many views are made.
        severity: How strong the operations are, 0 to 10.
        width: Chains of operations that are blended.
        depth: Operations of a chain; 0: 1 to 3, drawn for each.
        all_ops: Whether the four operations that overlap with ImageNet-C are among them.
    """

    count: int = 2
    severity: float = 3.0
    width: int = 3
    depth: int = 0
    all_ops: bool = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        operations = OPERATIONS + EXTRA if self.all_ops else OPERATIONS
        views = [augmix(image, rng, self.severity, self.width, self.depth, operations) for _ in range(self.count)]
        return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()


Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def augmix(
    image: Image.Image,
    rng: np.random.Generator,
    severity: float,
    width: int,
    depth: int,
    operations: tuple[Operation, ...],
) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]: one view. Every operation works on uint8 images, so it rounds; the blend does
    not.

    Args:
        image: The image, RGB.
        rng: Where the draws come from.
        severity: How strong the operations are, 0 to 10.
        width: Chains of operations that are blended.
        depth: Operations of a chain; 0: 1 to 3, drawn for each.
        operations: What is drawn from.
    """
    weights = rng.dirichlet(np.ones(width))
    share = rng.beta(1.0, 1.0)
    view = (1 - share) * np.asarray(image, dtype=np.float64)
    for weight in weights:
        chain = image
        for _ in range(depth or rng.integers(1, 4)):
            operation = operations[rng.integers(len(operations))]
            chain = operation(chain, rng.uniform(0.1, severity), rng)
        view += share * weight * np.asarray(chain, dtype=np.float64)
    return (view / 255).astype(np.float32)


def _autocontrast(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.equalize(image)


def _posterize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(image, 4 - int(level * 4 / 10))


def _solarize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(level * 256 / 10))


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(_either_sign(int(level * 30 / 10), rng), resample=Image.Resampling.BILINEAR)


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, _either_sign(level * 0.3 / 10, rng), 0, 0, 1, 0))


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, _either_sign(level * 0.3 / 10, rng), 1, 0))


def _translate_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, _either_sign(int(level * (image.width / 3) / 10), rng), 0, 1, 0))


def _translate_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _either_sign(int(level * (image.height / 3) / 10), rng)))


def _color(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(image).enhance(0.1 + level * 1.8 / 10)


def _contrast(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(0.1 + level * 1.8 / 10)


def _brightness(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.1 + level * 1.8 / 10)


def _sharpness(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(0.1 + level * 1.8 / 10)


def _either_sign(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() > 0.5 else value


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """The image at matrix (x, y): output pixels from where the matrix points, black outside, bilinear."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


OPERATIONS: tuple[Operation, ...] = (
    _autocontrast,
    _equalize,
    _posterize,
    _rotate,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
EXTRA: tuple[Operation, ...] = (
    _color,
    _contrast,
    _brightness,
    _sharpness,
)  # overlap with the corruptions of ImageNet-C
