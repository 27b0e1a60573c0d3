"""What a mixup method is: mix a batch, say each source's label share, optionally re-weigh the labels after the forward
pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from ..losses import mixed_target, soft_cross_entropy, soft_target
from .parts import outcome

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Context:
    """What a method may know about the moment it is called in. `Context.simple` makes one for anybody's own training
    loop.

    Args:
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole training.
        rng: Where every draw comes from; nothing else may be random.
        target: (B,) labels -> (B, K) smoothed one-hot.
        criterion: (M, K) logits, (M, K) targets -> scalar.
        mean: (C,) of the normalised input.
        std: (C,), the same, standard deviation.
        extras: per-sample data from the loader.
        draws: Injected instead of drawn, so that a test is an equation.
    """

    step: int
    total_steps: int
    rng: np.random.Generator
    target: Callable[[Tensor], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]
    mean: Tensor
    std: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Mapping[str, Any] | None = None

    @classmethod
    def simple(
        cls,
        num_classes: int,
        rng: np.random.Generator,
        *,
        smoothing: float = 0.0,
        step: int = 0,
        total_steps: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        extras: Mapping[str, Tensor] | None = None,
        draws: Mapping[str, Any] | None = None,
    ) -> "Context":
        """A context with soft-target cross-entropy over `num_classes` classes; targets follow the labels' device."""
        return cls(
            step=step,
            total_steps=total_steps,
            rng=rng,
            target=lambda y: soft_target(y, num_classes, smoothing),
            criterion=soft_cross_entropy,
            mean=torch.tensor(mean),
            std=torch.tensor(std),
            extras=extras or {},
            draws=draws,
        )

    def draw(self, name: str, sample: Callable[[np.random.Generator], Any]) -> Any:
        """The injected draw `name` if there is one, else `sample(rng)`."""
        if self.draws is not None and name in self.draws:
            return self.draws[name]
        return sample(self.rng)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A mixed batch. B sources, M mixed samples (M = B for pairwise methods). One mask for all, (1, 1, H, W), may be
    given; it is seen as M.

    Args:
        x: (M, C, H, W) what the network sees.
        weights: (M, B) float32 share of each source's label in each mixed sample.
        mask: (M, 1, H, W) share of the own image in each pixel.
        partner: (M,) index of the other image.
        inject: Mix features at this layer.
        state: What this method's own loss needs later.
    """

    x: Tensor
    weights: Tensor
    mask: Tensor | None = None
    partner: Tensor | None = None
    inject: tuple[str, Callable[[Tensor], Tensor]] | None = None
    state: Any = None

    def __post_init__(self) -> None:
        outcome.check_mixed(self.x, self.weights, self.mask, self.partner)
        if self.mask is not None:
            object.__setattr__(self, "mask", self.mask.expand(len(self.x), -1, -1, -1))


TEACHER = "a frozen network with random weights"  # in `MixMethod.stand_in`: one is put in its place
# What every method does unless its `exempt` says why not; tests/contract forces all methods through these.
PROPERTIES = {
    "oblong": "takes images that are not square",
    "blend": "x~ = M x + (1 - M) x_pi for its mask M",
    "alone": "an image without another one stays as it is",
    "itself": "a batch of one and the same image stays as it is",
    "logits": "and so do the network's logits for it",
    "draws": "other draws give another batch",
    "renaming": "labels under other names give the same loss",
}


class MixMethod(nn.Module):
    """Base of every method. Only `mix` must be written; most methods own no parameters.

    A method describes itself by class attributes, which commands, documentation and tests read; see the comments."""

    # For readers. `extra_passes` of the default preset, besides the training pass; `bibtex` of the paper.
    family: str = "own"
    needs: str = ""  # of the network or the loader
    extra_passes: str = "none"
    bibtex: str = ""
    # preset -> constructor arguments; "default" is always there
    PRESETS: Mapping[str, Mapping[str, Any]] = {"default": {}}
    # argument -> (another argument, its values beside which the first one has an effect); to give it beside others is
    # an error
    counts_with: Mapping[str, tuple[str, Sequence[Any]]] = {}

    # What is asked of the network in the training pass.
    attention: bool | int | str = False  # class attention in `out`: True the last block's, d block d's, "rollout" all
    features: bool = False  # token features in `out`
    inject_layers: Sequence[str] = ()  # layers whose output `Mixed.inject` may change
    takes: Literal["any", "vit", "cnn"] = "any"  # the only kind of network it works with
    training_passes: int = 1  # of the trained network in a step
    # passes through the trained network besides the one of `train_step`; "layers": some run layers of it by themselves
    own_passes: Literal["none", "whole", "layers"] = "none"

    # How it runs. `loader_extras` are made of each training image in the data loader (its `info` says which "id" and
    # "view" it is, see evalkit.data.loading) and arrive stacked in `Context.extras`.
    loader_extras: Mapping[str, Callable[[Image.Image, np.random.Generator], Tensor]] = {}
    waits: str = ""  # why `mix` or `loss` must wait for the device; all others only upload
    # each loss reaches every parameter of the method, so that several processes need not look for unused ones
    uses_all_parameters = False
    skips_passes: bool = False  # a draw decides how many forward passes a batch takes in training mode
    # what the label weights of a mixed sample add up to, which is checked the first time; None: anything at all
    row_sum: float | None = 1.0

    # How it is shown and tested without what training would give it.
    stand_in: Mapping[str, Any] = {}  # arguments in place of a trained teacher; TEACHER becomes a small random network
    settled: Mapping[str, Any] = {}  # draws that are the same in all its pictures; layer 0 mixes the image
    asks: Sequence[str] = ()  # attributes that pass images through networks of its own, such as "encoder.look"
    small: Mapping[str, Any] = {}  # arguments for images of 16 pixels
    exempt: Mapping[str, str] = {}  # of PROPERTIES those that it lacks, and why

    def setup(self, net: Network) -> None:
        """Called once with the `Network`, before optimizer, DDP and compile."""

    def check_size(self, net: Network, height: int, width: int) -> None:
        """Raises EvalkitError where some batch of images of this size could not be mixed, whatever a batch draws.

        Called once before training, after `setup`, of every method that the run holds."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the method's own parameters."""
        return []

    def pick(self, ctx: Context) -> "MixMethod":
        """The method that handles this batch: self, or one child of a `Choice`."""
        return self

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        """Mix normalised images `x` (B, C, H, W) with labels `y` (B,); must not modify them."""
        raise NotImplementedError

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        """Label weights (M, B) once the network's output for the mixed batch is known."""
        return mixed.weights

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        """Scalar loss of the mixed batch."""
        return ctx.criterion(out.logits, mixed_target(checked_relabel(self, ctx, mixed, y, out), ctx.target(y)))

    def after_step(self, ctx: Context, net: Network) -> None:
        """Called after each optimizer step."""

    def measured(self, step: int) -> dict[str, Tensor]:
        """What the log shows of the newest batch: name -> values of its samples, if it was mixed in that step."""
        return {}

    def eval_network(self, net: Network) -> Network:
        """The classifier that is evaluated and exported."""
        return net


# ---- what a method gives, checked


def checked_pick(method: MixMethod, ctx: Context) -> MixMethod:
    """What `pick` gives. Raises EvalkitError for what is no method.

    Args:
        method: The mixup.
        ctx: The context.
    """
    found = method.pick(ctx)
    if not isinstance(found, MixMethod):
        raise EvalkitError(f"{type(method).__name__}.pick must return a method, but gave {type(found).__name__}")
    return found


def checked_mix(method: MixMethod, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
    """What `mix` gives. Raises EvalkitError for what is no mixed batch of these images, or where they or their labels
    were changed in place.

    Args:
        method: The mixup, picked.
        ctx: The context.
        x: Normalised images (B, C, H, W).
        y: Labels (B,).
        net: The network.
    """
    name, versions = f"{type(method).__name__}.mix", (x._version, y._version)
    looks = (
        [outcome.kept_as_it_was(name, net), outcome.own_draws(name, method)]
        if outcome.is_first(method, "mix draws")
        else []
    )
    mixed = method.mix(ctx, x, y, net)
    for look in looks:
        look()
    if not isinstance(mixed, Mixed):
        raise EvalkitError(f"{name} must return Mixed(x, weights), but gave {type(mixed).__name__}")
    if (x._version, y._version) != versions:
        raise EvalkitError(f"{name} changed the batch that it was given in place; change a copy, x.clone()")
    outcome.check_batch(name, mixed.x, x)
    if outcome.is_first(method, "values"):
        outcome.check_values(name, mixed, x, y)
    outcome.check_weights(method, mixed.weights, y, "mix", len(mixed.x))
    return mixed


def checked_relabel(method: MixMethod, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
    """What `relabel` gives. Raises EvalkitError for what are no label weights of this output.

    Args:
        method: The mixup, picked.
        ctx: The context.
        mixed: The mixed batch.
        y: Labels (B,).
        out: The network's output for it.
    """
    weights = method.relabel(ctx, mixed, y, out)
    outcome.check_weights(method, weights, y, "relabel", len(out.logits))
    return weights


# ---- pieces that several methods share


def beta(ctx: Context, alpha: float, name: str = "lam") -> float:
    """One lambda ~ Beta(alpha, alpha) in float64; 1.0 (no mixing) for alpha <= 0.

    Args:
        ctx: The context, whose generator draws.
        alpha: Both parameters of the distribution.
        name: The draw's name, by which a test injects it.
    """
    return float(ctx.draw(name, lambda rng: rng.beta(alpha, alpha) if alpha > 0 else 1.0))


def pair(ctx: Context, batch: int, pairing: str, name: str = "partner") -> np.ndarray:
    """(B,) int64 partner of each image.

    Args:
        ctx: The context, whose generator draws.
        batch: Images in the batch, B.
        pairing: "perm" uniform permutation, "flip" the reversed batch, "derange" a uniform random B-cycle (never
            oneself).
        name: The draw's name, by which a test injects it.
    """

    def sample(rng: np.random.Generator) -> np.ndarray:
        if pairing == "flip":
            return np.arange(batch)[::-1].copy()
        order = rng.permutation(batch)
        if pairing == "perm":
            return order
        cycle = np.empty(batch, np.int64)
        cycle[order] = np.roll(order, -1)
        return cycle

    return np.asarray(ctx.draw(name, sample), dtype=np.int64)


def check_pairing(pairing: str) -> str:
    """The name of a pairing as it is. Raises ValueError for one that does not exist."""
    if pairing not in ("perm", "flip", "derange"):
        raise ValueError(f"Expected argument `pairing` to be 'perm', 'flip' or 'derange', but got {pairing!r}")
    return pairing


def upload(array: np.ndarray | float, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A host array on the device of a tensor, without waiting for the device.

    Args:
        array: What is uploaded.
        like: A tensor on the device.
        dtype: Of the result; None: the array's own.
    """
    host = torch.as_tensor(array, dtype=dtype)
    if like.device.type == "cuda":
        return host.pin_memory().to(like.device, non_blocking=True)
    return host.to(like.device)


def laid_out_like(x: Tensor, mixed: Tensor) -> Tensor:
    """Mixed images, channels last where the batch is.

    Args:
        x: The batch.
        mixed: (M, C, H, W).
    """
    return (
        mixed.contiguous(memory_format=torch.channels_last)
        if x.is_contiguous(memory_format=torch.channels_last)
        else mixed
    )


def pair_weights(lam: Tensor | float, partner: Tensor) -> Tensor:
    """(B, B) label weights of pairwise mixing: row i = lam_i e_i + (1 - lam_i) e_partner(i); a sample paired with
    itself keeps 1.

    Args:
        lam: (B,) the own label's share in each sample, or one number for all.
        partner: (B,) int64 index of the other image.
    """
    lam = torch.as_tensor(lam, dtype=torch.float32, device=partner.device).expand(len(partner))
    return torch.diag(lam).scatter_add(1, partner[:, None], (1 - lam)[:, None])
