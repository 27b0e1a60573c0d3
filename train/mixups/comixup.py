"""Co-Mixup: mix the images of a batch jointly, so that every output is salient and the outputs are diverse."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.models.network import Network

from .base import Context, Mixed, upload
from .parts.blocks import check_grid, mix_blocks
from .parts.checks import expect, flag, is_number, is_whole, one_of
from .parts.grid_solver import best_of
from .parts.saliency import SaliencyMethod, shares

STRIP = 2  # rows or columns of cells that are solved jointly


class CoMixup(SaliencyMethod):
    """Co-Mixup (Kim, Choo, Jeong & Song, ICLR 2021, arXiv:2102.03065).

        n inputs make n outputs; s_k = saliency of input k on m x m cells, sum 1;   a ~ Dirichlet(alpha, .., alpha);
        c_k = -s_k - eta / m^2 log(a_k + 1e-8)
        o^j_p = an input (one-hot) or half of two, chosen cell by cell to minimise
          sum_j sum_p c . o^j_p + beta / m^2 sum_(p,q) V(o^j_p, o^j_q) + penalty for showing inputs that other outputs
              show already
        x~_j = sum_k up(o^j_k) x_k,   t_j = sum_k mean_p(o^j_p,k) s(y_k)

    Outputs are improved one after the other, `iterations` times: with N_k = cells of input k in the other outputs and v
    = A N, input k costs 2 gamma / m^2 v_k more where v_k > tau m^2 ("hard"), or the excess over it ("soft"). A = (1 -
    omega) I + omega D brings in how far apart the salient parts are. V is 1 for two different labels, 1/4 for an input
    and a half of it; halves are of the two or three inputs an output shows.

    Args:
        alpha: Parameter of the distribution of ratios.
        part: n; the rest of the batch makes a smaller part.
        grid: m, cells per side of the image.
        beta: Weight of neighbouring cells that show different inputs, as above.
        gamma: Weight of showing what other outputs show already, as above.
        eta: Weight of the prior of the ratios, as above.
        omega: Share of the distance D in A, as above.
        threshold: tau, the share of the cells above which a repeated input costs more, as above.
        threshold_type: What it costs then: "hard", all of v_k, or "soft", the excess.
        threshold_first: v = A applied to the counts above the threshold (the code, by a missing pair of brackets).
        iterations: Rounds over the outputs of a part.
        resolve: Before the last round, push outputs of the same inputs apart.
        peak_stride: Stride of the windows whose places D compares.
        clean_lam: Weight of the loss of the clean batch; 0: saliency in evaluation mode.

    Presets: "released" the code for CIFAR and Tiny-ImageNet, "imagenet" the one for ImageNet. Images must be square,
    their side a multiple of m. Draws: ratio (B,) (each part's sums to 1), labels (B, m, m) first input of each cell,
    counted within the part. The loop over the outputs of a part is sequential by definition; all parts go through it
    at once, on the device, without waiting for it.

    Differs from the paper / the official code in the solver of one output: strips of two rows or columns of cells,
    exactly, from five starts, instead of label swaps; in the hard penalty (see `threshold_first`); in one more forward
    pass for the clean loss; in both losses, which are the criterion's (the code's for CIFAR are the mean binary
    cross-entropy of the softmax and 2 / K of the cross-entropy of K classes); and in batches that parts do not divide,
    which the code for ImageNet cuts off.
    """

    extra_passes = "1 forward + backward, 1 forward of the clean batch"
    bibtex = """
    @inproceedings{kim2021comixup,
      title = {{Co-Mixup}: Saliency Guided Joint Mixup with Supermodular Diversity},
      author = {Kim, Jang-Hyun and Choo, Wonho and Jeong, Hosan and Song, Hyun Oh},
      booktitle = {International Conference on Learning Representations},
      year = {2021},
      eprint = {2102.03065},
      archivePrefix = {arXiv}
    }
    """
    exempt = {"oblong": "its grids divide square images only, as the paper's"}
    PRESETS = {
        "default": {},
        "imagenet": {"alpha": 1.0, "part": 16, "iterations": 3, "peak_stride": 8, "threshold_first": True},
        "released": {"threshold_first": True},
    }

    def __init__(
        self,
        alpha: float = 2.0,
        part: int = 20,
        grid: int = 4,
        beta: float = 0.32,
        gamma: float = 1.0,
        eta: float = 0.05,
        omega: float = 0.001,
        threshold: float = 0.83,
        threshold_type: str = "hard",
        threshold_first: bool = False,
        iterations: int = 4,
        resolve: bool = True,
        peak_stride: int = 1,
        clean_lam: float = 1.0,
    ):
        super().__init__(clean_lam)
        expect(is_number(alpha) and alpha > 0, "alpha", "a number larger than 0", alpha)
        whole = (("part", part, 1), ("grid", grid, 2), ("iterations", iterations, 1), ("peak_stride", peak_stride, 1))
        for name, number, least in whole:
            expect(is_whole(number) and number >= least, name, f"a whole number of at least {least}", number)
        for name, value in (("beta", beta), ("gamma", gamma), ("eta", eta), ("threshold", threshold)):
            expect(is_number(value) and value >= 0, name, "a number of at least 0", value)
        expect(is_number(omega) and 0 <= omega <= 1, "omega", "a number from 0 to 1", omega)
        self.alpha, self.part, self.grid, self.iterations = alpha, part, grid, iterations
        self.beta, self.gamma, self.eta, self.omega, self.threshold = beta, gamma, eta, omega, threshold
        self.threshold_type = one_of("threshold_type", threshold_type, ("hard", "soft"))
        expect(
            not flag("threshold_first", threshold_first) or threshold_type == "hard",
            "threshold_first",
            "false with a soft threshold, which the code applies to v",
            threshold_first,
        )
        self.threshold_first, self.peak_stride = threshold_first, peak_stride
        self.resolve = flag("resolve", resolve)

    def check_size(self, net: Network, height: int, width: int) -> None:
        check_grid("comixup", height, width, self.grid)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        batch, m = len(x), self.grid
        height, width = x.shape[-2:]
        block = check_grid("comixup", height, width, m)
        whole = batch // self.part * self.part
        sizes = [self.part] * (batch // self.part) + [batch - whole] * (batch > whole)
        ratio = ctx.draw("ratio", lambda rng: np.concatenate([rng.dirichlet([self.alpha] * n) for n in sizes]))
        labels = ctx.draw("labels", lambda rng: np.concatenate([rng.integers(n, size=(n, m, m)) for n in sizes]))
        if batch == 1:
            return Mixed(x, torch.ones(1, 1, device=x.device))
        ratio, labels = upload(np.asarray(ratio, np.float64), x), upload(np.asarray(labels, np.int64), x)
        saliency = self.input_saliency(net, x, y)
        cost = (-shares(saliency, block) - self.eta / m**2 * (ratio + 1e-8).log()[:, None, None]).float()
        distance = peak_distances(saliency, self.peak_stride)

        outputs = []  # of the whole parts, all at once, and of the rest
        with torch.autocast(x.device.type, enabled=False):
            for a, b, n in ((0, whole, self.part), (whole, batch, batch - whole)):
                if b > a:
                    p = (b - a) // n
                    near = torch.stack([distance[c : c + n, c : c + n] for c in range(a, b, n)])
                    outputs.append(
                        self.assign(cost[a:b].view(p, n, m, m), self.compatibility(near), labels[a:b].view(p, n, m, m))
                    )

        weights = torch.block_diag(*(part.mean((1, 2)) for o in outputs for part in o))
        image, share = (torch.cat(t) for t in zip(*(two_largest(o) for o in outputs), strict=True))
        first = torch.arange(batch, device=x.device) // self.part * self.part
        image = image + first[:, None, None, None]
        cell = torch.arange(m * m, device=x.device).view(1, m, m, 1).expand_as(image)
        return Mixed(mix_blocks(x, image, cell, share), weights.float())

    def compatibility(self, distance: Tensor) -> Tensor:
        """A (P, n, n) of the distances within each part."""
        n = distance.shape[1]
        distance = distance / distance.sum((1, 2), keepdim=True).clamp(min=1e-12) * n
        return (1 - self.omega) * torch.eye(n, dtype=distance.dtype, device=distance.device) + self.omega * distance

    def assign(self, cost: Tensor, compatibility: Tensor, labels: Tensor) -> Tensor:
        """o (P, n, m, m, n): what each output shows in each cell, from c (P, n, m, m), A (P, n, n) and first labels (P,
        n, m, m)."""
        n, m = cost.shape[1:3]
        cost = cost.permute(0, 2, 3, 1)
        gamma, limit = self.gamma / m**2, self.threshold * m**2
        o = F.one_hot(labels, n).to(cost.dtype)
        extra = torch.zeros_like(o[:, :, 0, 0])  # (P, n, n) cost of an input in an output, to tell equal outputs apart
        value, settled = self.objective(cost, o), torch.zeros(len(cost), dtype=torch.bool, device=cost.device)
        for iteration in range(self.iterations):
            new = o
            for j in range(n):
                counts = new.sum((2, 3))  # (P, n, n): cells of each input in each output
                others = counts.sum(1) - counts[:, j]
                v = weighed(compatibility, others)
                if self.threshold_first:
                    excess = weighed(compatibility, (v > limit) * others)
                else:
                    excess = (v > limit) * (v if self.threshold_type == "hard" else v - limit)
                penalty = 2 * gamma * excess + gamma * extra[:, j]
                shown = best_output(
                    cost + penalty[:, None, None], self.beta / m**2, counts[:, j] if iteration else None
                )
                new = torch.cat([new[:, :j], shown[:, None], new[:, j + 1 :]], 1)
            o = torch.where(settled[:, None, None, None, None], o, new)
            if iteration == self.iterations - 2 and self.resolve:
                extra = same_inputs(o.sum((2, 3)) > 0).to(cost.dtype)
            before, value = value, self.objective(cost, o)
            settled = settled | ((before - value).abs() < 1e-6 * value.abs())
        return o

    def objective(self, cost: Tensor, o: Tensor) -> Tensor:
        """(P,) sum c.o + beta / (2 m^2) sum_(p,q) ||o_p - o_q||^2 + gamma / m^2 sum_j,j' n_j . n_j' over different
        outputs, without threshold."""
        m = o.shape[2]
        counts = o.sum((2, 3))
        smooth = (o[:, :, 1:] - o[:, :, :-1]).square().sum((1, 2, 3, 4)) + (
            o[:, :, :, 1:] - o[:, :, :, :-1]
        ).square().sum((1, 2, 3, 4))
        shared = counts.sum(1).square().sum(1) - counts.square().sum((1, 2))
        return (cost[:, None] * o).sum((1, 2, 3, 4)) + self.beta / (2 * m**2) * smooth + self.gamma / m**2 * shared


def best_output(cost: Tensor, beta: float, counts: Tensor | None) -> Tensor:
    """One output (P, m, m, n) of least cost.

    Args:
        cost: Of showing each of the n inputs in each cell, (P, m, m, n).
        beta: Cost of two neighbouring cells that show different inputs.
        counts: (P, n) cells of each input in the output so far: its two or three most shown inputs may also be shown
            half and half. None: whole inputs only.
    """
    parts, m, _, n = cost.shape
    meaning = torch.eye(n, dtype=cost.dtype, device=cost.device).expand(parts, n, n)  # (P, L, n) what each label shows
    pairwise = 1 - meaning
    if counts is not None and n > 1:
        top = counts.topk(min(3, n))
        pairs = list(combinations(range(min(3, n)), 2))
        halves = (
            torch.stack([F.one_hot(top.indices[:, a], n) + F.one_hot(top.indices[:, b], n) for a, b in pairs], 1).to(
                cost.dtype
            )
            / 2
        )
        absent = torch.stack([(top.values[:, a] == 0) | (top.values[:, b] == 0) for a, b in pairs], 1)
        price = (cost @ halves.transpose(1, 2)[:, None]) - 5e-4 + 1e6 * absent[:, None, None]
        beside = 1 - 1.5 * halves  # 1/4 beside an input that is half of it
        corner = (1 - torch.eye(len(pairs), dtype=cost.dtype, device=cost.device)).expand(parts, -1, -1)
        pairwise = torch.cat([torch.cat([pairwise, beside.transpose(1, 2)], 2), torch.cat([beside, corner], 2)], 1)
        meaning, cost = torch.cat([meaning, halves], 1), torch.cat([cost, price], 3)
    constant = cost.sum((1, 2)).topk(min(4, n), largest=False).indices.T  # (4, P)
    starts = torch.cat([cost.argmin(3)[None], constant[:, :, None, None].expand(-1, -1, m, m)])
    weight = cost.new_full((parts, m, m), beta)
    labels = best_of(cost, weight[:, 1:], weight[:, :, 1:], pairwise, starts, STRIP, STRIP)
    return meaning.gather(1, labels.flatten(1)[..., None].expand(-1, -1, n)).view(parts, m, m, n)


def same_inputs(shown: Tensor) -> Tensor:
    """(P, n, n) int64, 1 at the first input of an output and the second of a later one that shows the same two or more
    inputs; `shown` bool (P, n, n)."""
    several = shown.sum(2) > 1
    same = (shown[:, :, None] == shown[:, None]).all(3) & several[:, :, None]
    earlier = same.triu(1)  # output i before output j
    first = F.one_hot(shown.int().argmax(2), shown.shape[2])
    second = F.one_hot((shown & (first == 0)).int().argmax(2), shown.shape[2])
    return (earlier.any(2)[..., None] * first).maximum(earlier.any(1)[..., None] * second)


def weighed(compatibility: Tensor, counts: Tensor) -> Tensor:
    """(P, n) A N.

    Args:
        compatibility: A, (P, n, n).
        counts: N, cells of each input, (P, n).
    """
    return (compatibility @ counts[..., None])[..., 0]


def peak_distances(saliency: Tensor, stride: int = 1) -> Tensor:
    """(B, B) float32 sum of absolute row and column differences of the most salient 8 x 8 pixels.

    Args:
        saliency: (B, H, W), not negative.
        stride: Pixels per unit of the distance.
    """
    window = min(8, *saliency.shape[1:])
    pooled = F.avg_pool2d(saliency.float()[:, None], window, stride)[:, 0]
    peak = pooled.flatten(1).argmax(1)
    place = torch.stack([peak // pooled.shape[2], peak % pooled.shape[2]], 1).float()
    return (place[:, None] - place).abs().sum(2)


def two_largest(o: Tensor) -> tuple[Tensor, Tensor]:
    """Index within the part and share (P n, m, m, 2) of the inputs that outputs (P, n, m, m, n) show in each cell:
    never more than two."""
    top = F.pad(o, (0, 1)).topk(2)
    return (top.indices % o.shape[-1]).flatten(0, 1), top.values.flatten(0, 1)
