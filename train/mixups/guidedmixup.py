"""GuidedMixup: blend each pixel by the saliency of both images, paired so that their salient regions differ."""

import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, pair_weights
from .parts.checks import flag, one_of
from .parts.saliency import SaliencyMethod, blur, spectral_residual


class GuidedMixup(SaliencyMethod):
    """GuidedMixup (Kang & Kim, AAAI 2023, arXiv:2306.16612).

        s_i = blurred saliency (7 x 7, sigma 3) with sum 1;   D_ij = ||s_i - s_j||
        pi: from the largest D_ij on, i -> j and then from j to the farthest image not yet taken, at last back to the
            first: one cycle
        M_i = s_i / (s_i + s_pi(i));   x~_i = M_i x_i + (1 - M_i) x_pi(i),   lam_i = mean(M_i),
        t_i = lam_i s(y_i) + (1 - lam_i) s(y_pi(i))

    Args:
        saliency: "ap": input gradient; "sr": spectral residual, which needs no pass through the network.
        clean_lam: With "ap", weight of the loss of the clean batch.
        saliency_training: Take the input gradient in training mode even without that loss, as the code does (preset
            "released").

    Draws: none.

    Differs from the paper / the official code in applying to every batch: a smaller probability is a choice with
    vanilla; in the pairing, which is the paper's: the code for CIFAR and Tiny-ImageNet asks for "greedy_c", a name its
    pairing does not know, and so pairs at random; in evaluation mode for the saliency (see `saliency_training`); in one
    more forward pass if clean_lam > 0; and in the losses, as Co-Mixup.
    """

    bibtex = """
    @inproceedings{kang2023guidedmixup,
      title = {{GuidedMixup}: An Efficient Mixup Strategy Guided by Saliency Maps},
      author = {Kang, Minsoo and Kim, Suhyun},
      booktitle = {AAAI Conference on Artificial Intelligence},
      year = {2023},
      eprint = {2306.16612},
      archivePrefix = {arXiv}
    }
    """
    exempt = {"draws": "the images decide"}
    counts_with = dict.fromkeys(("clean_lam", "saliency_training"), ("saliency", ["ap"]))
    PRESETS = {
        "default": {},
        "released": {"saliency_training": True},
        "sr": {"saliency": "sr"},
    }

    def __init__(self, saliency: str = "ap", clean_lam: float = 0.0, saliency_training: bool = False):
        super().__init__(clean_lam, flag("saliency_training", saliency_training))
        self.saliency = one_of("saliency", saliency, ("ap", "sr"))
        self.own_passes = "whole" if saliency == "ap" else "none"

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        s = blur(self.input_saliency(net, x, y).float() if self.saliency == "ap" else spectral_residual(x)) + 1e-20
        s = s / s.sum((1, 2), keepdim=True)
        flat = s.flatten(1).double()
        partner = farthest_cycle(torch.cdist(flat, flat))
        mask = (s / (s + s[partner]))[:, None]
        return Mixed(
            torch.lerp(x[partner], x, mask.to(x.dtype)), pair_weights(mask.mean((1, 2, 3)), partner), mask, partner
        )


def farthest_cycle(distance: Tensor) -> Tensor:
    """(B,) int64 partners in one cycle through all: greedily from the largest distance (B, B) on."""
    batch = len(distance)
    distance = distance - torch.diag(distance.new_full((batch,), torch.inf))
    partner = torch.zeros(batch, dtype=torch.int64, device=distance.device)
    largest = distance.flatten().argmax(0, keepdim=True)
    first = row = largest // batch
    column = largest % batch
    for _ in range(batch - 2):
        partner.index_copy_(0, row, column)
        distance.index_fill_(1, row, -torch.inf)
        row = column
        column = distance.index_select(0, row).argmax(1)
    partner.index_copy_(0, row, column)
    return partner.index_copy_(0, column, first)
