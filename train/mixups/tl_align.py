"""TL-Align: CutMix of patches, and labels that follow the patches' content through the attention of all blocks."""

from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.boxes import draw_box, paste_box
from .parts.checks import beta_parameter


class TLAlign(MixMethod):
    """TL-Align (Xiao et al., ICCV 2023, arXiv:2210.06455): token-label alignment.

        x~, M as CutMix on the h x w grid of patches:  lam0 ~ Beta(alpha, alpha), box of whole patches from x_pi(i),
        lam = mean(M)
        l_0 = lam s(y_i) + (1 - lam) s(y_pi(i)) at the class token,   s(y_i) at the patches of x_i,
        s(y_pi(i)) at those of x_pi(i)
        l_b = (l_(b-1) + A_b l_(b-1)) / 2,   A_b = attention matrix of block b for x~, mean over heads, no gradient
        t_i = l at the class token after the last block

    All l lie between the two labels, so one number per token is carried: the share w of s(y_i). Only for plain ViTs, in
    which the class token and the patches attend to each other in every block.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: As CutMix.

    Draws: lam, centre (row, column of the patch grid), box (of patches, replaces both), partner.

    Differs from the paper / the official code in distilled models, whose distillation token starts with the class
    token's label; pyramid transformers are refused.
    """

    family = "attention"
    needs = "attention of all blocks"
    attention = "rollout"
    bibtex = """
    @inproceedings{xiao2023tlalign,
      title = {Token-Label Alignment for Vision Transformers},
      author = {Xiao, Han and Zheng, Wenzhao and Zhu, Zheng and Zhou, Jie and Lu, Jiwen},
      booktitle = {IEEE/CVF International Conference on Computer Vision},
      year = {2023},
      eprint = {2210.06455},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {"default": {}}

    def __init__(self, alpha: float = 1.0, pairing: str = "flip"):
        super().__init__()
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        patch = net.patch_size
        if patch is None or height % patch or width % patch:
            has = (
                "has no patches"
                if patch is None
                else f"has patches of {patch} pixels, which do not divide images of {height}x{width}"
            )
            raise EvalkitError(f"tl_align pastes whole patches, but this model {has}")
        y0, y1, x0, x1 = draw_box(ctx, height // patch, width // patch, self.alpha)
        return paste_box(
            x, upload(pair(ctx, len(x), self.pairing), x), (y0 * patch, y1 * patch, x0 * patch, x1 * patch)
        )

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        assert mixed.mask is not None and mixed.partner is not None and out.rollout is not None  # as `mix` asked
        own = F.interpolate(mixed.mask, out.grid).flatten(1)  # (1, N)
        share = out.rollout(own[:, :, None], own.mean(1, keepdim=True))
        return pair_weights(share[:, 0], mixed.partner)
