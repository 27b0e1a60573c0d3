"""MaskMix: mix two images by a random grid whose cells are whole patches."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect, flag, is_number, is_whole, one_of
from .parts.masks import token_block_mask, token_count

MASKS = ("random", "block")
ROUNDINGS = ("ceil", "floor")
SHUFFLES = ("crop", "canvas", "both")


class MaskMix(MixMethod):
    """MaskMix (Zhao et al., ICLR 2023, arXiv:2304.12043, equations 6 and 7): the mask of MixPro with area labels.

        tau ~ Beta(alpha, alpha), one per batch;  S = ceil(H / c) ceil(W / c) cells of c x c pixels;  n = ceil(S tau)
        M_i = 1 in n cells chosen anew for each sample, 0 in the others, cropped to the image
        x~_i = M_i x_i + (1 - M_i) x_pi(i),   lam_i = mean(M_i),   t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    Needs no class attention.

    Args:
        scale: Cell side in patches of the network.
        cell: Cell side in pixels, instead.
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: As CutMix.
        mask: "random", or "block": M = 0 in TokenMix's blocks of 4/7 of the cells, one mask per batch, without tau.
        count_rounding: "ceil" or "floor" of S tau.
        lam_from_count: lam = n / S even where the image's border cuts cells.
        misaligned: Shift the grid by 1 to patch - 1 pixels.
        shuffle: Permute the patches shown: "crop" of the partner, "canvas" of the own image, "both" each among
            themselves.
        shuffle_cells: In units of cells instead of patches.

    Presets of the paper's ablations: "block", "random", "random4x" (table 7, whose "region" is CutMix),
    "shuffle_crop", "shuffle_canvas", "shuffle_both" (table 9). Draws: lam (tau), cells ((B, S) or (B, rows, columns),
    1 = own image), partner, offset (row, column), noise ((B, patches) in [0, 1)).

    Differs from the paper / the official code in combining them: n is rounded up and each image has a mask of its own
    as in the code (the paper rounds down, its algorithm 1 has one mask per batch), lam is the true share of pixels as
    in the paper (the code's n / S is wrong where c does not divide the image).
    """

    family = "hand-crafted"
    bibtex = """
    @inproceedings{zhao2023mixpro,
      title = {{MixPro}: Data Augmentation with {MaskMix} and Progressive Attention Labeling for Vision
        Transformer},
      author = {Zhao, Qihao and Huang, Yangyu and Hu, Wei and Zhang, Fan and Liu, Jun},
      booktitle = {International Conference on Learning Representations},
      year = {2023},
      eprint = {2304.12043},
      archivePrefix = {arXiv}
    }
    """
    small = {"scale": 2}
    counts_with = {
        "scale": ("cell", [None]),
        "shuffle_cells": ("shuffle", ["crop", "canvas", "both"]),
        **dict.fromkeys(("alpha", "count_rounding"), ("mask", ["random"])),
    }
    PRESETS = {
        "default": {},
        "block": {"mask": "block", "scale": 1, "pairing": "flip"},
        "paper": {"pairing": "flip", "count_rounding": "floor"},
        "random": {"scale": 1},
        "random4x": {"scale": 4},
        "released": {"lam_from_count": True},
        "shuffle_both": {"shuffle": "both"},
        "shuffle_canvas": {"shuffle": "canvas"},
        "shuffle_crop": {"shuffle": "crop"},
    }

    def __init__(
        self,
        scale: float = 4,
        cell: int | None = None,
        alpha: float = 1.0,
        pairing: str = "perm",
        mask: str = "random",
        count_rounding: str = "ceil",
        lam_from_count: bool = False,
        misaligned: bool = False,
        shuffle: str | None = None,
        shuffle_cells: bool = False,
    ):
        super().__init__()
        expect(is_number(scale) and scale > 0, "scale", "a number of patches larger than 0", scale)
        expect(cell is None or (is_whole(cell) and cell > 0), "cell", "a whole number of pixels larger than 0", cell)
        expect(
            shuffle is None or not flag("misaligned", misaligned),
            "misaligned",
            "false where patches are shuffled",
            misaligned,
        )
        self.scale, self.cell = scale, cell
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.mask = one_of("mask", mask, MASKS)
        self.count_rounding = one_of("count_rounding", count_rounding, ROUNDINGS)
        self.lam_from_count = flag("lam_from_count", lam_from_count)
        self.misaligned = misaligned
        self.shuffle = shuffle and one_of("shuffle", shuffle, SHUFFLES)
        self.shuffle_cells = flag("shuffle_cells", shuffle_cells)

    def check_size(self, net: Network, height: int, width: int) -> None:
        self.sizes(net, height, width)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        patch, cell = self.sizes(net, height, width)
        offset = ctx.draw("offset", lambda rng: rng.integers(1, patch, size=2)) if self.misaligned else (0, 0)
        grid = math.ceil(height / cell) + self.misaligned, math.ceil(width / cell) + self.misaligned
        cells = (
            draw_blocks(ctx, len(x), grid)
            if self.mask == "block"
            else draw_cells(ctx, len(x), grid, self.alpha, self.count_rounding)
        )
        share = cells.mean((1, 2)) if self.lam_from_count else pixel_share(cells, cell, offset, height, width)
        mask = pixel_mask(upload(cells, x), cell, offset, height, width)
        partner = upload(pair(ctx, len(x), self.pairing), x)

        own, other = x, x[partner]
        if self.shuffle:
            unit = cell if self.shuffle_cells else patch
            order = upload(shuffle_order(ctx, cells, cell, unit, height, width), x)
            own = permute_patches(own, order, unit) if self.shuffle in ("canvas", "both") else own
            other = permute_patches(other, order, unit) if self.shuffle in ("crop", "both") else other
        weights = pair_weights(upload(share, x, torch.float32), partner)
        return Mixed(torch.where(mask, own, other, out=other), weights, mask.float(), partner)

    def sizes(self, net: Network, height: int, width: int) -> tuple[int, int]:
        """Sides (patch, cell) in pixels. Raises EvalkitError where they do not suit the network or the image."""
        patch = net.patch_size or self.cell
        if patch is None:
            raise EvalkitError(
                "this model has no patches to take the mask's cells from; give maskmix a cell size in pixels, e.g."
                " cell=16"
            )
        cell = self.cell or self.scale * patch
        shorter = min(height, width)
        image = f"{height}" if height == width else f"{height}x{width}"
        advice = (
            f"use a multiple of patch size {patch} up to {shorter // patch * patch}"
            if net.patch_size
            else f"use at most {shorter}"
        )
        if cell != int(cell):
            raise EvalkitError(f"cell {cell:g} is not a whole number of pixels; {advice}")
        if cell > shorter:
            raise EvalkitError(f"cell {cell:g} is larger than image {image}; {advice}")
        if self.shuffle and (cell % patch or height % patch or width % patch):
            raise EvalkitError(
                f"shuffle={self.shuffle} needs cell {cell:g} and image {image} to be multiples of patch size {patch}"
            )
        if self.shuffle and self.shuffle_cells and (height % cell or width % cell):
            raise EvalkitError(f"shuffle_cells needs image {image} to be a multiple of cell {cell:g}")
        return patch, int(cell)


def draw_cells(ctx: Context, batch: int, grid: tuple[int, int], alpha: float, rounding: str) -> np.ndarray:
    """(B, rows, columns) bool on the host: one share tau ~ Beta(alpha, alpha) per batch, that share of the cells chosen
    anew for each sample.

    Args:
        ctx: The context, whose generator draws.
        batch: Images in the batch, B.
        grid: Rows and columns of cells.
        alpha: Both parameters of the share's distribution.
        rounding: How a share becomes a number of cells: "ceil" or "floor".
    """

    def sample(rng: np.random.Generator) -> np.ndarray:
        size = math.prod(grid)
        count = getattr(math, rounding)(size * beta(ctx, alpha))
        # a row of argsort is a uniform permutation: exactly `count` entries are below it
        return rng.random((batch, size)).argsort(1) < count

    return np.asarray(ctx.draw("cells", sample), dtype=bool).reshape(batch, *grid)


def draw_blocks(ctx: Context, batch: int, grid: tuple[int, int]) -> np.ndarray:
    """(B, rows, columns) bool on the host: TokenMix's mask of blocks, the same for all samples.

    Args:
        ctx: The context, whose generator draws.
        batch: Images in the batch, B.
        grid: Rows and columns of cells.
    """
    cells = ctx.draw("cells", lambda rng: np.tile(token_block_mask(rng, grid, token_count(grid)), (batch, 1, 1)))
    return np.asarray(cells, dtype=bool).reshape(batch, *grid)


def pixel_mask(cells: Tensor, cell: int, offset: tuple[int, int], height: int, width: int) -> Tensor:
    """(B, 1, H, W) mask of pixels.

    Args:
        cells: (B, rows, columns), of the own image.
        cell: Pixels per side of a cell.
        offset: Rows and columns of pixels that are cut off above and to the left.
        height: H of the images.
        width: W of the images.
    """
    top, left = offset
    pixels = cells.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return pixels[:, None, top : top + height, left : left + width]


def pixel_share(cells: np.ndarray, cell: int, offset: tuple[int, int], height: int, width: int) -> np.ndarray:
    """(B,) share of the image's pixels in the chosen cells, exact: the mean of `pixel_mask`.

    Args:
        cells: (B, rows, columns) bool.
        cell: Pixels per side of a cell.
        offset: Rows and columns of pixels that are cut off above and to the left.
        height: H of the images.
        width: W of the images.
    """

    def sides(count: int, start: int, size: int) -> np.ndarray:  # what is left of each row or column of cells
        return np.diff(np.clip(np.arange(count + 1) * cell - start, 0, size))

    _, rows, columns = cells.shape
    return np.einsum("brc,r,c->b", cells, sides(rows, offset[0], height), sides(columns, offset[1], width)) / (
        height * width
    )


def shuffle_order(ctx: Context, cells: np.ndarray, cell: int, patch: int, height: int, width: int) -> np.ndarray:
    """(B, N): position j of the patch grid shows patch order[j]. Own positions are permuted among themselves, and so
    are the partner's.

    Args:
        ctx: The context, whose generator draws.
        cells: (B, rows, columns) bool: what shows the own image.
        cell: Pixels per side of a cell.
        patch: Pixels per side of a patch, of which a cell has one or more.
        height: H of the images.
        width: W of the images.
    """
    rows, columns = height // patch, width // patch
    own = cells.repeat(cell // patch, 1).repeat(cell // patch, 2)[:, :rows, :columns].reshape(len(cells), -1)
    noise = np.asarray(ctx.draw("noise", lambda rng: rng.random(own.shape)))
    order = np.empty(own.shape, dtype=np.int64)
    np.put_along_axis(order, own.argsort(1, kind="stable"), (own + noise).argsort(1), 1)
    return order


def permute_patches(x: Tensor, order: Tensor, patch: int) -> Tensor:
    """Images whose patch j is patch order[:, j] of `x`.

    Args:
        x: Images (B, C, H, W).
        order: (B, N) int64, N patches row by row.
        patch: Pixels per side of a patch.
    """
    patches = F.unfold(x, patch, stride=patch)  # (B, C patch^2, N)
    moved = F.fold(patches.gather(2, order[:, None].expand_as(patches)), x.shape[-2:], patch, stride=patch)
    return (
        moved.contiguous(memory_format=torch.channels_last)
        if x.is_contiguous(memory_format=torch.channels_last)
        else moved
    )
