"""Batch-norm statistics that do not depend on the number of processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormStatistics:
    """Normalise per micro-batch; update the running statistics once per optimizer step with the mean over all micro-batches of all processes.

    PyTorch updates them after every forward pass of every process instead, which makes 2 processes differ from 1 process with 2
    accumulated micro-batches. Inside `micro_batch()` each layer's momentum is 1, so its running buffers hold that batch's statistics; the next
    starts with what they were, so that a pass in evaluation mode before its forward pass sees the same in every micro-batch of the step.
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.momentum is not None]
        self.buffers: list[Tensor] = [b for m in self.layers for b in (m.running_mean, m.running_var)]
        self.momenta = [m.momentum for m in self.layers]
        self.before: list[Tensor] | None = None
        self.sums: list[Tensor] | None = None
        self.count = 0  # micro-batches of this process in this step

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """Around the forward pass of one micro-batch in training mode."""
        if not self.layers:
            yield
            return
        if self.before is None:
            self.before = [b.clone() for b in self.buffers]
            self.sums = [torch.zeros_like(b) for b in self.buffers]
        else:  # not when the last micro-batch ended: its backward pass had still to come, and needs them unchanged
            with torch.no_grad():
                torch._foreach_copy_(self.buffers, self.before)
        for layer in self.layers:
            layer.momentum = 1.0
        try:
            yield
        finally:
            for layer, momentum in zip(self.layers, self.momenta):
                layer.momentum = momentum
        torch._foreach_add_(self.sums, self.buffers)
        self.count += 1

    @torch.no_grad()
    def step(self) -> None:
        """After the last micro-batch of an optimizer step: buffer <- (1 - momentum) buffer + momentum * mean of the batch statistics."""
        if not self.layers:
            return
        count = self.count
        if dist.is_initialized():
            for total in self.sums:
                dist.all_reduce(total)
            count *= dist.get_world_size()
        for i, (buffer, before, total) in enumerate(zip(self.buffers, self.before, self.sums)):
            buffer.copy_(before.lerp(total / count, self.momenta[i // 2]))
        for layer in self.layers:  # counts steps, not the micro-batches that happened to run here
            layer.num_batches_tracked -= self.count - 1
        self.before = self.sums = None
        self.count = 0
