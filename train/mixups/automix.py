"""AutoMix: a mix block learns, from a momentum encoder's loss, which pixels to take from which image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.models.network import Network, Output

from ..losses import mixed_target
from .base import Context, Mixed, beta, laid_out_like, pair, pair_weights, upload
from .choice import Choice
from .cutmix import CutMix
from .mixup import Mixup
from .parts.checks import expect, flag, is_number, one_of
from .parts.learned import SCHEDULES, LearnedMix, falling_weight
from .parts.masks import blend
from .parts.mixblock import MixBlock


@dataclass(frozen=True, slots=True)
class Pending:
    """What the losses need of the time of mixing.

    Args:
        z: (B, C, h, w) the momentum encoder's features of the images.
        lam: The mix block's own lambda, partners and dropout mask.
        partner: Its partners, (B,) int64.
        keep: Its dropout mask, if it has one.
        train_block: Whether this step trains the mix block.
        one: What the head for clean images sees, if not the images.
    """

    z: Tensor
    lam: float
    partner: Tensor
    keep: Tensor | None
    train_block: bool
    one: Mixed | None


class MaskedMix(LearnedMix):
    """The losses of AutoMix for any mix block of two images.

    Args:
        mask_loss_weight: gamma, the weight of L_lam.
        mask_loss_schedule: How gamma falls to 0: "cosine", "compounding" (as the code: each step multiplies what the
            last one left by the cosine's factor, and hardly anything is left after a twentieth of the training) or
            "constant" (not at all).
        mask_margin: How far a mask's mean may be from lambda without a penalty.
        mask_adjust: Probability of scaling L_q's masks to a mean of lambda.
        adjust_to_k: Whether `mask_adjust` scales to a mean of lambda' instead, as the code.
        head_one_mix: h_q is trained on Mixup and CutMix images.
    """

    extra_passes = "2 forward of a copy, 1 backward through it, 1 forward + backward"

    def __init__(
        self,
        mask_loss_weight: float = 0.1,
        mask_loss_schedule: str = "cosine",
        mask_margin: float = 0.1,
        mask_adjust: float = 0.0,
        adjust_to_k: bool = False,
        head_one_mix: bool = False,
        **shared: Any,
    ):
        super().__init__(**shared)
        for name, value in (("mask_loss_weight", mask_loss_weight), ("mask_margin", mask_margin)):
            expect(is_number(value) and value >= 0, name, "a number of at least 0", value)
        expect(is_number(mask_adjust) and 0 <= mask_adjust <= 1, "mask_adjust", "a number from 0 to 1", mask_adjust)
        self.mask_loss_weight, self.mask_margin = mask_loss_weight, mask_margin
        self.mask_loss_schedule = one_of("mask_loss_schedule", mask_loss_schedule, SCHEDULES)
        self.mask_adjust, self.adjust_to_k = mask_adjust, flag("adjust_to_k", adjust_to_k)
        self.one = Choice([Mixup(0.8), CutMix(1.0)]) if flag("head_one_mix", head_one_mix) else None

    def draw_keep(self, ctx: Context, z: Tensor, name: str) -> Tensor | None:
        """The mix block's dropout mask; none here."""
        return None

    def own_share(self, z: Tensor, partner: Tensor, lam: float, keep: Tensor | None, size: Sequence[int]) -> Tensor:
        """(B, 1, H, W) share of the own image in each pixel, float32."""
        with torch.autocast(z.device.type, enabled=False):
            logits = self.block(z, z[partner], lam, *([] if keep is None else [keep]))
            return 1 - F.interpolate(logits, size=tuple(size), mode=self.upsample).sigmoid()

    def mask_penalty(self, own: Tensor, lam: float) -> Tensor:
        """L_lam / gamma of masks (B, 1, H, W): how far the mean over all of them is from lambda, beyond the margin."""
        return F.relu((own.mean() - lam).abs() - self.mask_margin)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        lam_k, lam = beta(ctx, self.alpha, "lam_k"), beta(ctx, self.alpha)
        partner_k = upload(pair(ctx, len(x), self.pairing, "partner_k"), x)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        adjust = ctx.draw("adjust", lambda rng: rng.random() < self.mask_adjust)
        train_block = self.trains_block(ctx)
        one = None
        if self.one is not None:
            inner = replace(ctx, draws=(ctx.draws or {}).get("one", {}))
            one = self.one.pick(inner).mix(inner, x, y, net)

        z, _ = self.encoder.look(x)
        keep_k, keep = self.draw_keep(ctx, z, "keep_k"), self.draw_keep(ctx, z, "keep")
        if self.plain(lam):
            own = torch.full((1, 1, *x.shape[-2:]), lam, device=x.device)
        else:
            with torch.no_grad():
                own = self.own_share(z, partner, lam, keep, x.shape[-2:])
                if adjust:
                    own = scaled_to(own, lam_k if self.adjust_to_k else lam)
        share = torch.full((len(x),), lam, device=x.device)
        state = Pending(z, lam_k, partner_k, keep_k, train_block, one)
        return Mixed(laid_out_like(x, blend(x, partner, own)), pair_weights(share, partner), own, partner, state=state)

    def losses(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> dict[str, Tensor]:
        target, state = ctx.target(y), mixed.state
        seen, seen_target = (x, target) if state.one is None else (state.one.x, mixed_target(state.one.weights, target))
        terms = {
            "one": ctx.criterion(net(seen).logits, seen_target),
            "q": ctx.criterion(self.encoder.classify_q(net, out), mixed_target(mixed.weights, target)),
        }
        own = self.own_share(state.z, state.partner, state.lam, state.keep, x.shape[-2:])
        if state.train_block:
            weights = pair_weights(torch.full((len(x),), state.lam, device=x.device), state.partner)
            logits = self.encoder.classify(x[state.partner].lerp(x, own.to(x.dtype)))
            terms["k"] = ctx.criterion(logits, mixed_target(weights, target))
        terms["lam"] = falling_weight(ctx, self.mask_loss_weight, self.mask_loss_schedule) * self.mask_penalty(
            own, state.lam
        )
        return terms


class AutoMix(MaskedMix):
    """AutoMix (Liu et al., ECCV 2022, arXiv:2103.13027, section 3 and algorithm 1).

        z = k's features of x in the middle;   m = sigmoid(up(phi(z, z_pi, lam))), the partner's share;
        x~(lam, pi) = (1 - m) x + m x_pi
        L_one = L(h_q(q(x)), s(y)),   L_q = L(H_q(q(x~)), t), phi not trained,   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))
        L_k = L(H_k(k(x~')), t') with lambda' and pi' of its own,
        L_lam = gamma max(|1 - mean(m') - lam'| - mask_margin, 0)
        q, its heads and phi follow the gradient of L_one + L_q + L_k + L_lam;   k <- m k + (1 - m) q, heads included.
        k with h_k is evaluated

    H is a second head for mixed images. L_one and L_q train q, L_k and L_lam train only the mix block phi. Draws: lam,
    partner; lam_k, partner_k of L_k; adjust, train_block (bools); one (a dict: the draws of `head_one_mix`).

    Args:
        lam_embed: Whether lambda is a channel of z.
        upsample: How masks are brought to the size of images: "nearest" or "bilinear".

    The other arguments are those of every learned mix block of two images.

    Differs from the paper / the official code in the schedule of gamma (`mask_loss_schedule`), in the scaling of masks,
    there to the wrong lambda, in phi's batch norm, whose statistics are always the batch's, and where features
    overflow: the code replaces a mask that is not a number, here the loss shows it and the run stops. The code shows q
    the clean images before the mixed ones and updates its batch-norm statistics by both; here the mixed ones come first
    and the clean ones' statistics count, for `k_eval_mode` and where q itself is evaluated.
    """

    bibtex = """
    @inproceedings{liu2022automix,
      title = {{AutoMix}: Unveiling the Power of Mixup for Stronger Classifiers},
      author = {Liu, Zicheng and Li, Siyuan and Wu, Di and Liu, Zihan and Chen, Zhiyuan and Wu, Lirong and Li,
        Stan Z.},
      booktitle = {European Conference on Computer Vision},
      year = {2022},
      eprint = {2103.13027},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "cifar": {"lam_embed": False, "mask_loss_schedule": "constant", "momentum_end": 0.999999},
        "cifar_vit": {"switch_off": 1.0, "momentum_end": 0.99996, "momentum_start": 0.25},
        "convnext": {"switch_off": 0.8, "momentum_end": 0.99996, "momentum_start": 0.25},
        "vit": {"switch_off": 0.8, "momentum_start": 0.25},
    }

    def __init__(self, lam_embed: bool = True, upsample: str = "nearest", **shared: Any):
        super().__init__(upsample=upsample, **shared)
        self.lam_embed = flag("lam_embed", lam_embed)

    def make_block(self, channels: int) -> nn.Module:
        return MixBlock(channels, self.lam_embed, self.norm)


def scaled_to(own: Tensor, lam: float) -> Tensor:
    """Masks (B, 1, H, W) whose means are lambda: each scaled down, or its complement scaled down.

    Args:
        own: Masks (B, 1, H, W) in [0, 1].
        lam: The mean that each is to have.
    """
    own = own.clamp(1e-8, 1 - 1e-8)
    mean = own.mean((1, 2, 3), keepdim=True)
    return torch.where(mean > lam, own * (lam / mean), 1 - (1 - own) * ((1 - lam) / (1 - mean)))
