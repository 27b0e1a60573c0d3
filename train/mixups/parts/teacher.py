"""A frozen network that tells a method where to look. It lives outside the module tree: in no checkpoint, no optimizer,
no DDP."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit import models

from ..base import Context, upload


class Teacher:
    """A network given as a timm name, a checkpoint or a weights file (see `evalkit.models.load`), or as anything that
    behaves like a `Network`.

    `network` is None until `load`; `sha256` is that of its weights file, `classes` its outputs' names, where they are
    known.

    Args:
        spec: A timm name, a checkpoint or a weights file (see `evalkit.models.load`), or anything that behaves like a
            `Network`.
        model: The architecture, for a weights file that does not name it.
    """

    def __init__(self, spec: Any, model: str | None = None):
        self.spec, self.model = spec, model
        self.network: Any = None
        self.sha256: str | None = None
        self.classes: list[str] | None = None
        self.said: list[str] = []  # what loading its file did beyond matching names

    def load(self) -> Any:
        """The network, in evaluation mode, loaded at the first call. Raises EvalkitError where it cannot be."""
        if self.network is None:
            if isinstance(self.spec, str):
                loaded = models.load(self.spec, model=self.model)
                self.network, self.sha256, self.classes = loaded.network, loaded.sha256, loaded.classes
                self.said = models.describe(loaded.report)
            else:
                self.network = self.spec
            self.network.eval().requires_grad_(False)
        return self.network

    def on(self, x: Tensor) -> Any:
        """The network on the device of `x`."""
        network = self.load()
        if next(network.parameters()).device != x.device:
            network.to(x.device)
        return network

    def view(self, ctx: Context, x: Tensor) -> Tensor:
        """The batch `x` in float32, normalised as the teacher expects it."""
        network = self.load()
        mean, std = (upload(np.asarray(v, dtype=np.float32), x)[:, None, None] for v in (network.mean, network.std))
        own_mean, own_std = (v.to(x.device, non_blocking=True)[:, None, None] for v in (ctx.mean, ctx.std))
        return torch.addcmul((own_mean - mean) / std, x.float(), own_std / std)

    def fitted(self, ctx: Context, x: Tensor) -> Tensor:
        """The `view` of the batch, resized to the teacher's input size."""
        seen, size = self.view(ctx, x), tuple(self.load().input_size)
        return seen if tuple(x.shape[-2:]) == size else F.interpolate(seen, size=size, mode="bilinear")
