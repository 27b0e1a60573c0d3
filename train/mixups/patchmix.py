"""PatchMix: compose two images from the cells of a grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.attention import token_grid
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect, is_number, is_whole
from .parts.masks import blend


class PatchMix(MixMethod):
    """PatchMix (Cascante-Bonilla et al., BMVC 2021, arXiv:2106.09011): random grids and pairs.

        lam0_i ~ Beta(alpha, alpha) for each sample;
        K_i = round((1 - lam0_i) N^2) of the N x N cells, chosen uniformly, show the partner
        M_i = 0 in them, else 1;   x~_i = M_i x_i + (1 - M_i) x_pi(i),   lam_i = mean(M_i),
        t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))
        L = L(f(x~_i), t_i) + patch_loss mean_cells L(head(features of the cell), s(label of the cell's source))

    Args:
        grid: N; None: 4 for sides up to 32 pixels, 8 up to 64, else 7.
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        patch_loss: Weight of the loss over cells (0: none; 1 with it), whose features are averaged over each cell and
            go through the network's own head.
        pairing: As CutMix.

    Draws: lam ((B,)), cells ((B, N, N), 1 = own image), partner.

    Differs from the paper / the official code where those are not public in detail: this is a reconstruction from the
    paper's abstract (cells of a grid, label by number of cells, losses per patch), without its evolutionary search for
    patterns and pairs.
    """

    family = "hand-crafted"
    bibtex = """
    @inproceedings{cascantebonilla2021evolving,
      title = {Evolving Image Compositions for Feature Representation Learning},
      author = {Cascante-Bonilla, Paola and Sekhon, Arshdeep and Qi, Yanjun and Ordonez, Vicente},
      booktitle = {British Machine Vision Conference},
      year = {2021},
      eprint = {2106.09011},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "paper": {"patch_loss": 1.0},
    }

    def __init__(self, grid: int | None = None, alpha: float = 1.0, patch_loss: float = 0.0, pairing: str = "perm"):
        super().__init__()
        expect(
            grid is None or (is_whole(grid) and grid > 0), "grid", "a whole number of cells per side, 1 or more", grid
        )
        expect(is_number(patch_loss) and patch_loss >= 0, "patch_loss", "a number of at least 0", patch_loss)
        self.grid = grid
        self.alpha = beta_parameter(alpha)
        self.patch_loss = patch_loss
        self.features = patch_loss > 0
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        cells = self.draw_cells(ctx, len(x), self.grid or cells_per_side(max(height, width)))
        # the cell of each pixel row and column
        rows, columns = (np.arange(side) * cells.shape[1] // side for side in (height, width))
        share = cells[:, rows].mean(1)[:, columns].mean(1)

        own = (
            upload(cells, x, torch.float32)
            .index_select(2, upload(columns, x))
            .index_select(1, upload(rows, x))[:, None]
        )
        partner = upload(pair(ctx, len(x), self.pairing), x)
        weights = pair_weights(upload(share, x, torch.float32), partner)
        return Mixed(blend(x, partner, own), weights, own, partner, state=upload(cells, x) if self.patch_loss else None)

    def draw_cells(self, ctx: Context, batch: int, side: int) -> np.ndarray:
        """(B, N, N) bool, true where the own image shows."""

        def sample(rng: np.random.Generator) -> np.ndarray:
            lam = np.asarray(
                ctx.draw(
                    "lam", lambda rng: rng.beta(self.alpha, self.alpha, batch) if self.alpha > 0 else np.ones(batch)
                )
            )
            partners = np.round((1 - lam) * side**2)
            # a row of argsort is a uniform permutation
            return rng.random((batch, side**2)).argsort(1) >= partners[:, None]

        return np.asarray(ctx.draw("cells", sample), dtype=bool).reshape(batch, side, side)

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        loss = super().loss(ctx, x, y, mixed, out, net)
        if not self.patch_loss:
            return loss
        own = mixed.state  # (B, N, N)
        target = ctx.target(y)
        # (B, N^2, K)
        sources = torch.where(own.flatten(1)[:, :, None], target[:, None], target[mixed.partner][:, None])
        assert out.features is not None  # asked for
        logits = cell_logits(net.model, out.features, x.shape[-2:], own.shape[1])
        return loss + self.patch_loss * ctx.criterion(logits, sources.flatten(0, 1))


def cells_per_side(pixels: int) -> int:
    """N by the size of the image: cells of at most 8 pixels up to 64, of 32 pixels at 224."""
    return 4 if pixels <= 32 else 8 if pixels <= 64 else 7


def cell_logits(model: Any, features: Tensor, size: Sequence[int], side: int) -> Tensor:
    """(B N^2, K) logits of every cell: the features before the head, averaged over the cell, through the head as if
    they were an image.

    Args:
        model: The timm model.
        features: What it gives before the head.
        size: H and W of the images.
        side: N, cells per side.
    """
    prefix = getattr(model, "num_prefix_tokens", 0)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    if features.ndim == 3:
        tokens = features[:, prefix:]
        features_map = tokens.transpose(1, 2).unflatten(2, token_grid(model, size, tokens.shape[1]))
    else:
        features_map = features.permute(0, 3, 1, 2) if channels_last else features
    cells = F.adaptive_avg_pool2d(features_map, side).permute(0, 2, 3, 1).flatten(0, 2)  # (B N^2, D)
    if features.ndim == 3:  # in the places of the class token and of one patch: the head reads the one or the other
        logits = model.forward_head(cells[:, None].expand(-1, prefix + 1, -1))
        # the class head's, where a distillation head trains beside it
        return logits[0] if isinstance(logits, tuple) else logits
    return model.forward_head(cells[:, None, None] if channels_last else cells[:, :, None, None])
