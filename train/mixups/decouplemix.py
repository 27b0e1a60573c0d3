"""DecoupleMix: any pairwise method, with a regulariser under which the two classes of a mixed image do not compete."""

from typing import Any

import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod
from .parts.checks import expect, is_number


class DecoupleMix(MixMethod):
    """Decoupled Mixup (Liu et al., NeurIPS 2023, arXiv:2203.10761), the cross-entropy form.

        x~, t and L as those of `method`;   a = y_i,   b = y_pi(i)
        phi^(a,b) = exp(z_a) / sum_(c != b) exp(z_c),   z = f(x~_i)
        L' = L - eta mean_i (lam_i^k log phi^(a,b) + (1 - lam_i)^k log phi^(b,a)),
        where x~_i shows both images and a != b

    Args:
        method: Any method that mixes pairs, as in a recipe: a name or {name: ..., key: value}.
        eta: Weight of the regulariser.
        lam_idx: k: 0, the paper; the code's configurations have 0, 0.5 or 1.

    Draws: those of `method`.

    Differs from the paper / the official code in giving each term the power of its own share: the code orders the two
    shares by the classes of the first image that is mixed, so that it swaps them for the whole batch where that one's
    own class is the larger number, and leaves the regulariser out where lam = 1/2.
    """

    family = "loss"
    needs = "what its method needs"
    extra_passes = "those of its method"
    bibtex = """
    @inproceedings{liu2023decoupled,
      title = {Harnessing Hard Mixed Samples with Decoupled Regularizer},
      author = {Liu, Zicheng and Li, Siyuan and Wang, Ge and Tan, Cheng and Wu, Lirong and Li, Stan Z.},
      booktitle = {Advances in Neural Information Processing Systems},
      year = {2023},
      eprint = {2203.10761},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {"default": {"method": "mixup"}}

    def __init__(self, method: MixMethod, eta: float = 0.1, lam_idx: float = 0.0):
        super().__init__()
        usable = isinstance(method, MixMethod) and type(method).pick is MixMethod.pick
        expect(usable, "method", "one mixup method (a choice may hold decouplemix, not the other way round)", method)
        expect(is_number(eta) and eta >= 0, "eta", "a number of at least 0", eta)
        expect(is_number(lam_idx) and lam_idx >= 0, "lam_idx", "a number of at least 0", lam_idx)
        self.method, self.eta, self.lam_idx = method, eta, lam_idx
        self.attention, self.features, self.inject_layers = method.attention, method.features, method.inject_layers
        self.loader_extras, self.own_passes = method.loader_extras, method.own_passes

    def setup(self, net: Network) -> None:
        self.method.setup(net)

    def param_groups(self) -> list[dict[str, Any]]:
        return self.method.param_groups()

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        mixed = self.method.mix(ctx, x, y, net)
        if mixed.partner is None:
            raise EvalkitError(
                f"decouplemix needs a method that mixes pairs of images, but got {type(self.method).__name__}; take"
                " mixup or cutmix, say"
            )
        return mixed

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        return self.method.relabel(ctx, mixed, y, out)

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        own = mixed.weights.diagonal()
        both = (own > 1e-3) & (own < 1 - 1e-3)
        share = own.clamp(0, 1)
        weights = share**self.lam_idx, (1 - share) ** self.lam_idx
        regulariser = decoupled_loss(out.logits, y, y[mixed.partner], both, weights)
        return self.method.loss(ctx, x, y, mixed, out, net) + self.eta * regulariser

    def after_step(self, ctx: Context, net: Network) -> None:
        self.method.after_step(ctx, net)

    def eval_network(self, net: Network) -> Network:
        return self.method.eval_network(net)


def decoupled_loss(
    logits: Tensor, first: Tensor, second: Tensor, both: Tensor, weights: tuple[Tensor | float, Tensor | float] = (1, 1)
) -> Tensor:
    """Mean of -w_a log phi^(a,b) - w_b log phi^(b,a), 0 for samples that do not count or whose classes are the same.

    Args:
        logits: Of the mixed samples, (B, K).
        first: Classes a, (B,).
        second: Classes b, (B,).
        both: (B,) bool: the samples that count.
        weights: w_a and w_b, numbers or (B,).
    """
    with torch.autocast(logits.device.type, enabled=False):
        z = logits.float()
        total = torch.zeros_like(z[:, 0])
        for this, other, weight in ((first, second, weights[0]), (second, first, weights[1])):
            rivals = z.scatter(1, other[:, None], -torch.inf).logsumexp(1)
            total = total + weight * (rivals - z.gather(1, this[:, None])[:, 0])
        return torch.where(both & (first != second), total, 0.0).mean()
