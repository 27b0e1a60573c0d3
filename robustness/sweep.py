"""The occlusion engine: one decode and one saliency pass per image, its masked copies flattened into forward passes of
a fixed shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.data.images import Images
from evalkit.device_copy import Fetched, to_device
from evalkit.errors import EvalkitError
from evalkit.inference import Resumed, check_eval_mode, check_finite, exact, fixed_chunks, gather, normaliser
from evalkit.parts import Parts
from evalkit.progress import progress
from evalkit.runtime import world_size

from .masks import Setting, image_masks, shuffled_order
from .saliency import Saliency

MASK_BYTES = 2**26  # of the masks made at a time


@dataclass(frozen=True, slots=True)
class Sweep:
    """Predictions of a network for every image under every setting, in the order of the data set.

    Args:
        ids: Of the N images.
        positions: (N,) in the data set.
        predictions: (N, C) int32 class index.
        dropped: (N, C) float64 share of the pixels dropped.
        bad: (id, reason) of images that could not be read.
        saliency: (N, g_h * g_w) float32 of the patches, if it was to be kept.
    """

    ids: list[str]
    positions: np.ndarray
    predictions: np.ndarray
    dropped: np.ndarray
    bad: list[tuple[str, str]]
    saliency: np.ndarray | None


@dataclass(frozen=True)
class How:
    """What a sweep may be told besides.

    Args:
        seed: Of what is drawn at random.
        offset: Pixels by which the dropped patches are moved right and down.
        fill: (3,) colour in [0, 1] of what is dropped; black without.
        rows: Positions of the images; all without.
        forward_batch: Rows of a forward pass.
        batch_size: What a loader process reads at a time.
        workers: Processes that read images.
        what: Names the pass in a progress bar.
        keep_saliency: Whether the result holds the saliency.
        parts: As in `predict`.
    """

    seed: int = 0
    offset: int = 0
    fill: Sequence[float] | None = None
    rows: Sequence[int] | np.ndarray | None = None
    forward_batch: int = 64
    batch_size: int = 64
    workers: int = 2
    what: str | None = None
    keep_saliency: bool = False
    parts: Parts | None = None


def sweep(
    network: Callable[[Tensor], Any],
    images: Images,
    transform: Callable[..., Tensor],
    columns: Sequence[Setting],
    *,
    grid: int,
    saliency: Saliency | None,
    device: torch.device,
    **how: Any,
) -> Sweep:
    """Predictions of a network for images under some settings.

    Each image is decoded once and passes the saliency model once, unmasked; its masked copies and those of other images
    fill forward passes of a fixed number of rows. Masks that coincide are forwarded once.

    Args:
        network: As in `evalkit.inference.predict`.
        images: The data set.
        transform: From an image to uint8 (3, S, S).
        columns: The settings.
        grid: Patches per side, a divisor of S.
        saliency: Where it comes from, for the modes salient and nonsalient.
        device: Where the network is.
        how: Fields of `How`.

    Raises ValueError for a network in training mode, EvalkitError for a grid that does not divide the image and for
    outputs or saliency that are not finite.
    """
    told = How(**how)
    check_eval_mode(network)
    rows = np.arange(len(images)) if told.rows is None else np.asarray(told.rows, dtype=np.int64)
    needs_saliency = any(s.mode in ("salient", "nonsalient") for s in columns)
    if needs_saliency and saliency is None:
        raise ValueError(
            "Expected argument `saliency` to be a saliency source for the modes salient and nonsalient, but got None"
        )
    saved = Resumed(images, rows, told.parts)
    bad: list[tuple[str, str]] = []
    queue = _Queue(_Forward(network, device, told.forward_batch, told.fill), images.ids, columns, told.seed)
    with exact(), progress(told.what, len(saved.left)) as advance:
        size, load = told.forward_batch, {"batch_size": told.batch_size, "workers": told.workers}
        for x, chunk in fixed_chunks(images, transform, saved.left, size, device, **load, bad=bad):
            side = x.shape[-1]
            check_grid(grid, side)
            ids = [images.ids[i] for i in chunk]
            values, shape = None, (grid, grid)
            if saliency is not None and needs_saliency:
                values, shape = saliency(x, ids)  # waits for the device
            cells = grid if shape == (grid, grid) and not told.offset else side
            step = max(1, MASK_BYTES // (len(columns) * cells * cells))
            for some in (slice(start, start + step) for start in range(0, len(chunk), step)):
                queue.flush()  # keeps the device busy while the next masks are made
                own = None if values is None else values[some]
                masks = image_masks(
                    ids[some], own if own is None else (own, shape), columns, grid, side, told.seed, told.offset
                )
                queue.put(chunk[some], x[: len(chunk)][some], masks, own if told.keep_saliency else None)
            if told.parts is not None and told.parts.due():
                through, arrays = queue.unsaved()
                saved.save(through, **arrays)
            advance(len(chunk) * world_size())
        index, arrays = queue.results()
    order, ordered, bad = gather(images, rows, *saved.joined(index, **arrays), bad)
    got = dict(zip(arrays, ordered))
    ids = [images.ids[i] for i in order]
    check_finite(ids, (got["predictions"] >= 0).all(axis=1))
    return Sweep(ids, order, got["predictions"], got["dropped"], bad, got.get("saliency"))


def check_grid(grid: int, side: int) -> None:
    """Raise EvalkitError unless `grid` divides the image side, naming values that do.

    Args:
        grid: Patches per side.
        side: Pixels per side of the image.
    """
    if side % grid:
        fits = [g for g in range(2, side // 2 + 1) if side % g == 0]
        raise EvalkitError(
            f"a grid of {grid} patches does not divide images of {side} pixels; choose grid= one of"
            f" {', '.join(map(str, fits))}"
        )


class _Queue:
    """Images on their way through the forward passes, and what is known of those that are through."""

    def __init__(self, forward: "_Forward", ids: Sequence[str], columns: Sequence[Setting], seed: int):
        self.forward, self.ids, self.columns, self.seed = forward, ids, columns, seed
        self.masked = np.array([c for c, s in enumerate(columns) if s.mode != "shuffle"])
        self.waiting: tuple[np.ndarray, Tensor, np.ndarray] | None = None
        # a list of blocks each; row numbers and shares are (n, C)
        self.index: list[np.ndarray] = []
        self.slots: list[np.ndarray] = []
        self.dropped: list[np.ndarray] = []
        self.saliency: list[np.ndarray] = []
        self.saved = 0  # blocks

    def put(self, index: np.ndarray, x: Tensor, masks: np.ndarray, saliency: np.ndarray | None) -> None:
        """Take the images `x` (n, 3, S, S) at the positions `index` under `masks` (n, C, cells * cells); they are
        queued at the next `flush`."""
        self.index.append(index)
        self.dropped.append(masks.mean(axis=2))
        if saliency is not None:
            self.saliency.append(saliency.astype(np.float32))
        self.waiting = index, x, masks

    def flush(self) -> None:
        if self.waiting is None:
            return
        index, x, masks = self.waiting
        slots = np.empty(masks.shape[:2], np.int64)
        slots[:, self.masked] = self.forward.add(x, masks[:, self.masked])
        for c, setting in enumerate(self.columns):
            if setting.mode == "shuffle":
                slots[:, [c]] = self.forward.add(self._shuffled(x, index, setting), masks[:, [c]])
        self.slots.append(slots)
        self.waiting = None

    def _shuffled(self, x: Tensor, index: np.ndarray, setting: Setting) -> Tensor:
        grid = int(setting.level)
        check_grid(grid, x.shape[-1])
        n, channels, side = x.shape[0], x.shape[1], x.shape[-1] // grid
        order = np.stack([shuffled_order(self.ids[i], grid * grid, self.seed, setting.repeat) for i in index])
        patches = (
            x.view(n, channels, grid, side, grid, side)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(n, grid * grid, channels, side, side)
        )
        patches = patches[torch.arange(n, device=x.device)[:, None], self.forward.upload(order)]
        return patches.view(n, grid, grid, channels, side, side).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def unsaved(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Positions and results of the images that came through since the last call."""
        known = self.forward.known()
        ready = self.saved
        while ready < len(self.slots) and self.slots[ready].max() < len(known):
            ready += 1
        blocks, self.saved = slice(self.saved, ready), ready
        return self._blocks(blocks, known)

    def results(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Positions and results of all images, once the rest is forwarded."""
        self.flush()
        return self._blocks(slice(None), self.forward.finish())

    def _blocks(self, blocks: slice, predictions: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        none = np.zeros((0, len(self.columns)))
        slots = np.concatenate([none.astype(np.int64), *self.slots[blocks]])
        arrays = {"predictions": predictions[slots], "dropped": np.concatenate([none, *self.dropped[blocks]])}
        if self.saliency:
            arrays["saliency"] = np.concatenate([self.saliency[0][:0], *self.saliency[blocks]])
        return np.concatenate([np.zeros(0, np.int64), *self.index[blocks]]), arrays


class _Forward:
    """A queue of masked images, forwarded in chunks of `size` rows as soon as they are there. Every row gets a number;
    its prediction comes at the end."""

    def __init__(
        self, network: Callable[[Tensor], Any], device: torch.device, size: int, fill: Sequence[float] | None = None
    ):
        self.network, self.normalise, self.device, self.size = network, normaliser(network, device), device, size
        self.fill = (
            None if fill is None else torch.tensor(fill, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1, 1)
        )
        self.pool: Tensor | None = None  # images of the rows not yet forwarded
        self.image = np.zeros(0, np.int64)  # row -> position in the pool
        self.masks: np.ndarray | None = None
        self.count = 0  # rows numbered so far
        self.black: int | None = None  # number of the row that sees nothing: the same for every image
        self.predictions = Fetched()

    def add(self, x: Tensor, masks: np.ndarray) -> np.ndarray:
        """Queue the images `x` (B, 3, S, S) in [0, 1] under `masks` (B, C, cells * cells); returns their row numbers,
        (B, C)."""
        numbers = np.empty(masks.shape[:2], np.int64)
        packed, full = np.packbits(masks, axis=2), np.asarray(masks.all(axis=2))
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
        assert self.pool is not None and self.masks is not None, "rows were added"
        image, masks = self.image[rows], self.masks[rows]
        n, cells = len(image), round(masks.shape[1] ** 0.5)
        if n < self.size:
            fill = np.zeros(self.size - n, np.int64)
            image, masks = np.concatenate([image, image[fill]]), np.concatenate([masks, masks[fill]])
        x = self.pool[self.upload(image)]
        side = x.shape[-1] // cells
        drop = self.upload(masks).float().view(-1, 1, cells, 1, cells, 1)
        patches = x.view(len(x), -1, cells, side, cells, side).mul_(1 - drop)
        if self.fill is not None:
            patches.add_(drop * self.fill)
        out = self.network(self.normalise(x))
        logits = getattr(out, "logits", out)[:n]
        predicted = torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)
        self.predictions.add(predicted.to(torch.int32))

    def upload(self, array: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)

    def known(self) -> np.ndarray:
        """The predictions of the rows forwarded so far, (R,) int32, -1 where the output is not finite. Waits for the
        device."""
        return np.concatenate([np.zeros(0, np.int32), *self.predictions.arrays()])

    def finish(self) -> np.ndarray:
        """Forward what is left; the predictions of all rows, as `known`."""
        if len(self.image):
            self._run(slice(None))
        return self.known()
