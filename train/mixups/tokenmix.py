"""TokenMix: mix blocks of tokens, with label shares from a teacher's maps of the two clean images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from ..losses import soft_target
from .base import Context, Mixed, MixMethod, check_pairing, pair, upload
from .parts.cam import check_linear_classifier, class_activation
from .parts.checks import expect, flag, is_number, is_whole, one_of
from .parts.masks import token_block_mask, token_count
from .parts.offline_maps import OfflineMaps
from .parts.saliency import evaluating
from .parts.teacher import Teacher

TEACHERS = ("cam", "attn", "self", "area", "offline")
MASKS = ("block", "random")
MAPS = "maps"


class TokenMix(MixMethod):
    """TokenMix (Liu et al., ECCV 2022, arXiv:2207.08409).

        M = 0 in blocks of int((1 - lam) N) + m tokens of the grid of N, else 1, one mask per batch;
        x~_i = M x_i + (1 - M) x_pi(i)
        a_i = a teacher's score map of the clean image x_i and its label, normalised to sum 1;   s_A = sum M a_i,
        s_B = sum (1 - M) a_pi(i)
        t_i = [s_A - e/2] onehot(y_i) + [s_B - e/2] onehot(y_pi(i)) + e/K for label smoothing e, of mass s_A + s_B,
            which need not be 1

    The published training has binary cross-entropy and is a choice of half and half with Mixup, alpha 0.8.

    Args:
        teacher: "cam": class activation map, above 0, of the frozen `network`; "attn": its class attention; "self":
            the trained network's own class attention, or class activation map where it has none; "area": shares of the
            tokens; "offline": maps from a folder. An image without any score gets the share of its tokens.
        network: The teacher: a timm name, a checkpoint or a weights file.
        network_model: The architecture of a weights file.
        maps: The folder of maps, see OfflineMaps.
        mask: Which tokens are the partner's: "block", whole blocks, or "random", single ones.
        lam_const: lam; None: from Beta(1, 1).
        min_tokens: m, tokens that the partner gets besides; None: 14 for each 196 of the grid.
        cell: Side of a token in pixels; None: a patch.
        clamp: No target below 0, which s < e/2 gives.
        pairing: As CutMix.

    Draws: lam (if it is drawn), tokens ((rows, columns), 1 = own image), partner.

    Differs from the paper / the official code in the default teacher, a class activation map instead of maps made
    beforehand, and in `clamp`; the preset "released" sets both as there.
    """

    family = "attention"
    needs = "a teacher of the same classes"
    extra_passes = "1 forward of the teacher"
    bibtex = """
    @inproceedings{liu2022tokenmix,
      title = {{TokenMix}: Rethinking Image Mixing for Data Augmentation in Vision Transformers},
      author = {Liu, Jihao and Liu, Boxiao and Zhou, Hang and Li, Hongsheng and Liu, Yu},
      booktitle = {European Conference on Computer Vision},
      year = {2022},
      eprint = {2207.08409},
      archivePrefix = {arXiv}
    }
    """
    stand_in = {"teacher": "self"}
    small = {"cell": 4}
    row_sum = None  # the shares of two maps
    exempt = {"renaming": "weighed by the teacher"}
    counts_with = {
        **dict.fromkeys(("network", "network_model"), ("teacher", ["cam", "attn"])),
        "maps": ("teacher", ["offline"]),
    }
    PRESETS = {
        "default": {},
        "released": {"teacher": "offline", "clamp": False},
    }

    def __init__(
        self,
        teacher: str = "cam",
        network: Any = "resnet50",
        network_model: str | None = None,
        maps: str | None = None,
        mask: str = "block",
        lam_const: float | None = 0.5,
        min_tokens: int | None = None,
        cell: int | None = None,
        clamp: bool = True,
        pairing: str = "flip",
    ):
        super().__init__()
        expect(
            lam_const is None or (is_number(lam_const) and 0 <= lam_const <= 1),
            "lam_const",
            "a number from 0 to 1, or none",
            lam_const,
        )
        expect(
            min_tokens is None or (is_whole(min_tokens) and min_tokens >= 0),
            "min_tokens",
            "a whole number of at least 0, or none",
            min_tokens,
        )
        expect(
            cell is None or (is_whole(cell) and cell > 0),
            "cell",
            "a whole number of pixels larger than 0, or none",
            cell,
        )
        self.kind = one_of("teacher", teacher, TEACHERS)
        self.own_passes = "whole" if teacher == "self" else "none"
        self.teacher = Teacher(network, network_model) if teacher in ("cam", "attn") else None
        self.maps = maps
        self.mask = one_of("mask", mask, MASKS)
        self.lam_const, self.min_tokens, self.cell = lam_const, min_tokens, cell
        self.clamp = flag("clamp", clamp)
        self.pairing = check_pairing(pairing)

    def setup(self, net: Network) -> None:
        self.cell = self.cell or net.patch_size
        if self.cell is None:
            raise EvalkitError(
                "this model has no patches for the mask's tokens; give tokenmix their side in pixels, e.g. cell=16"
            )
        if self.kind == "cam" and self.teacher is not None:
            network = self.teacher.load()
            if network.num_classes != net.num_classes:
                raise EvalkitError(
                    f"tokenmix needs a teacher of the same {net.num_classes} classes, but this one has"
                    f" {network.num_classes}; give another network="
                )
            check_linear_classifier(network, "tokenmix")
        elif self.kind == "attn" and self.teacher is not None:
            self.teacher.load().prepare(attention=True)
        elif self.kind == "self" and net.patch_size:
            net.prepare(attention=True)
        elif self.kind == "self":
            check_linear_classifier(net, "tokenmix")
        elif self.kind == "offline":
            if self.maps is None or not Path(self.maps).is_dir():
                raise EvalkitError(
                    f"tokenmix teacher=offline reads maps from a folder, and {self.maps or 'none'} is not one; give"
                    " maps=DIR"
                )
            self.loader_extras = {MAPS: OfflineMaps(Path(self.maps), self.cell)}

    def check_size(self, net: Network, height: int, width: int) -> None:
        assert self.cell is not None, "setup was called"
        if min(height, width) < self.cell:
            raise EvalkitError(
                f"tokens of {self.cell} pixels are larger than the image, {height} x {width}; give tokenmix a smaller"
                " cell"
            )

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        self.check_size(net, height, width)
        assert self.cell is not None, "setup was called"
        grid = height // self.cell, width // self.cell
        tokens = upload(self.tokens(ctx, grid), x, torch.float32)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        mask = F.interpolate(tokens[None, None], size=(height, width), mode="nearest")
        other = x[partner]
        mixed = torch.where(mask > 0, x, other, out=other)

        own, pasted = shares(self.scores(ctx, x, y, net, grid), tokens)
        pasted = pasted[partner]
        weights = torch.diag(own).scatter_add(1, partner[:, None], pasted[:, None])
        return Mixed(mixed, weights, mask, partner, state=(own, pasted))

    def tokens(self, ctx: Context, grid: tuple[int, int]) -> np.ndarray:
        """(rows, columns) bool: the own image's tokens."""

        def sample(rng: np.random.Generator) -> np.ndarray:
            lam = ctx.draw("lam", lambda rng: rng.beta(1.0, 1.0)) if self.lam_const is None else self.lam_const
            count = token_count(grid, lam, self.min_tokens)
            if self.mask == "block":
                return token_block_mask(rng, grid, count)
            return (rng.permutation(grid[0] * grid[1]) >= count).reshape(grid)

        return np.asarray(ctx.draw("tokens", sample), dtype=bool)

    def scores(self, ctx: Context, x: Tensor, y: Tensor, net: Network, grid: tuple[int, int]) -> Tensor:
        """(B, rows, columns) float32 a, not normalised, from the clean images."""
        if self.teacher is not None:
            network, seen = self.teacher.on(x), self.teacher.fitted(ctx, x)
            of_label = self.kind == "cam"
            maps = class_activation(network, seen, y).clamp(min=0) if of_label else attention_map(network, seen)
        match self.kind:
            case "self":
                with evaluating(net):
                    maps = attention_map(net, x) if net.patch_size else class_activation(net, x, y).clamp(min=0)
            case "area":
                maps = torch.ones(len(x), *grid, device=x.device)
            case "offline":
                if MAPS not in ctx.extras:
                    raise EvalkitError(
                        "tokenmix needs maps from the data loader: put method.loader_extras['maps'](image, rng) into"
                        " Context.extras['maps']"
                    )
                maps = ctx.extras[MAPS].to(x.device)
        return maps if tuple(maps.shape[1:]) == grid else F.interpolate(maps[:, None], size=grid, mode="bilinear")[:, 0]

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        label = soft_target(y, out.logits.shape[1])
        smoothing = (ctx.target(y) - label) / 2  # -e/2 at the label, e/2K in every class
        rows = [
            share[:, None] * label[i] + smoothing[i]
            for share, i in zip(mixed.state, (slice(None), mixed.partner), strict=True)
        ]
        return ctx.criterion(out.logits, sum(row.clamp(min=0) if self.clamp else row for row in rows))


def attention_map(network: Network, x: Tensor) -> Tensor:
    """(B, rows, columns) class attention.

    Args:
        network: A ViT that tells its class attention.
        x: Normalised images (B, C, H, W).
    """
    attention, grid = network.class_attention(x)
    return attention.unflatten(1, grid)


def shares(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) shares of each image's scores in the own tokens, and in the others; those of the tokens without scores.

    Args:
        scores: (B, rows, columns), not negative.
        own: (rows, columns) bool: what shows the own image.
    """
    total = scores.sum((1, 2))
    scores, found = scores / (total[:, None, None] + 1e-8), total >= 1e-6

    def share(part: Tensor) -> Tensor:
        return torch.where(found, (scores * part).sum((1, 2)), part.mean())

    return share(own), share(1 - own)
