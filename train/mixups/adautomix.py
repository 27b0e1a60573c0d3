"""AdAutoMix: the generator of masks plays against the classifier, and mixes two images or more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.models.network import Network, Output

from ..losses import mixed_target
from .base import Context, Mixed, beta, laid_out_like, pair, upload
from .parts.checks import expect, flag, is_number, is_whole
from .parts.learned import LearnedMix
from .parts.mixblock import attend, projection, start_small, with_lambda

PLAIN_SHARE = 0.5  # of blends in the loss of clean images, for three images and more


class GeneratorBlock(nn.Module):
    """Logits (B, n, h, w) of n images' shares from their features, n maps (B, C, h, w) (AdAutoMix, section 3.2).

    logits_i = softmax(q_i^T sum_(j != i) k_j / sqrt(C/2)) v_i, with lambda_i as a further channel if `lam_embed`; v is
    a 1x1 convolution, q and k are ones with a ReLU after them, as the code has it.

    Args:
        channels: C of the features.
        lam_embed: Whether lambda_i is one more channel of the features.
        norm: What follows the 1x1 convolutions: "none", "bn" or "ln".
    """

    def __init__(self, channels: int, lam_embed: bool = True, norm: str = "none"):
        super().__init__()
        self.lam_embed = lam_embed
        inputs, hidden = channels + lam_embed, max(channels // 2, 1)
        self.query, self.key = (projection(inputs, hidden, norm).append(nn.ReLU()) for _ in range(2))
        self.value = nn.Conv2d(inputs, 1, 1)
        start_small(self)

    def forward(self, maps: Sequence[Tensor], lams: Sequence[float]) -> Tensor:
        if self.lam_embed:
            maps = [with_lambda(z, lam) for z, lam in zip(maps, lams)]
        keys = [self.key(z) for z in maps]
        all_keys = sum(keys)
        return torch.cat([attend(self.query(z), all_keys - key, self.value(z)) for z, key in zip(maps, keys)], 1)


@dataclass(frozen=True, slots=True)
class Pending:
    """What the losses need of the time of mixing.

    Args:
        z: (B, C, h, w) the momentum encoder's features of the images.
        logits: (B, K) its mixup head's of the images, where the step is adversarial.
        sources: (B, n) images of each mixed sample of the generator's own loss, and their shares.
        lams: The n shares of the generator's own mix.
        train_block: Whether this step trains the generator.
        plain: The blend that the loss of clean images takes in, for n > 2.
    """

    z: Tensor
    logits: Tensor | None
    sources: Tensor
    lams: list[float]
    train_block: bool
    plain: Tensor | None


class AdAutoMix(LearnedMix):
    """AdAutoMix (Qin, Jin et al., ICLR 2024, arXiv:2312.11954, section 3): an adversarial mix block phi for n images.

        z = k's features of x in the middle;   x~ = sum_j m_j x_pi_j,
        (m_1 .. m_n) = softmax over images of up(phi(z_pi_1 .. z_pi_n, lam_1 .. lam_n))
        n = 2: pi_1 the identity, lam_1 = lam ~ Beta(alpha, alpha), lam_2 = 1 - lam
        n > 2: n permutations, lam_j ~ Beta(alpha, alpha), divided by their sum
        L_one = L(h_q(q(x)), s(y));   n > 2: half of it and half L(H_q(q(sum_j lam_j x_pi_j)), t)
        L_q = L(H_q(q(x~)), t),   t = sum_j lam_j s(y_pi_j)
        L_k = L(H_k(k(x~')), t'), with permutations of its own
        S = mean sum_j lam_j cos(H_k(k(x~')), H_k(k(x_pi_j)))
        q and its heads follow the gradient of L_one + L_q
        phi follows that of L_k, and every `adv_interval` steps of -beta L_k + cos_sign (1 - beta) S
        k <- m k + (1 - m) q, heads included;   k with h_k is evaluated

    x~ of L_q is a blend without masks where lam_1 <= `lam_margin` or 1 - lam_1 < `lam_margin`. Presets: the code's
    configurations, "released" for ResNets on CIFAR-100; "openmixup" its port.
    Draws: lam, partner and lam_k, partner_k, n > 2: lam (n,) and partner, partner_k (n, B); train_block (bool).

    Args:
        images: n, the number of images that are mixed into one.
        alpha: Parameter of Beta(alpha, alpha), which lambdas are drawn from.
        beta: The weight of L_k in the adversarial steps; 1 - beta is that of S.
        adv_interval: One step in so many is adversarial.
        cos_sign: 1 (the code: similarity to the originals is lowered) or -1 (raised, as the aim of keeping their
            meaning asks).
        port_margin: With n > 2, blend where 1 - lam_1 > `lam_margin`, which nearly always holds.
        lam_embed: Whether lambda is a channel of z.
        lam_margin: How near to 0 or 1 lam_1 must be for a blend without masks, as above.

    The other arguments are those of every learned mix block; `pairing` is for n = 2.

    Differs from the paper / the official code in taking the originals' k logits from the pass that gives z, not from
    passes of their own, which also moves k's batch-norm statistics less; where features overflow, as AutoMix; and in
    the order of q's passes, of which the last one's batch-norm statistics count: the clean images', with n > 2 those of
    the blend without masks. The sign of S is the code's.
    """

    extra_passes = "2 forward of a copy, 1 backward through it, 1 forward + backward (3 images: 2)"
    bibtex = """
    @inproceedings{qin2024adautomix,
      title = {Adversarial {AutoMixup}},
      author = {Qin, Huafeng and Jin, Xin and Jiang, Yun and El-Yacoubi, Mounim A. and Gao, Xinbo},
      booktitle = {International Conference on Learning Representations},
      year = {2024},
      eprint = {2312.11954},
      archivePrefix = {arXiv}
    }
    """
    counts_with = {"pairing": ("images", [2])}
    PRESETS = {
        "default": {},
        "cifar": {"images": 3, "beta": 0.3, "lam_embed": False, "momentum_end": 0.999999},
        "cifar_vit": {
            **{"images": 3, "beta": 0.3, "upsample": "nearest", "switch_off": 0.8},
            **{"momentum_end": 0.99996, "momentum_start": 0.25},
        },
        "imagenet_r50": {"norm": "bn"},
        "openmixup": {"images": 3, "beta": 0.3, "lam_embed": False, "momentum_end": 0.999999, "port_margin": True},
        "released": {"images": 3, "beta": 0.3, "lam_embed": False, "momentum_end": 0.999999},
    }

    def __init__(
        self,
        images: int = 2,
        alpha: float = 1.0,
        beta: float = 0.1,
        adv_interval: int = 2,
        cos_sign: int = 1,
        port_margin: bool = False,
        lam_embed: bool = True,
        lam_margin: float = 0.03,
        **shared: Any,
    ):
        super().__init__(alpha=alpha, lam_margin=lam_margin, **shared)
        expect(is_whole(images) and images >= 2, "images", "a whole number of at least 2", images)
        expect(alpha > 0, "alpha", "a number larger than 0", alpha)
        expect(is_number(beta) and 0 <= beta <= 1, "beta", "a number from 0 to 1", beta)
        expect(
            is_whole(adv_interval) and adv_interval >= 1, "adv_interval", "a whole number of at least 1", adv_interval
        )
        expect(is_whole(cos_sign) and cos_sign in (-1, 1), "cos_sign", "1 or -1", cos_sign)
        self.images, self.beta, self.adv_interval, self.cos_sign = images, beta, adv_interval, cos_sign
        self.port_margin = flag("port_margin", port_margin)
        self.lam_embed = flag("lam_embed", lam_embed)

    @property
    def training_passes(self) -> int:  # type: ignore[override]  # computed
        return 3 if self.images > 2 else 2

    def make_block(self, channels: int) -> nn.Module:
        return GeneratorBlock(channels, self.lam_embed, self.norm)

    def shares(self, z: Tensor, sources: Tensor, lams: Sequence[float], size: Sequence[int]) -> Tensor:
        """(B, n, H, W) share of each source in each pixel, float32."""
        with torch.autocast(z.device.type, enabled=False):
            logits = self.block([z[s] for s in sources.unbind(1)], lams)
            return F.interpolate(logits, size=tuple(size), mode=self.upsample).softmax(1)

    def draw(self, ctx: Context, batch: int) -> tuple[list[float], list[float], np.ndarray, np.ndarray]:
        """The shares of L_q's sources and of L_k's, and the sources themselves, (B, n) each."""
        if self.images == 2:
            pairs = [
                (beta(ctx, self.alpha, f"lam{of}"), pair(ctx, batch, self.pairing, f"partner{of}")) for of in ("_k", "")
            ]
            (lams_k, sources_k), (lams, sources) = (
                ([lam, 1 - lam], np.stack([np.arange(batch), partner], 1)) for lam, partner in pairs
            )
            return lams, lams_k, sources, sources_k
        lam = np.asarray(ctx.draw("lam", lambda rng: rng.beta(self.alpha, self.alpha, self.images)), dtype=np.float64)
        lams = (lam / lam.sum()).tolist()
        both = (
            ctx.draw(name, lambda rng: np.stack([rng.permutation(batch) for _ in lams]))
            for name in ("partner_k", "partner")
        )
        sources_k, sources = (np.asarray(rows, dtype=np.int64).T for rows in both)
        return lams, lams, sources, sources_k

    def blends(self, lams: Sequence[float]) -> bool:
        """Whether the network is trained on a blend without masks."""
        if self.images == 2:
            return self.plain(lams[0])
        rest = 1 - lams[0]
        return lams[0] <= self.lam_margin or (rest > self.lam_margin if self.port_margin else rest < self.lam_margin)

    def adversarial(self, ctx: Context) -> bool:
        return ctx.step % self.adv_interval == 0

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        lams, lams_k, *both = self.draw(ctx, len(x))
        sources, sources_k = (upload(np.ascontiguousarray(s), x) for s in both)
        train_block = self.trains_block(ctx)
        z, logits = self.encoder.look(x, classify=train_block and self.adversarial(ctx))
        constant = torch.stack([torch.full((1, 1, 1), lam, device=x.device) for lam in lams], 1).expand(
            1, -1, *x.shape[-2:]
        )
        if self.blends(lams):
            masks = constant
        else:
            with torch.no_grad():
                masks = self.shares(z, sources, lams, x.shape[-2:])
        plain = laid_out_like(x, combine(x, sources, constant)) if self.images > 2 else None
        own, partner = (masks[:, :1], sources[:, 1]) if self.images == 2 else (None, None)
        state = Pending(z, logits, sources_k, lams_k, train_block, plain)
        return Mixed(
            laid_out_like(x, combine(x, sources, masks)), label_weights(sources, lams), own, partner, state=state
        )

    def losses(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> dict[str, Tensor]:
        target, state = ctx.target(y), mixed.state
        mixed_labels = mixed_target(mixed.weights, target)
        terms = {
            "one": ctx.criterion(net(x).logits, target),
            "q": ctx.criterion(self.encoder.classify_q(net, out), mixed_labels),
        }
        if state.plain is not None:
            terms["one"] = (1 - PLAIN_SHARE) * terms["one"]
            logits = self.encoder.classify_q(net, net(state.plain, features=True))
            terms["plain"] = PLAIN_SHARE * ctx.criterion(logits, mixed_labels)
        # the block keeps its place in the graph: with several processes, all parameters must take part
        if not state.train_block:
            return terms | {"k": 0.0 * torch.stack([p.sum() for p in self.block.parameters()]).sum()}
        masks = self.shares(state.z, state.sources, state.lams, x.shape[-2:])
        logits = self.encoder.classify(combine(x, state.sources, masks))
        loss_k = ctx.criterion(logits, mixed_target(label_weights(state.sources, state.lams), target))
        if not self.adversarial(ctx):
            return terms | {"k": loss_k}
        similarity = sum(
            lam * F.cosine_similarity(logits.float(), state.logits[s].float())
            for lam, s in zip(state.lams, state.sources.unbind(1))
        ).mean()
        return terms | {"k": -self.beta * loss_k, "similarity": self.cos_sign * (1 - self.beta) * similarity}


def combine(x: Tensor, sources: Tensor, masks: Tensor) -> Tensor:
    """sum_j m_j x_(source j); exact where all sources are the same image.

    Args:
        x: Images (B, C, H, W).
        sources: Which n images make each mixed one, (B, n) int64.
        masks: Their shares in each pixel, (B or 1, n, H, W), which sum to 1.
    """
    first, *others = (x[s] for s in sources.unbind(1))
    masks = masks.to(x.dtype)
    return first + sum(masks[:, j : j + 1] * (other - first) for j, other in enumerate(others, 1))


def label_weights(sources: Tensor, lams: Sequence[float]) -> Tensor:
    """(B, B) float32 label weights: row i holds lam_j at its sources, added up where they are the same image.

    Args:
        sources: Which n images make each mixed one, (B, n) int64.
        lams: Their n shares, which sum to 1.
    """
    shares = torch.stack([torch.full((len(sources),), lam, device=sources.device) for lam in lams], 1)
    return torch.zeros(len(sources), len(sources), device=sources.device).scatter_add(1, sources, shares)
