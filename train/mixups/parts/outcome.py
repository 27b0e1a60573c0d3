"""What a method gives, looked at before it is trained on: kinds and shapes in every step, values in the first one,
since a later look would make every step wait for the device."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evalkit.errors import EvalkitError

FURTHER = 10  # times as far from 0 as the batch's: pixels that no mixing of normalised images gives
TOLERANCE = 0.01  # of label weights and their sums: they may be computed in half precision


def shape(x: Tensor) -> str:
    """A tensor's shape as errors print it."""
    return f"({', '.join(map(str, x.shape))}{',' * (x.ndim == 1)})"


def check_kind(x: Any, what: str) -> None:
    """Raises EvalkitError for what is no tensor of floats.

    Args:
        x: What a method gave.
        what: What it is, for the error.
    """
    if not isinstance(x, Tensor):
        raise EvalkitError(f"{what} must be a tensor of floats, but is {type(x).__name__}")
    if not x.is_floating_point():
        raise EvalkitError(f"{what} must be a tensor of floats, but is {shape(x)} {x.dtype}")


def check_mixed(x: Any, weights: Any, mask: Any, partner: Any) -> None:
    """Raises EvalkitError for the fields of a `Mixed` that are not what they are called, or do not belong together.

    Args:
        x: Mixed images.
        weights: Label weights.
        mask: Share of the own image in each pixel, or None.
        partner: Index of the other image, or None.
    """
    check_kind(x, "`Mixed.x`")
    if x.ndim != 4 or not len(x):
        raise EvalkitError(f"mixed images must be (M, C, H, W), M at least 1, but `Mixed.x` is {shape(x)}")
    if (
        not isinstance(weights, Tensor)
        or weights.ndim != 2
        or len(weights) != len(x)
        or not weights.is_floating_point()
    ):
        given = f"{shape(weights)} {weights.dtype}" if isinstance(weights, Tensor) else type(weights).__name__
        raise EvalkitError(
            "label weights must be (M, B) floats, a row for each of the M mixed images, but `Mixed.weights` is"
            f" {given} for {len(x)} images; one lambda for all pairs is pair_weights(lam, partner)"
        )
    if partner is not None and (
        not isinstance(partner, Tensor) or partner.shape != (len(x),) or partner.dtype not in (torch.int64, torch.int32)
    ):
        given = f"{shape(partner)} {partner.dtype}" if isinstance(partner, Tensor) else type(partner).__name__
        raise EvalkitError(f"partners must be ({len(x)},) integers, but `Mixed.partner` is {given}")
    if mask is not None:
        check_kind(mask, "`Mixed.mask`")
        size = tuple(x.shape[-2:])
        if mask.ndim != 4 or mask.shape[0] not in (1, len(x)) or mask.shape[1] != 1 or mask.shape[-2:] != size:
            raise EvalkitError(f"a mask must be ({len(x)}, 1, {size[0]}, {size[1]}), but `Mixed.mask` is {shape(mask)}")


def check_batch(name: str, mixed: Any, x: Tensor) -> None:
    """Raises EvalkitError for mixed images that are of another kind than those that they are mixed of.

    Args:
        name: What gave them, for the error.
        mixed: (M, C, H, W).
        x: The batch, (B, C, H, W).
    """
    same = mixed.dtype == x.dtype or torch.is_autocast_enabled(x.device.type)
    if mixed.shape[1:] != x.shape[1:] or mixed.device != x.device or not same:
        raise EvalkitError(
            f"{name} must give images like those of the batch, {shape(x)} {x.dtype} on {x.device}, as many as it"
            f" likes, but gave {shape(mixed)} {mixed.dtype} on {mixed.device}"
        )


def check_values(name: str, mixed: Any, x: Tensor, labels: Tensor) -> None:
    """Raises EvalkitError for numbers of a mixed batch that mean nothing; makes the host wait.

    Args:
        name: What gave it, for the error.
        mixed: A `Mixed`.
        x: The images that it is mixed of, (B, C, H, W).
        labels: Of the batch, (B,).
    """
    if not bool(torch.isfinite(mixed.x).all()):
        raise EvalkitError(f"{name} gave images whose pixels are not finite")
    if (most := float(mixed.x.detach().abs().max())) > FURTHER * max(1.0, float(x.abs().max())):
        raise EvalkitError(
            f"{name} gave images whose pixels reach to {most:.4g}, those of the batch to {float(x.abs().max()):.4g}:"
            " images are normalised, and mixed ones too"
        )
    if mixed.partner is not None:
        low, high = int(mixed.partner.min()), int(mixed.partner.max())
        if low < 0 or high >= len(labels):
            raise EvalkitError(
                f"{name} gave partners from {low} to {high}, but a batch of {len(labels)} has 0 to {len(labels) - 1}"
            )
    if mixed.mask is not None:
        least, most = float(mixed.mask.min()), float(mixed.mask.max())
        if not (least >= -TOLERANCE and most <= 1 + TOLERANCE):
            raise EvalkitError(f"{name} gave a mask from {least:.4g} to {most:.4g}, which is a share: 0 to 1")


def kept_as_it_was(name: str, net: Any) -> Callable[[], None]:
    """What looks, after a method has mixed, at what it must leave alone: the mode of the network, and whether its
    weights are trained. Raises EvalkitError then.

    Args:
        name: The function of the method, for the error.
        net: The network.
    """
    net = getattr(net, "module", net)  # of one wrapped for processes, or a user's own that gives logits alone
    mode, trained = getattr(net, "training", None), _trained(net)
    grad, dtype, written = torch.is_grad_enabled(), torch.get_default_dtype(), _written(net)

    def look() -> None:
        if torch.is_grad_enabled() != grad:
            torch.set_grad_enabled(grad)
            raise EvalkitError(f"{name} left gradients switched {'off' if grad else 'on'}; use `with torch.no_grad():`")
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
            raise EvalkitError(f"{name} changed torch's default dtype, which the network's is not; leave it alone")
        if _written(net) != written:
            raise EvalkitError(f"{name} changed weights of the network in place; change a copy, or do it in after_step")
        if getattr(net, "training", None) != mode:
            raise EvalkitError(
                f"{name} left the network in another mode than it was in; put it back: net.train({mode})"
            )
        if trained and not _trained(net):
            raise EvalkitError(f"{name} froze the network, of which nothing could be trained; freeze a copy")

    return look


def _trained(net: Any) -> bool:
    return isinstance(net, nn.Module) and any(p.requires_grad for p in net.parameters())


def _written(net: Any) -> int:
    """How often the weights of a network were written to, of those that are whole here."""
    weights = net.parameters() if isinstance(net, nn.Module) else ()
    return sum(p._version for p in weights if type(p) is nn.Parameter)


def own_draws(name: str, method: nn.Module) -> Callable[[], None]:
    """What looks, after a method has mixed, whether it drew from generators that no run sets, or from one of its own,
    which no checkpoint keeps: a resume would not end in the same weights. Raises EvalkitError then.

    Args:
        name: The function of the method, for the error.
        method: The method.
    """
    before: Any = random.getstate(), np.random.get_state(legacy=True)
    held = _generators(method)

    def look() -> None:
        if odd := [place for place, state in _generators(method).items() if held.get(place, state) != state]:
            raise EvalkitError(
                f"{name} draws from a generator of its own, `{odd[0]}`, which no checkpoint keeps; draw from ctx.rng"
            )
        own: Any = random.getstate()
        numpys: Any = np.random.get_state(legacy=True)
        if own != before[0] or numpys[2] != before[1][2] or not np.array_equal(numpys[1], before[1][1]):
            raise EvalkitError(
                f"{name} draws from {'`random`' if own != before[0] else '`numpy.random`'}, which no run sets, so that"
                " none could be repeated or resumed; draw from ctx.rng"
            )

    return look


def _generators(method: nn.Module) -> dict[str, str]:
    """Where a method keeps generators of its own, and the state of each as text."""
    found = {}
    for part in method.modules():
        for key, value in vars(part).items():
            state: Any = None
            if isinstance(value, np.random.Generator):
                state = value.bit_generator.state
            elif isinstance(value, np.random.RandomState):
                state = [v.tolist() if isinstance(v, np.ndarray) else v for v in value.get_state(legacy=True)]
            elif isinstance(value, random.Random):
                state = value.getstate()
            elif isinstance(value, torch.Generator):
                state = value.get_state().tolist()
            if state is not None:
                found[f"{type(part).__name__}.{key}"] = str(state)
    return found


def is_first(method: Any, what: str) -> bool:
    """Whether a method's output is looked at for the first time.

    Args:
        method: The mixup.
        what: What of it.
    """
    looked_at = method.__dict__.setdefault("looked_at", set())
    first = what not in looked_at
    looked_at.add(what)
    return first


def check_weights(method: Any, weights: Any, labels: Tensor, by: str, rows: int) -> None:
    """Raises EvalkitError for label weights that are not (M, B) floats on the labels' device and, the first time, for
    those that do not add up.

    Args:
        method: The mixup.
        weights: Label weights.
        labels: Of the batch, (B,).
        by: What gave them, "mix" or "relabel".
        rows: Mixed samples, M.
    """
    name = f"{type(method).__name__}.{by}"
    check_kind(weights, f"the label weights of {name}")
    if weights.shape != (rows, len(labels)):
        raise EvalkitError(
            f"{name} must give label weights of shape ({rows}, {len(labels)}), one column for each of the"
            f" {len(labels)} labels of the batch, but gave {shape(weights)}"
        )
    if weights.device != labels.device:
        raise EvalkitError(f"{name} gave label weights on {weights.device}; the batch is on {labels.device}")
    if is_first(method, by):
        check_sums(name, weights, method.row_sum)


def check_sums(name: str, weights: Tensor, row_sum: float | None) -> None:
    """Raises EvalkitError for label weights that are not finite, do not add up or are below 0; makes the host wait.

    Args:
        name: What gave them, for the error.
        weights: Label weights, (M, B).
        row_sum: What rows add up to; None: anything, and weights below 0 as well.
    """
    if row_sum is not None and (isinstance(row_sum, bool) or not isinstance(row_sum, int | float)):
        raise EvalkitError(
            f"`row_sum` is a number, or None for anything at all, but {name.partition('.')[0]} has {row_sum!r}"
        )
    sums = weights.detach().double().sum(1)
    if not bool(torch.isfinite(sums).all()):
        raise EvalkitError(f"{name} gave label weights that are not finite")
    if row_sum is None:
        return
    mend = "mend them, or say in the class what they add up to: `row_sum = None` for anything at all"
    if float((sums - row_sum).abs().max()) > TOLERANCE:
        odd = float(sums[(sums - row_sum).abs().argmax()])
        raise EvalkitError(f"{name} gave label weights whose row adds up to {odd:.4g} instead of {row_sum:g}; {mend}")
    if (least := float(weights.detach().min())) < -TOLERANCE:
        raise EvalkitError(f"{name} gave label weights down to {least:.4g}, which are shares of labels; {mend}")
