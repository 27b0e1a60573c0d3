"""Which patches of an image are dropped: at random, by saliency mass from the top, or from the bottom. True =
dropped."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def random_ranks(sample: str, patches: int, seed: int = 0, repeat: int = 0) -> np.ndarray:
    """Rank of each patch in the random order of image `sample` (its POSIX path below the data folder), (patches,)
    int64.

    The order sorts the first raw words of a counter-based generator whose stream is fixed for all time, keyed by (seed,
    repeat) and the path alone.

    Args:
        sample: Id of the image, its POSIX path below the data folder.
        patches: How many patches the image has.
        seed: The seed of the masks, 0 to 2^64-1.
        repeat: Which of the repeated masks of the image, from 0.

    >>> random_ranks("n01440764/ILSVRC2012_val_00000293.JPEG", 196)[:10].tolist()
    [29, 50, 89, 152, 163, 140, 119, 104, 19, 36]
    """
    return np.argsort(np.argsort(_words(sample, patches, seed, repeat, stream=0), kind="stable"), kind="stable")


def shuffled_order(sample: str, patches: int, seed: int = 0, repeat: int = 0) -> np.ndarray:
    """Which patch stands at each place of an image once its patches are shuffled, (patches,) int64; draws of its own,
    keyed as `random_ranks`.

    Args:
        sample: Id of the image.
        patches: How many patches the image has.
        seed: The seed of the orders.
        repeat: Which of the repeated orders of the image, from 0.
    """
    return np.argsort(_words(sample, patches, seed, repeat, stream=1), kind="stable")


def _words(sample: str, n: int, seed: int, repeat: int, stream: int) -> np.ndarray:
    """The first `n` raw 64-bit words of the generator of (seed, repeat, stream, path)."""
    # a list would go through float64
    key, counter = (np.array(values, dtype=np.uint64) for values in ([seed, repeat], [0, 0, stream, path_hash(sample)]))
    return np.random.Philox(key=key, counter=counter).random_raw(n)


def path_hash(sample: str) -> int:
    """64-bit BLAKE2b of the path, little-endian.

    >>> path_hash("n01440764/ILSVRC2012_val_00000293.JPEG")
    6470457453692079422
    """
    return int.from_bytes(hashlib.blake2b(sample.encode(), digest_size=8).digest(), "little")


def dropped_count(level: float, patches: int) -> int:
    """floor(level * patches), safe against the rounding of decimal levels.

    Args:
        level: The share that is dropped, 0 to 1.
        patches: How many patches there are.

    >>> [dropped_count(i / 10, 196) for i in range(10)]
    [0, 19, 39, 58, 78, 98, 117, 137, 156, 176]
    """
    return int(np.floor(level * patches + 1e-9))


def salient_masks(saliency: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(B, L, N) bool: the patches whose ascending cumulative share of mass exceeds 1 - level; ties by patch index.

    Args:
        saliency: Mass of each patch, (B, N), not negative.
        levels: The L shares of the mass that are dropped.

    >>> salient_masks(np.array([[.05, .40, .25, .10, .20]]), [.3, .5])[0].astype(int).tolist()
    [[0, 1, 0, 0, 0], [0, 1, 1, 0, 0]]
    """
    kept_mass, order = _ascending_mass(saliency)
    return _to_patches(np.stack([_upper(kept_mass, level) for level in levels], axis=1), order)


def nonsalient_masks(saliency: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(B, L, N) bool: the complement of the salient set of 1 - level, at most `level` of the mass.

    Args:
        saliency: Mass of each patch, (B, N), not negative.
        levels: The L shares of the mass that are dropped.

    >>> nonsalient_masks(np.array([[.05, .40, .25, .10, .20]]), [.5, .7])[0].astype(int).tolist()
    [[1, 0, 0, 1, 1], [1, 0, 1, 1, 1]]
    """
    kept_mass, order = _ascending_mass(saliency)
    return _to_patches(np.stack([~_upper(kept_mass, 1 - level) for level in levels], axis=1), order)


def _ascending_mass(saliency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    saliency = np.asarray(saliency, dtype=np.float64)
    order = np.argsort(saliency, axis=1, kind="stable")
    mass = np.take_along_axis(saliency, order, axis=1)
    return np.cumsum(mass / mass.sum(axis=1, keepdims=True), axis=1), order


def _upper(cumulative: np.ndarray, level: float) -> np.ndarray:
    """Ends are set by hand: in floating point the whole mass need not be 1."""
    if level <= 0 or level >= 1:
        return np.full(cumulative.shape, level >= 1)
    return cumulative > 1 - level


def _to_patches(sorted_masks: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty_like(sorted_masks)
    np.put_along_axis(out, np.broadcast_to(order[:, None], out.shape), sorted_masks, axis=2)
    return out


def resample(masks: np.ndarray, grid: tuple[int, int], cells: int) -> np.ndarray:
    """Masks of one grid on a finer or coarser square one, (..., cells * cells): each cell takes the patch it starts in.

    Args:
        masks: (..., g_h * g_w), rows of patches one after another.
        grid: (g_h, g_w), patches down and across.
        cells: Cells per side of the result.
    """
    if grid == (cells, cells):
        return masks
    rows, cols = (np.arange(cells) * g // cells for g in grid)
    return masks.reshape(*masks.shape[:-1], *grid)[..., rows[:, None], cols].reshape(*masks.shape[:-1], cells * cells)


def shifted(masks: np.ndarray, side: int, offset: int) -> np.ndarray:
    """Masks of single pixels moved right and down; nothing is dropped in the first rows and columns.

    Args:
        masks: (..., side * side), True where a pixel is dropped.
        side: Pixels per side of the image.
        offset: By how many pixels they move.

    >>> shifted(np.ones((1, 9), bool), 3, 1).astype(int).tolist()
    [[0, 0, 0, 0, 1, 1, 0, 1, 1]]
    """
    whole = masks.reshape(*masks.shape[:-1], side, side)
    out = np.zeros_like(whole)
    out[..., offset:, offset:] = whole[..., : side - offset, : side - offset]
    return out.reshape(masks.shape)


# ---- settings: the columns of the sweep


class Setting(NamedTuple):
    """One column of the records: what is dropped from an image.

    Args:
        mode: clean | random | salient | nonsalient | shuffle.
        level: Share dropped; of shuffle, patches per side.
        repeat: Which of the repeated draws, from 0; 0 where nothing is drawn.
    """

    mode: str
    level: float
    repeat: int


def settings(modes: Sequence[str], levels: Sequence[float], repeats: int, shuffle: Sequence[int] = ()) -> list[Setting]:
    """The clean image, every mode at every level above 0, and every grid of `shuffle`; what is drawn at random
    `repeats` times.

    Args:
        modes: Of random, salient and nonsalient, those that are measured.
        levels: Shares that are dropped; 0 is left out, the clean image is always there.
        repeats: How often what is drawn at random is drawn.
        shuffle: Patches per side of the grids whose patches are shuffled.
    """
    out = [Setting("clean", 0.0, 0)]
    for mode in modes:
        out += [
            Setting(mode, level, repeat)
            for level in levels
            if level > 0
            for repeat in range(repeats if mode == "random" else 1)
        ]
    return out + [Setting("shuffle", float(grid), repeat) for grid in shuffle for repeat in range(repeats)]


def image_masks(
    ids: Sequence[str],
    saliency: tuple[np.ndarray, tuple[int, int]] | None,
    columns: Sequence[Setting],
    grid: int,
    side: int,
    seed: int,
    offset: int = 0,
) -> np.ndarray:
    """(B, C, cells * cells) bool masks of images under every setting. cells is `grid`, or `side` (single pixels) for a
    saliency on another grid or an `offset`. Shuffling drops nothing.

    Args:
        ids: Ids of the B images.
        saliency: ((B, g_h * g_w), (g_h, g_w)): mass of each patch and the grid it lies on; None: no setting asks for
            it.
        columns: The C settings.
        grid: Patches per side that are dropped.
        side: Pixels per side of the images.
        seed: The seed of what is drawn at random.
        offset: Pixels by which the dropped patches are moved right and down.
    """
    cells = grid if (saliency is None or saliency[1] == (grid, grid)) and not offset else side
    out = np.zeros((len(ids), len(columns), cells * cells), dtype=bool)
    by_mode = lambda mode: [c for c, s in enumerate(columns) if s.mode == mode]  # noqa: E731
    for b, sample in enumerate(ids):
        for repeat in sorted({columns[c].repeat for c in by_mode("random")}):
            at = [c for c in by_mode("random") if columns[c].repeat == repeat]
            counts = np.array([dropped_count(columns[c].level, grid * grid) for c in at])
            out[b, at] = resample(
                random_ranks(sample, grid * grid, seed, repeat) < counts[:, None], (grid, grid), cells
            )
    for mode, by_mass in (("salient", salient_masks), ("nonsalient", nonsalient_masks)):
        if saliency is not None and (at := by_mode(mode)):
            (values, shape), levels = saliency, [columns[c].level for c in at]
            out[:, at] = resample(by_mass(values, levels), shape, cells)
    return shifted(out, side, offset) if offset else out
