"""TransMix: CutMix with labels re-weighted by class attention."""

import torch
from torch import Tensor

from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, check_pairing, pair, upload
from .parts.boxes import EDGES, align_box, draw_box, paste_box
from .parts.checks import beta_parameter, block_depth, expect, flag, is_number, one_of
from .parts.labels import MASK_DOWN, attention_weights


class TransMix(MixMethod):
    """TransMix (Chen et al., CVPR 2022, arXiv:2111.09833, equations 4 and 5).

        x~, M, lam_area as CutMix;  A = class attention of the network for x~, in the same forward pass, no gradient
        lam_attn = sum_j M_j A_j / sum_j A_j            (M at the resolution of the patches)
        lam_i = r lam_attn,i + (1 - r) lam_area,   t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    The bare method; its published training switches between it and Mixup (see Choice).

    Args:
        alpha: As CutMix.
        pairing: As CutMix.
        edge: As CutMix.
        attn_ratio: r: 0.5 as the code; 1 the formula; 0 CutMix's labels.
        normalize_attn: False: A as it is, so that the partner's share holds the attention on the class token too.
        mask_down: "nearest" or "area".
        attn_depth: Block that A is taken from (1 is the first; None: the last), or "rollout".
        rollout_residual: The rollout with the residual of each block.
        aligned: Move the box to patch borders, preset "aligned" (row A of MixPro's table 8).

    Draws: lam, centre, box, partner.

    Differs from the paper / the official code in nothing by default: the mean of both labels and the division by sum A
    follow the code and the text, the preset "paper" follows the formula. With "rollout", whose residual the paper does
    not mention, it is as in the cited work.
    """

    family = "attention"
    needs = "class attention"
    bibtex = """
    @inproceedings{chen2022transmix,
      title = {{TransMix}: Attend to Mix for Vision Transformers},
      author = {Chen, Jie-Neng and Sun, Shuyang and He, Ju and Torr, Philip and Yuille, Alan and Bai, Song},
      booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
      year = {2022},
      eprint = {2111.09833},
      archivePrefix = {arXiv}
    }
    """
    counts_with = {"rollout_residual": ("attn_depth", ["rollout"])}
    PRESETS = {
        "default": {},
        "aligned": {"aligned": True},
        "paper": {"attn_ratio": 1.0, "normalize_attn": False},
        "released": {},
    }

    def __init__(
        self,
        alpha: float = 1.0,
        pairing: str = "flip",
        edge: str = "old",
        attn_ratio: float = 0.5,
        normalize_attn: bool = True,
        mask_down: str = "nearest",
        attn_depth: int | str | None = None,
        rollout_residual: bool = True,
        aligned: bool = False,
    ):
        super().__init__()
        expect(is_number(attn_ratio) and 0 <= attn_ratio <= 1, "attn_ratio", "a number from 0 to 1", attn_ratio)
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.edge = one_of("edge", edge, EDGES)
        self.attn_ratio = attn_ratio
        self.normalize_attn = flag("normalize_attn", normalize_attn)
        self.mask_down = one_of("mask_down", mask_down, MASK_DOWN)
        self.attention = block_depth(attn_depth)
        self.rollout_residual = flag("rollout_residual", rollout_residual)
        self.aligned = flag("aligned", aligned)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        box = draw_box(ctx, height, width, self.alpha, self.edge)
        if self.aligned:
            assert net.patch_size is not None  # it has class attention
            box = align_box(box, net.patch_size, height, width)
        return paste_box(x, upload(pair(ctx, len(x), self.pairing), x), box)

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        shares = attention_weights(mixed, out, self.mask_down, self.normalize_attn, self.rollout_residual)
        return torch.lerp(mixed.weights, shares, self.attn_ratio)
