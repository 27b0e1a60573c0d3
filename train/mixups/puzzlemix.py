"""PuzzleMix: a mask that shows the salient parts of both images, and salient parts moved to where the mask shows
them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network

from .base import Context, Mixed, beta, check_pairing, pair, pair_weights, upload
from .parts.blocks import check_grid, enlarge, mix_blocks
from .parts.checks import beta_parameter, expect, flag, is_number, is_whole
from .parts.grid_solver import three_labels, transport
from .parts.saliency import SaliencyMethod, shares

LARGEST_GRID = 16


class PuzzleMix(SaliencyMethod):
    """Puzzle Mix (Kim, Choo & Song, ICML 2020, arXiv:2009.06962).

        s_i = |d loss / d x_i| averaged over the m x m blocks, sum 1;   lam0 ~ Beta(alpha, alpha);
        z in {1, 1/2, 0}^(m x m) minimises
          sum_p z_p s_pi(i),p + (1 - z_p) s_i,p - eta / m^2 log(binom(2, 2 - 2 z_p) lam0^(2 z_p) (1 - lam0)^(2 - 2 z_p)
              + 1e-8)
          + sum_(p,q) beta / (16 m) [(z_p - z_q)^2 + gamma d_pq(z_p, z_q)],
          d_pq = difference of the pixels along the border of p and q
        T, T' move the blocks of x_i, x_pi(i) to where z > 0, 1 - z > 0, at a cost of t_eps per distance minus the
            saliency shown there
        x~_i = z T x_i + (1 - z) T' x_pi(i),   lam_i = mean(z_i),   t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    Args:
        alpha: Parameter of Beta(alpha, alpha).
        grids: The m, one drawn per batch.
        beta: Weight of neighbouring blocks with different labels, as above.
        gamma: Weight of what differs across their border, as above.
        eta: Weight of the prior of lambda, as above.
        neighbourhood: n: pixels along a border are averages of n x n.
        transport: Whether blocks move within their image before they are mixed.
        t_eps: Cost of a move per distance.
        t_size: Side in pixels of the blocks that move; None: those of the mask.
        clean_lam: Weight of the loss of the clean batch (saliency is then taken in training mode).
        pairing: As CutMix.

    Images must be square, their side a multiple of m. Presets: "paper" and "released_tiny" are the official code's for
    32- and 64-pixel images, "released" the one for ImageNet (300 epochs). Draws: grid (m), lam, partner.

    Differs from the paper / the official code in minimising exactly where the code swaps labels with rounded and
    sometimes overflowing costs (grid 16: without proof), in keeping lam0 of the prior within [1e-4, 1 - 1e-4], where
    two cuts are exact, in reducing n to what it has in common with a block's side, in one more forward pass if
    clean_lam > 0, in the losses, as Co-Mixup, and in leaving out the adversarial variant.
    """

    bibtex = """
    @inproceedings{kim2020puzzlemix,
      title = {Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup},
      author = {Kim, Jang-Hyun and Choo, Wonho and Song, Hyun Oh},
      booktitle = {International Conference on Machine Learning},
      year = {2020},
      eprint = {2009.06962},
      archivePrefix = {arXiv}
    }
    """
    settled = {"grid": 8}
    exempt = {"oblong": "its grids divide square images only, as the paper's", "blend": "moves blocks"}
    counts_with = dict.fromkeys(("t_eps", "t_size"), ("transport", [True]))
    PRESETS = {
        "default": {},
        "paper": {"grids": (2, 4, 8, 16), "t_size": 4},
        "released": {"grids": (2, 4, 8, 16), "neighbourhood": 2},
        "released_tiny": {"grids": (2, 4, 8, 16), "clean_lam": 1.0},
        "openmixup": {},
        "openmixup_cifar": {"grids": (2, 4, 8, 16), "t_size": 4},
    }

    def __init__(
        self,
        alpha: float = 1.0,
        grids: Sequence[int] = (2, 4, 8),
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        neighbourhood: int = 4,
        transport: bool = True,
        t_eps: float = 0.8,
        t_size: int | None = None,
        clean_lam: float = 0.0,
        pairing: str = "perm",
    ):
        super().__init__(clean_lam)
        self.alpha = beta_parameter(alpha)
        sides = (
            isinstance(grids, Sequence)
            and len(grids) > 0
            and all(is_whole(m) and 2 <= m <= LARGEST_GRID for m in grids)
        )
        expect(sides, "grids", f"a list of whole numbers from 2 to {LARGEST_GRID}", grids)
        self.grids = tuple(grids)
        for name, value in (("beta", beta), ("eta", eta), ("t_eps", t_eps)):
            expect(is_number(value) and value >= 0, name, "a number of at least 0", value)
        expect(is_number(gamma) and 0 <= gamma <= 1, "gamma", "a number from 0 to 1", gamma)
        self.beta, self.gamma, self.eta, self.t_eps = beta, gamma, eta, t_eps
        for name, value in (("neighbourhood", neighbourhood), ("t_size", 1 if t_size is None else t_size)):
            expect(is_whole(value) and value > 0, name, "a whole number larger than 0", value)
        self.neighbourhood, self.t_size = neighbourhood, t_size
        self.transport = flag("transport", transport)
        self.pairing = check_pairing(pairing)

    def check_size(self, net: Network, height: int, width: int) -> None:
        for grid in self.grids:
            block = check_grid("puzzlemix", height, width, grid)
            if self.transport and self.t_size and self.t_size < block:
                self.check_moving(grid * block, block, self.t_size)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        grid = int(ctx.draw("grid", lambda rng: rng.choice(self.grids)))
        self.check_size(net, *x.shape[-2:])
        height, width = x.shape[-2:]
        block = check_grid("puzzlemix", height, width, grid)
        if len(x) == 1:
            return Mixed(x, torch.ones(1, 1, device=x.device))
        lam = beta(ctx, self.alpha)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        saliency = self.input_saliency(net, x, y)
        mask = 1 - three_labels(*self.costs(ctx, x, shares(saliency, block), partner, lam)).float() / 2  # (B, m, m)

        share = mask.mean((1, 2))
        if self.transport and self.t_size and self.t_size < block:
            mask, block = self.finer(mask, block, self.t_size), self.t_size
        mixed = mix_blocks(x, *self.sources(mask, shares(saliency, block) if self.transport else None, partner))
        return Mixed(mixed, pair_weights(share, partner), enlarge(mask, block), partner)

    def costs(self, ctx: Context, x: Tensor, s: Tensor, partner: Tensor, lam: float) -> tuple[Tensor, Tensor, Tensor]:
        """Float64 unary (B, m, m, 3), down (B, m - 1, m) and right (B, m, m - 1) costs of the labels 2 - 2z, up to a
        constant."""
        grid = s.shape[1]
        lam = min(max(lam, 1e-4), 1 - 1e-4)  # so that the prior is convex in the label despite the 1e-8
        prior = -self.eta / grid**2 * np.log(np.array([lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2]) + 1e-8)
        weight = self.beta / (16 * grid)
        own, other = s[partner], s  # what is lost where the own or the other image is shown
        folded = []
        for columns in (False, True):  # borders between rows of blocks, then between columns
            own_own, own_other, other_own, other_other = border_differences(
                x, ctx.std, partner, grid, self.neighbourhood, columns
            )
            # a border adds to the block before and the one after
            first, last = ((0, 1), (1, 0)) if columns else ((0, 0, 0, 1), (0, 0, 1, 0))
            scale = weight * self.gamma / 2
            own = own + scale * (F.pad(own_own + own_other, first) + F.pad(own_own + other_own, last))
            other = other + scale * (F.pad(other_other + other_own, first) + F.pad(other_other + own_other, last))
            folded.append(weight + scale * (own_other + other_own - own_own - other_other))
        unary = torch.stack([own, (own + other) / 2, other], 3) + upload(prior, x)
        down, right = folded
        return unary, down, right

    @staticmethod
    def check_moving(side: int, block: int, size: int) -> None:
        """Raises EvalkitError where blocks of `size` pixels do not divide those of the mask, or are too many."""
        if block % size or side // size > LARGEST_GRID:
            raise EvalkitError(
                f"puzzlemix cannot move {size}-pixel blocks of {side}-pixel images (at most a 16 x 16 grid); use"
                " t_size=null"
            )

    @staticmethod
    def finer(mask: Tensor, block: int, size: int) -> Tensor:
        """The mask on the grid of blocks of `size` pixels instead of `block`."""
        return mask.repeat_interleave(block // size, 1).repeat_interleave(block // size, 2)

    def sources(self, mask: Tensor, s: Tensor | None, partner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image, block and weight (B, G, G, 2) of the own and the other content of each block; `s` None: nothing
        moves."""
        shape = (*mask.shape, 2)
        weight = torch.stack([mask, 1 - mask], 3)
        sample = torch.arange(len(mask), device=mask.device)
        image = torch.stack([sample, partner], 1)[:, None, None].expand(shape)
        if s is None:
            cell = torch.arange(mask[0].numel(), device=mask.device).view(1, *mask.shape[1:], 1).expand(shape)
        else:
            cell, filled = transport(torch.cat([s, s[partner]]).float(), torch.cat([mask > 0, mask < 1]), self.t_eps)
            cell, filled = (t.view(2, *mask.shape).permute(1, 2, 3, 0) for t in (cell, filled))
            weight = weight * filled
        return image, cell, weight


def border_differences(
    x: Tensor, std: Tensor, partner: Tensor, grid: int, neighbourhood: int, columns: bool
) -> list[Tensor]:
    """Difference across the borders of blocks for the images (own, own), (own, other), (other, own), (other, other)
    before and after it.

    Mean over channels and the length of a border of |pixel before - pixel after| in units of the range [0, 1], each
    pixel averaged over n x n. Float64 (B, m - 1, m) for the borders between rows of blocks, (B, m, m - 1) for those
    between columns.

    Args:
        x: Normalised images (B, C, H, W).
        std: (C,), of the normalisation, on the scale of [0, 1].
        partner: Index of the other image, (B,).
        grid: m, blocks per side.
        neighbourhood: n, pixels per side that are averaged.
        columns: Whether the borders are those between columns.
    """
    block = x.shape[2] // grid
    n = math.gcd(min(neighbourhood, block), block)
    std = std.to(x.device, torch.float64, non_blocking=True)[:, None, None]

    # (B, C, m, side / n): pixels first to first + n of every block, averaged across and along the border
    def averaged(first: int) -> Tensor:
        if columns:
            strips = x.unflatten(3, (grid, block))[..., first : first + n].mean(4, dtype=torch.float32).transpose(2, 3)
        else:
            strips = x.unflatten(2, (grid, block))[:, :, :, first : first + n].mean(3, dtype=torch.float32)
        return strips.unflatten(3, (-1, n)).mean(4).double() * std

    before, after = averaged(block - n)[:, :, :-1], averaged(0)[:, :, 1:]
    differences = []
    for p in (before, before[partner]):
        for q in (after, after[partner]):
            d = (p - q).abs().mean(1).unflatten(2, (grid, -1)).mean(3)
            differences.append(d.transpose(1, 2) if columns else d)
    return differences
