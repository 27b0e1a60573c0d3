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

        x~, t and L as those of `method`;   a = y_i,  b = y_pi(i);   phi^(a,b) = exp(z_a) / sum_(c != b) exp(z_c),  z =
        f(x~_i) L' = L - eta mean_i (log phi^(a,b) + log phi^(b,a)),   where x~_i shows both images and a != b

    Args: `method` any method that mixes pairs, as in a recipe: a name or {name: ..., key: value}; `eta` weight of the
    regulariser. Draws: those of `method`.

    Differs from the paper / the official code in the mean, which runs over the whole batch (the code takes the means of
    decoupled and other images apart), and in applying both terms to every pair; some of the code's configurations keep
    that of the larger or smaller share only.
    """

    family = "loss"
    needs = "what its method needs"
    extra_passes = "those of its method"
    PRESETS = {"default": {"method": "mixup"}}

    def __init__(self, method: MixMethod, eta: float = 0.1):
        super().__init__()
        usable = isinstance(method, MixMethod) and type(method).pick is MixMethod.pick
        expect(usable, "method", "one mixup method (a choice may hold decouplemix, not the other way round)", method)
        expect(is_number(eta) and eta >= 0, "eta", "a number of at least 0", eta)
        self.method, self.eta = method, eta
        self.attention, self.features, self.inject_layers = method.attention, method.features, method.inject_layers
        self.loader_extras = method.loader_extras

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
        return self.method.loss(ctx, x, y, mixed, out, net) + self.eta * decoupled_loss(
            out.logits, y, y[mixed.partner], both
        )

    def after_step(self, ctx: Context, net: Network) -> None:
        self.method.after_step(ctx, net)

    def eval_network(self, net: Network) -> Network:
        return self.method.eval_network(net)


def decoupled_loss(logits: Tensor, first: Tensor, second: Tensor, both: Tensor) -> Tensor:
    """Mean of -log phi^(a,b) - log phi^(b,a) over logits (B, K) and classes (B,), 0 where `both` (B,) is false or the
    classes are the same."""
    with torch.autocast(logits.device.type, enabled=False):
        z = logits.float()
        terms = []
        for this, other in ((first, second), (second, first)):
            rivals = z.scatter(1, other[:, None], -torch.inf).logsumexp(1)
            terms.append(rivals - z.gather(1, this[:, None])[:, 0])
        return torch.where(both & (first != second), terms[0] + terms[1], 0.0).mean()
