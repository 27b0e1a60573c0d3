"""A slowly moving copy of the trained network, and a second head for mixed images: what AutoMix, SAMix and AdAutoMix
share."""

import copy
import math

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from ...batchnorm import BatchNormStatistics
from .feature_layers import FeatureTap

CLEAN, MIXED = 0, 1  # the kinds of pass through the copy


def rising_momentum(step: int, total_steps: int, first: float, last: float, start: float) -> float:
    """m(t) = first for t < start T, then last - (last - first) (1 + cos(pi t / T)) / 2: the phase counts from the
    beginning of the training.

    Args:
        step: t, optimizer steps done.
        total_steps: T, of the whole training.
        first: m at the beginning.
        last: m at the end.
        start: Share of the training in which m stays `first`.
    """
    if step < start * total_steps:
        return first
    return last - (last - first) * (1 + math.cos(math.pi * step / total_steps)) / 2


class MomentumEncoder(nn.Module):
    """The network k: theta_k <- m theta_k + (1 - m) theta_q for the parameters of the network and of both its heads,
    after each step.|`network` is a Network with k's backbone and its head for clean images, the classifier that is
    evaluated; `head` (trained) and `head_k` read mixed images from the features of q and of k. k runs in training mode:
    it normalises by the batch and keeps batch-norm statistics of its own, updated once per step by its passes of clean
    images and then of mixed ones, whatever the number of processes.

    Args:
        net: The network q, which is copied.
        layer: Whose features the mix block sees, see `FeatureTap`; None: its default.
        eval_mode: Whether k normalises by running statistics that follow q's as the parameters do.
    """

    def __init__(self, net: Network, layer: str | None = None, eval_mode: bool = False):
        super().__init__()
        self.network = copy.deepcopy(net).requires_grad_(False)
        self.eval_mode = eval_mode
        self.tap = FeatureTap(self.network.model, layer)
        self.statistics = BatchNormStatistics(self.network, passes=2)
        parameter = next(net.parameters())
        z, pooled = self._sizes(torch.zeros(1, 3, *net.input_size, device=parameter.device, dtype=parameter.dtype))
        self.channels = z.shape[1]
        # of masks: float32 or, for networks of float64, that
        self.precision = torch.promote_types(parameter.dtype, torch.float32)
        self.head = nn.Linear(pooled.shape[1], net.num_classes)
        trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.head_k = copy.deepcopy(self.head).requires_grad_(False)
        self.to(parameter)
        self.train(net.training)

    @torch.no_grad()
    def _sizes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The feature map and what the head reads for images `x`."""
        model = self.network.model
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            z, features = self.tap.read(model, x, whole=True)
            pooled = model.forward_head(features, pre_logits=True)
        except (AttributeError, TypeError) as e:
            raise EvalkitError(
                f"model '{self.network.name}' cannot be given a second head ({e}); take another model"
            ) from e
        finally:
            for module, mode in modes.items():
                module.training = mode
        return z, pooled

    def train(self, mode: bool = True) -> "MomentumEncoder":
        super().train(mode)
        if self.eval_mode:
            self.network.eval()
        return self

    @torch.no_grad()
    def look(self, x: Tensor, classify: bool = False) -> tuple[Tensor, Tensor | None]:
        """The feature map (B, C, h, w) of clean images in `precision` and, if asked for, the mixup head's logits (B, K)
        for them."""
        model = self.network.model
        whole = classify or bool(self.statistics.layers)  # all batch-norm layers are to see the clean images
        with self.statistics.micro_batch(CLEAN):
            z, features = self.tap.read(model, x.to(self.head_k.weight.dtype), whole)
        return z.to(self.precision), self.head_k(model.forward_head(features, pre_logits=True)) if classify else None

    def classify(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the mixup head for mixed images; gradients reach `x`."""
        model = self.network.model
        with self.statistics.micro_batch(MIXED):
            features = model.forward_features(x)
        return self.head_k(model.forward_head(features, pre_logits=True))

    def classify_q(self, net: Network, out: Output) -> Tensor:
        """Logits (B, K) of the trained network's mixup head from the features in its output for mixed images."""
        return self.head(net.model.forward_head(out.features, pre_logits=True))

    @torch.no_grad()
    def update(self, net: Network, momentum: float) -> None:
        """Once after each optimizer step."""
        mine: list[Tensor] = [*self.network.parameters(), *self.head_k.parameters()]
        theirs: list[Tensor] = [*net.parameters(), *self.head.parameters()]
        if self.eval_mode:
            mine += [b for b in self.network.buffers() if b.is_floating_point()]
            theirs += [b for b in net.buffers() if b.is_floating_point()]
        torch._foreach_lerp_(mine, [p.detach() for p in theirs], 1 - momentum)
        self.statistics.step()
