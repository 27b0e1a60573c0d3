"""The occlusion engine: one decode and one saliency pass per image, its masked copies flattened into forward passes of a fixed shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.data.images import Images
from evalkit.errors import EvalkitError
from evalkit.inference import check_eval_mode, check_finite, exact, fixed_chunks, gather, normaliser, progress
from evalkit.runtime import world_size

from .masks import Setting, image_masks
from .saliency import Saliency


@dataclass(frozen=True, slots=True)
class Sweep:
    """Predictions of a network for every image under every setting, in the order of the data set."""

    ids: list[str]
    positions: np.ndarray  # (N,) in the data set
    predictions: np.ndarray  # (N, C) int32 class index
    dropped: np.ndarray  # (N, C) float64 share of the pixels dropped
    bad: list[tuple[str, str]]  # (id, reason) of images that could not be read


def sweep(
    network: Callable[[Tensor], Any],
    images: Images,
    transform: Callable[..., Tensor],
    columns: Sequence[Setting],
    *,
    grid: int,
    saliency: Saliency | None,
    device: torch.device,
    seed: int = 0,
    forward_batch: int = 64,
    batch_size: int = 64,
    workers: int = 2,
    rows: Sequence[int] | None = None,
    what: str | None = None,
) -> Sweep:
    """Predictions of `network` (as in `evalkit.inference.predict`) for `images` under the settings `columns`.

    Each image is decoded once and passes the saliency model once, unmasked; its masked copies and those of other images fill forward passes of
    `forward_batch` rows. Masks that coincide are forwarded once. `grid`: patches per side, a divisor of the image side. Raises ValueError for a network in
    training mode, EvalkitError for a grid that does not divide the image and for outputs or saliency that are not finite.
    """
    check_eval_mode(network)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)
    needs_saliency = any(s.mode in ("salient", "nonsalient") for s in columns)
    if needs_saliency and saliency is None:
        raise ValueError("Expected argument `saliency` to be a saliency source for the modes salient and nonsalient, but got None")
    forward, index, slots, dropped, bad, waiting = _Forward(network, device, forward_batch), [], [], [], [], None
    with exact(), progress(what, len(rows)) as advance:
        for x, chunk in fixed_chunks(images, transform, rows, forward_batch, device, batch_size=batch_size, workers=workers, bad=bad):
            check_grid(grid, x.shape[-1])
            ids = [images.ids[i] for i in chunk]
            found = saliency(x, ids) if needs_saliency else None  # waits for the device
            if waiting is not None:
                slots.append(forward.add(*waiting))  # keeps the device busy while the next masks are made
            masks = image_masks(ids, found, columns, grid, x.shape[-1], seed)
            index.append(chunk)
            dropped.append(masks.mean(axis=2))
            waiting = x[: len(chunk)], masks
            advance(len(chunk) * world_size())
        if waiting is not None:
            slots.append(forward.add(*waiting))
        predictions = forward.finish()
    empty = np.zeros((0, len(columns)))
    index = np.concatenate([np.zeros(0, np.int64), *index])
    predicted = predictions[np.concatenate([empty.astype(np.int64), *slots])]
    order, (predicted, dropped), bad = gather(images, rows, index, [predicted, np.concatenate([empty, *dropped])], bad)
    ids = [images.ids[i] for i in order]
    check_finite(ids, (predicted >= 0).all(axis=1))
    return Sweep(ids, order, predicted, dropped, bad)


def check_grid(grid: int, side: int) -> None:
    """Raise EvalkitError unless `grid` divides the image side, naming values that do."""
    if side % grid:
        fits = [g for g in range(2, side // 2 + 1) if side % g == 0]
        raise EvalkitError(f"a grid of {grid} patches does not divide images of {side} pixels; choose grid= one of {', '.join(map(str, fits))}")


class _Forward:
    """A queue of masked images, forwarded in chunks of `size` rows as soon as they are there. Every row gets a number; its prediction comes at the end."""

    def __init__(self, network: Callable[[Tensor], Any], device: torch.device, size: int):
        self.network, self.normalise, self.device, self.size = network, normaliser(network, device), device, size
        self.pool: Tensor | None = None  # images of the rows not yet forwarded
        self.image = np.zeros(0, np.int64)  # row -> position in the pool
        self.masks: np.ndarray | None = None
        self.count = 0  # rows numbered so far
        self.black: int | None = None  # number of the row that sees nothing: the same for every image
        self.predictions: list[Tensor] = []

    def add(self, x: Tensor, masks: np.ndarray) -> np.ndarray:
        """Queue the images `x` (B, 3, S, S) in [0, 1] under `masks` (B, C, cells * cells); returns their row numbers, (B, C)."""
        numbers = np.empty(masks.shape[:2], np.int64)
        packed, full = np.packbits(masks, axis=2), masks.all(axis=2)
        new: list[tuple[int, int]] = []
        for b in range(len(masks)):
            seen: dict[bytes, int] = {}
            for c in range(masks.shape[1]):
                if full[b, c] and self.black is not None:
                    numbers[b, c] = self.black
                    continue
                key = packed[b, c].tobytes()
                if key not in seen:
                    seen[key] = self.count + len(new)
                    new.append((b, c))
                    if full[b, c]:
                        self.black = seen[key]
                numbers[b, c] = seen[key]
        self.count += len(new)
        b, c = np.array(new, dtype=np.int64).reshape(-1, 2).T
        held = 0 if self.pool is None else len(self.pool)
        self.pool = x if self.pool is None else torch.cat([self.pool, x])
        self.image = np.concatenate([self.image, b + held])
        self.masks = masks[b, c] if self.masks is None else np.concatenate([self.masks, masks[b, c]])
        done = len(self.image) // self.size * self.size
        for start in range(0, done, self.size):
            self._run(slice(start, start + self.size))
        self.image, self.masks = self.image[done:], self.masks[done:]
        first = int(self.image[0]) if len(self.image) else len(self.pool)  # rows are in the order of the images
        self.pool, self.image = self.pool[first:], self.image - first
        return numbers

    def _run(self, rows: slice) -> None:
        image, masks = self.image[rows], self.masks[rows]
        n, cells = len(image), round(masks.shape[1] ** 0.5)
        if n < self.size:
            fill = np.zeros(self.size - n, np.int64)
            image, masks = np.concatenate([image, image[fill]]), np.concatenate([masks, masks[fill]])
        x = self.pool[self._upload(image)]
        side = x.shape[-1] // cells
        keep = 1 - self._upload(masks).float().view(-1, 1, cells, 1, cells, 1)
        x.view(len(x), -1, cells, side, cells, side).mul_(keep)
        out = self.network(self.normalise(x))
        logits = getattr(out, "logits", out)[:n]
        predicted = torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)
        self.predictions.append(predicted.to(torch.int32))

    def _upload(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def finish(self) -> np.ndarray:
        """Forward what is left; the predictions of all rows, (R,) int32, -1 where the output is not finite."""
        if len(self.image):
            self._run(slice(None))
        return torch.cat(self.predictions).cpu().numpy() if self.predictions else np.zeros(0, np.int32)
