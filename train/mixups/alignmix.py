"""AlignMix: blend the last feature maps of two images after aligning them by optimal transport."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import FEATURES, Network

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect, flag, is_number, is_whole
from .parts.masks import blend


class AlignMix(MixMethod):
    """AlignMix (Venkataramanan et al., CVPR 2022, arXiv:2103.15375).

        lam ~ Beta(alpha, alpha), one per batch
        with probability input_prob: x~_i = lam x_i + (1 - lam) x_pi(i);   else:
        F, F' = feature maps of x_i and x_pi(i) before pooling, r places each;   C_jk = ||F_j - F'_k||^2;
        R = r Sinkhorn(C), no gradient
        h~_j = lam F_j + (1 - lam) sum_k R_jk F'_k   or, by a fair coin,   h~_k = lam sum_j R_jk F_j + (1 - lam) F'_k
        t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    For networks whose classifier pools a feature map; one plan for each pair.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: As CutMix.
        input_prob: How often images are mixed instead of features.
        eps: Weight of the entropy in Sinkhorn's algorithm.
        iterations: The most iterations of Sinkhorn's algorithm.
        tol: Mean change of the potentials below which Sinkhorn ends; 0: never.
        row_normalize: Make the shares R_jk of each j sum to 1, which an unfinished iteration does not.
        feat_l2norm: Take the cost between features of length 1, for which Sinkhorn does finish.

    Draws: layer (0: image, 1: features), lam, partner, direction (0: the partner is aligned, 1: the image itself).

    Differs from the paper / the official code in nothing of the code's, which leaves out the autoencoder of the paper's
    variant. OpenMixup switches with Manifold Mixup instead of the images: a choice of manifold and of this with
    input_prob 0.
    """

    family = "feature"
    needs = "a pooled feature map"
    bibtex = """
    @inproceedings{venkataramanan2022alignmixup,
      title = {{AlignMixup}: Improving Representations by Interpolating Aligned Features},
      author = {Venkataramanan, Shashanka and Kijak, Ewa and Amsaleg, Laurent and Avrithis, Yannis},
      booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
      year = {2022},
      eprint = {2103.15375},
      archivePrefix = {arXiv}
    }
    """
    takes = "cnn"
    settled = {"layer": 0}
    exempt = {"logits": "a plan of little entropy spreads equal features"}
    inject_layers = (FEATURES,)

    def __init__(
        self,
        alpha: float = 2.0,
        pairing: str = "perm",
        input_prob: float = 0.5,
        eps: float = 0.1,
        iterations: int = 100,
        tol: float = 0.1,
        row_normalize: bool = False,
        feat_l2norm: bool = False,
    ):
        super().__init__()
        expect(is_number(input_prob) and 0 <= input_prob <= 1, "input_prob", "a number from 0 to 1", input_prob)
        expect(is_number(eps) and eps > 0, "eps", "a number larger than 0", eps)
        expect(is_whole(iterations) and iterations > 0, "iterations", "a whole number larger than 0", iterations)
        expect(is_number(tol) and tol >= 0, "tol", "a number of at least 0", tol)
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.input_prob, self.eps, self.iterations, self.tol = input_prob, eps, iterations, tol
        self.row_normalize = flag("row_normalize", row_normalize)
        self.feat_l2norm = flag("feat_l2norm", feat_l2norm)

    def setup(self, net: Network) -> None:
        if getattr(net.model, "cls_token", None) is not None or getattr(net.model, "num_prefix_tokens", 0) > 0:
            raise EvalkitError(
                f"alignmix needs a network that pools a feature map, such as resnet* or swin_*, but '{net.name}' has a"
                " class token"
            )

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        layer = int(ctx.draw("layer", lambda rng: rng.random() >= self.input_prob))
        lam = beta(ctx, self.alpha)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        share = torch.full((len(x),), lam, device=x.device)
        weights = pair_weights(share, partner)
        if layer == 0:
            mask = share[:1, None, None, None].expand(1, 1, *x.shape[-2:])
            return Mixed(blend(x, partner, lam), weights, mask, partner)
        align_own = bool(ctx.draw("direction", lambda rng: rng.integers(2)))
        channels = -1 if getattr(net.model, "output_fmt", "NCHW") == "NHWC" else 1

        def mix_features(h: Tensor) -> Tensor:
            places = h if h.ndim == 3 else h.movedim(channels, -1).flatten(1, 2)  # (B, r, C)
            mixed = self.interpolate(places, places[partner], lam, align_own)
            return (
                mixed.to(h.dtype)
                if h.ndim == 3
                else mixed.to(h.dtype).unflatten(1, h.movedim(channels, -1).shape[1:3]).movedim(-1, channels)
            )

        return Mixed(x, weights, None, partner, inject=(FEATURES, mix_features))

    def interpolate(self, own: Tensor, other: Tensor, lam: float, align_own: bool) -> Tensor:
        """(B, r, C) float32 h~ of feature maps F and F' (B, r, C)."""
        with torch.autocast(own.device.type, enabled=False):
            own, other = own.float(), other.float()
            plan = self.plan(own.detach(), other.detach())
            if align_own:
                own = plan.transpose(1, 2) @ own
            else:
                other = (plan / plan.sum(2, keepdim=True) if self.row_normalize else plan) @ other
            return torch.lerp(other, own, lam)

    @torch.no_grad()
    def plan(self, own: Tensor, other: Tensor) -> Tensor:
        """(B, r, r) R for feature maps (B, r, C): how much of each place of the other goes to each place of the own
        one; columns sum to 1."""
        if self.feat_l2norm:
            own, other = F.normalize(own, dim=2), F.normalize(other, dim=2)
        return own.shape[1] * sinkhorn(squared_distances(own, other), self.eps, self.iterations, self.tol)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, r, r) ||a_j - b_k||^2, without a tensor of r^2 C numbers for each pair.

    Args:
        a: r vectors of each pair's first image, (B, r, C).
        b: Those of its second image, (B, r, C).
    """
    dot = a @ b.transpose(1, 2)
    return (a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * dot).clamp(min=0)


def sinkhorn(cost: Tensor, eps: float, iterations: int, tol: float) -> Tensor:
    """(B, r, r) transport plans with marginals 1 / r (Cuturi, NeurIPS 2013), in the log domain.

    All plans stop together. The device decides that by leaving further updates out, so nothing waits for it.

    Args:
        cost: Costs (B, r, r) of moving each place to each other.
        eps: Weight of the entropy: the larger, the more even a plan.
        iterations: The most updates.
        tol: They stop once the batch mean of sum_j |change of u_j| is below it.
    """
    places = cost.shape[-1]
    kernel, marginal = cost / -eps, math.log(1 / places + 1e-8)
    u, v = torch.zeros_like(cost[:, :, 0]), torch.zeros_like(cost[:, 0])  # potentials over eps
    going = torch.ones((), dtype=torch.bool, device=cost.device)
    for _ in range(iterations):
        before = u
        u = torch.where(going, marginal - (kernel + v[:, None]).logsumexp(2), u)
        v = torch.where(going, marginal - (kernel + u[:, :, None]).logsumexp(1), v)
        going = going & (eps * (u - before).abs().sum(1).mean() >= tol)
    return (kernel + u[:, :, None] + v[:, None]).exp()
