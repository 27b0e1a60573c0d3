"""Adversarial images: FGSM and PGD in pixel space, untargeted, bounded in the largest change of a pixel value.

Sources: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", arXiv 1412.6572 (FGSM); Madry et al.,
"Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv 1706.06083 (PGD).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evalkit.data.images import Images
from evalkit.device_copy import Fetched, to_device
from evalkit.errors import EvalkitError
from evalkit.inference import Pass, check_eval_mode, check_finite, exact, fixed_chunks, gather, normaliser
from evalkit.progress import progress
from evalkit.runtime import derive_rng, world_size

Gradient = Callable[[Tensor], Tensor]  # images (B, 3, S, S) in [0, 1] -> gradient of the loss, same shape


def fgsm(gradient: Gradient, x: Tensor, eps: float) -> Tensor:
    """clip_[0,1](x + eps sign(gradient(x))) of images `x` (B, 3, S, S) in [0, 1]. Source: arXiv 1412.6572, section
    4.

    Args:
        gradient: The gradient of the loss by pixel values, (B, 3, S, S) -> (B, 3, S, S).
        x: Images (B, 3, S, S) in [0, 1].
        eps: The largest change of a pixel value, on the scale of [0, 1].
    """
    return (x + eps * gradient(x).sign()).clamp(0, 1)


def pgd(gradient: Gradient, x: Tensor, eps: float, *, alpha: float, steps: int, start: Tensor) -> Tensor:
    """`steps` times x' <- clip_[0,1](clip_[x-eps, x+eps](x' + alpha sign(gradient(x')))) from x' = clip_[0,1](x + eps
    start).

    The ball stays centred at x. Source: arXiv 1706.06083, equation 2.

    Args:
        gradient: The gradient of the loss by pixel values, (B, 3, S, S) -> (B, 3, S, S).
        x: Images (B, 3, S, S) in [0, 1].
        eps: The largest change of a pixel value, on the scale of [0, 1].
        alpha: The change of a pixel value in one step, on the same scale.
        steps: How many steps are taken.
        start: Where the attack starts within the ball, (B, 3, S, S) in [-1, 1]; 0 is the image itself.
    """
    attacked = (x + eps * start).clamp(0, 1)
    for _ in range(steps):
        attacked = attacked + alpha * gradient(attacked).sign()
        attacked = torch.minimum(torch.maximum(attacked, x - eps), x + eps).clamp(0, 1)
    return attacked


def random_start(seed: int, sample: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform in [-1, 1], float32, of `shape`: depends on seed and sample id alone.

    Args:
        seed: The seed of the attack.
        sample: Id of the image, its POSIX path below the data folder.
        shape: Shape of one image, (3, S, S).
    """
    return derive_rng(seed, "pgd", sample).uniform(-1, 1, size=tuple(shape)).astype(np.float32)


def loss_gradient(network: Callable[[Tensor], Any], normalise: Callable[[Tensor], Tensor], y: Tensor) -> Gradient:
    """The gradient, by pixel values, of the cross entropy of `network` with the labels `y` (B,); a sum over the images,
    so that they do not mix.

    Args:
        network: Normalised images (B, 3, S, S) to logits (B, K), in evaluation mode.
        normalise: Pixels in [0, 1] to what `network` expects.
        y: Labels (B,) as the network's outputs.

    Raises EvalkitError if the network cannot be differentiated.
    """

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        # the fused attention kernels of a GPU add up their gradients in no fixed order
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            out = network(normalise(x))
            loss = F.cross_entropy(getattr(out, "logits", out), y, reduction="sum")
            if not loss.requires_grad:
                raise EvalkitError("this model gives no gradients, which fgsm and pgd need; give it as a torch module")
            return torch.autograd.grad(loss, x)[0]

    return gradient


@dataclass(frozen=True, slots=True)
class Attacked:
    """Predictions for clean and attacked images, in the order of the data set.

    Args:
        ids: Of the N images.
        positions: (N,) in the data set.
        predictions: (N, 1 + E) int32: clean, then each eps.
        bad: (id, reason) of images that could not be read.
    """

    ids: list[str]
    positions: np.ndarray
    predictions: np.ndarray
    bad: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack and its strengths.

    Args:
        make: (gradient, x, eps, start) -> the adversarial images.
        eps: the strengths, fractions of 1.
        seed: of the random start, which belongs to the image and is the same for every eps; None: `start` is None.
    """

    make: Callable[[Gradient, Tensor, float, Tensor | None], Tensor]
    eps: Sequence[float]
    seed: int | None = None


def attack_all(
    network: Callable[[Tensor], Any],
    images: Images,
    labels: np.ndarray,
    transform: Callable[..., Tensor],
    attack: Attack,
    run: Pass,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Attacked:
    """Predictions of a network for images, clean and attacked with every strength.

    Args:
        network: As in `evalkit.inference.predict`.
        images: The data set.
        labels: Label of every image of the data set as an output of the network, (len(images),).
        transform: From a PIL image to pixels (3, S, S) float32 in [0, 1].
        attack: From gradient, images and their ids to the attacked images, one batch for each strength.
        run: Batch sizes, workers and device of the pass.
        rows: Positions of the images that are measured; None: all.

    Raises ValueError for a network in training mode, EvalkitError for outputs that are not finite.
    """
    device = run.device
    check_eval_mode(network)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)
    normalise, index, predicted = normaliser(network, device), [], Fetched()
    bad: list[tuple[str, str]] = []
    with progress(run.what, len(rows)) as advance:
        for x, chunk in fixed_chunks(
            images,
            transform,
            rows,
            run.forward_batch,
            device,
            batch_size=run.batch_size,
            workers=run.workers,
            bad=bad,
        ):
            filled = np.concatenate([chunk, np.repeat(chunk[:1], len(x) - len(chunk))])
            start = None if attack.seed is None else _starts(attack.seed, [images.ids[i] for i in filled], x)
            gradient = loss_gradient(network, normalise, to_device(torch.from_numpy(labels[filled]), device))
            with exact(gradients=True):
                attacked = [attack.make(gradient, x, e, start) for e in attack.eps]
            with exact():
                columns = [_predictions(network(normalise(image))) for image in (x, *attacked)]
            index.append(chunk)
            predicted.add(torch.stack(columns, dim=1)[: len(chunk)])
            advance(len(chunk) * world_size())
    index = np.concatenate([np.zeros(0, np.int64), *index])
    table = np.concatenate([np.zeros((0, 1 + len(attack.eps)), np.int32), *predicted.arrays()])
    order, (table,), bad = gather(images, rows, index, [table], bad)
    ids = [images.ids[i] for i in order]
    check_finite(ids, (table >= 0).all(axis=1))
    return Attacked(ids, order, table, bad)


def _starts(seed: int, ids: Sequence[str], x: Tensor) -> Tensor:
    drawn = np.stack([random_start(seed, sample, x.shape[1:]) for sample in ids])
    return to_device(torch.from_numpy(drawn), x.device)


def _predictions(out: Any) -> Tensor:
    logits = getattr(out, "logits", out)
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1).to(torch.int32)
