"""Batch-norm statistics that do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.runtime import world_size

from .config import TrainConfig

if TYPE_CHECKING:  # the momentum encoder of methods imports this module
    from .mixups.base import MixMethod


def share_batch_norm(network: Network, method: MixMethod, cfg: TrainConfig, device: torch.device) -> None:
    """Make batch norm see `cfg.bn_batch` images as one, those of a micro-batch in each process (SyncBN). Called before
    the method's `setup`, so that copies it takes of the network, a momentum encoder, have the same layers.

    Args:
        network: The network, whose layers are replaced.
        method: The mixup, which may keep some processes out of a pass.
        cfg: The recipe: how many images one normalisation sees, and the batches.
        device: Where the network trains.

    Raises EvalkitError where the processes do not add up to that many, or where the method's draws could keep some of
    them out of a pass that the others wait in, so that a run never silently normalises otherwise than its recipe.
    """
    if cfg.bn_batch is None or not any(isinstance(m, _BatchNorm) for m in network.modules()):
        return
    together = cfg.micro_batch * world_size()
    if together != cfg.bn_batch:
        gpus = cfg.bn_batch // cfg.micro_batch
        exact = f"run it with --gpus {gpus}, or " if gpus * cfg.micro_batch == cfg.bn_batch else ""
        raise EvalkitError(
            f"bn_batch={cfg.bn_batch} images are normalised together, but {world_size()} process(es) with"
            f" micro_batch={cfg.micro_batch} see {together}; {exact}set bn_batch={together} or bn_batch=null and name"
            " that in what you report"
        )
    if world_size() > 1:
        if device.type != "cuda":
            raise EvalkitError(
                "bn_batch over several processes needs GPUs (PyTorch's SyncBatchNorm has no CPU version); set"
                " bn_batch=null or use one process"
            )
        if cfg.mix_draws == "group" and method.skips_passes:
            raise EvalkitError(
                "bn_batch over several processes needs the same forward passes in all of them, but this mixup draws"
                " which ones it makes; set mix_draws=step, or bn_batch=null"
            )
        network.model = convert_sync_batchnorm(network.model)


class BatchNormStatistics:
    """Normalise per micro-batch; update the running statistics once per optimizer step with the mean over all
    micro-batches of all processes.

    PyTorch updates them after every forward pass of every process instead, which makes 2 processes differ from 1
    process with 2 accumulated micro-batches. Inside `micro_batch()` each layer's momentum is 1, so its running buffers
    hold that batch's statistics; afterwards they are as before, until `step()`.

    Args:
        model: What holds the layers of batch norm.
        passes: Kinds of forward pass per micro-batch; the statistics follow one kind after the other.
    """

    def __init__(self, model: nn.Module, passes: int = 1):
        self.layers: list[_BatchNorm] = []
        self.momenta: list[float] = []
        for m in model.modules():
            if isinstance(m, _BatchNorm) and m.track_running_stats and m.momentum is not None:
                self.layers.append(m)
                self.momenta.append(m.momentum)
        self.passes = passes
        self.forget()

    def forget(self) -> None:
        self.sums: list[list[Tensor]] | None = None
        self.counts = [0] * self.passes  # micro-batches of this process in this step

    def buffers(self) -> list[Tensor]:
        both = (b for m in self.layers for b in (m.running_mean, m.running_var))
        return [b for b in both if b is not None]

    def counters(self) -> list[Tensor]:
        return [m.num_batches_tracked for m in self.layers if m.num_batches_tracked is not None]

    @contextmanager
    def micro_batch(self, which: int = 0) -> Iterator[None]:
        """Around forward passes of one micro-batch, of the kind `which`; those in evaluation mode are not counted."""
        if not any(m.training for m in self.layers):
            yield
            return
        buffers = self.buffers()
        # .data: the backward pass keeps the buffers, but in training mode it does not read them
        states = [[b.data for b in buffers], [b.data for b in self.counters()]]
        before = [[torch.empty_like(b) for b in state] for state in states]
        for saved, state in zip(before, states):
            torch._foreach_copy_(saved, state)
        for layer in self.layers:
            layer.momentum = 1.0
        try:
            yield
        finally:
            for layer, momentum in zip(self.layers, self.momenta):
                layer.momentum = momentum
        if self.sums is None:
            self.sums = self.zeros()
        torch._foreach_add_(self.sums[which], buffers)
        self.counts[which] += 1
        for saved, state in zip(before, states):
            torch._foreach_copy_(state, saved)

    def zeros(self) -> list[list[Tensor]]:
        return [[torch.zeros_like(b) for b in self.buffers()] for _ in range(self.passes)]

    @torch.no_grad()
    def step(self, renew: bool = False) -> None:
        """After the last micro-batch of an optimizer step: buffer <- (1 - momentum) buffer + momentum * mean of the
        batch statistics; to `renew` them is a momentum of 1."""
        parallel = dist.is_initialized()
        if not self.layers or (self.sums is None and not parallel):
            return
        for totals, own_count in zip(self.sums or self.zeros(), self.counts):
            count = torch.full((), float(own_count), device=totals[0].device)
            if parallel:
                for total in (*totals, count):
                    dist.all_reduce(total)
            ran = count > 0  # in some process; nobody waits for the device to know
            for i, (buffer, total) in enumerate(zip(self.buffers(), totals)):
                momentum = 1.0 if renew else self.momenta[i // 2]
                buffer.lerp_(total / count.clamp(min=1), ran.to(buffer.dtype) * momentum)
            for counter in self.counters():  # counts steps, not the micro-batches that happened to run here
                counter += ran
        self.forget()
