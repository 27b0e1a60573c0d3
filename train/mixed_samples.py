"""A few mixed training samples of a finished run with the label shares it trained on."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit.models import Network
from evalkit.runtime import derive_rng, write_atomic

from . import loop
from .mixups.base import checked_mix, checked_pick, checked_relabel
from .session import Session

COUNT = 8


@torch.no_grad()
def save(s: Session, network: Network, path: Path) -> None:
    """Write mixed.npz: x uint8 (8, 3, S, S), weights float32 (8, B), labels int64 (B,), classes. One sample from each
    of 8 draws of the method on the first micro-batch of the last step, labelled with the trained network.

    Args:
        s: The run at its end.
        network: Its network, whole.
        path: The file mixed.npz.
    """
    batch = next(loop.batch_iterator(s, s.step - 1))
    make = loop.context_maker(s, s.step)
    images, weights = [], []
    s.trainee.eval()
    for i in range(min(COUNT, len(batch.y))):
        ctx = dataclasses.replace(make(s.step - 1, batch.group, batch.extras), rng=derive_rng(s.cfg.seed, "preview", i))
        x, y = loop.prepare(s, batch, ctx)
        method = checked_pick(s.method, ctx)
        mixed = checked_mix(method, ctx, x, y, network)
        out = network(mixed.x, attention=method.attention, features=method.features, inject=mixed.inject)
        row = i % len(mixed.x)
        pixels = mixed.x[row] * ctx.std[:, None, None] + ctx.mean[:, None, None]
        images.append((pixels.clamp(0, 1) * 255).round().byte().cpu().numpy())
        weights.append(checked_relabel(method, ctx, mixed, y, out)[row].float().cpu().numpy())
    arrays: dict[str, Any] = {
        "x": np.stack(images),
        "weights": np.stack(weights),
        "labels": batch.y.numpy(),
        "classes": np.array(s.train_images.classes),
    }
    write_atomic(path, lambda f: np.savez(f, **arrays))
