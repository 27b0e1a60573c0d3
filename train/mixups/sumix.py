"""SUMix: any pairwise method, with label shares by how much of each image's class the network sees in the mixed one,
and a regulariser for what it is not certain of."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from ..losses import mixed_target
from .base import Context, Mixed, MixMethod, pair_weights
from .parts.checks import expect, flag, is_number
from .parts.saliency import evaluating


class SUMix(MixMethod):
    """SUMix (Qin, Jin et al., ECCV 2024, arXiv:2407.07805), as its code.

        x~, lam as those of `method`;   p, p~ = the network's probabilities for x_i and x~_i
        a_i = B unit(softmax(p~_i - p_i, its entry of y_pi(i) at 0)),
        b_i = B unit(softmax(p~_i - p_pi(i), its entry of y_i at 0))
        lam'_i = lam e^(-a_i[y_i]) / (lam e^(-a_i[y_i]) + (1 - lam) e^(-b_i[y_pi(i)])),
        t_i = lam'_i s(y_i) + (1 - lam'_i) s(y_pi(i))
        L = L(f(x~), t) + gamma mean_i (lam CE(e^(-(u_i + u~_i + a_i)), y_i)
                                       + (1 - lam) CE(e^(-(u_pi(i) + u~_i + b_i)), y_pi(i)))

    B is the number of images, unit(v) = v / |v|; differences are taken after the entry is set; u = unit(softmax(h(z)))
    by a second linear head h of the pooled features z, of the clean images and, u~, of the mixed ones. No gradient goes
    through p, p~, a, b and lam'; it goes through u and both passes.

    Args:
        method: Any method that mixes pairs, as in a recipe: a name or {name: ..., key: value}; the paper's cut.
        weight: gamma, the weight of the regulariser.
        own_head: Whether u comes from a head of its own; else u is the logits, as in the code's configuration of
            ImageNet.
        average: Whether lam' is averaged over the batch, as the code does by multiplying it with a mean loss.

    Draws: those of `method`.

    Differs from the paper / the official code in weighing each image's own loss by its own lam', which the preset
    "released" averages, and in computing lam' by logarithms: for large B the code's exponentials are 0. The code
    shows the clean images first and updates batch norm's running statistics by both passes; here they come last and
    theirs count.
    """

    family = "loss"
    needs = "what its method needs, and a classifier on pooled features"
    extra_passes = "1 forward + backward of the clean images, and those of its method"
    features = True
    training_passes = 2
    own_passes = "whole"
    bibtex = """
    @inproceedings{qin2024sumix,
      title = {{SUMix}: Mixup with Semantic and Uncertain Information},
      author = {Qin, Huafeng and Jin, Xin and Zhu, Hongyu and Liao, Hongchao and El-Yacoubi, Moun{\\^i}m A. and Gao,
        Xinbo},
      booktitle = {European Conference on Computer Vision},
      year = {2024},
      eprint = {2407.07805},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {"method": "cutmix"},
        "imagenet": {"method": "cutmix", "own_head": False},
        "released": {"method": "cutmix", "average": True},
        "tiny": {"method": "cutmix", "weight": 1.0},
    }

    def __init__(self, method: MixMethod, weight: float = 0.5, own_head: bool = True, average: bool = False):
        super().__init__()
        usable = isinstance(method, MixMethod) and type(method).pick is MixMethod.pick
        expect(usable, "method", "one mixup method (a choice may hold sumix, not the other way round)", method)
        expect(is_number(weight) and weight >= 0, "weight", "a number of at least 0", weight)
        self.method, self.weight = method, weight
        self.own_head, self.average = flag("own_head", own_head), flag("average", average)
        self.attention, self.inject_layers = method.attention, method.inject_layers
        self.loader_extras = method.loader_extras
        self.uncertain: nn.Linear | None = None

    def setup(self, net: Network) -> None:
        self.method.setup(net)
        if not self.own_head:
            return
        parameter = next(net.parameters())
        with torch.no_grad(), evaluating(net):
            x = torch.zeros(1, 3, *net.input_size, device=parameter.device, dtype=parameter.dtype)
            width = self.pooled(net, net(x, features=True)).shape[1]
        self.uncertain = nn.Linear(width, net.num_classes)
        nn.init.normal_(self.uncertain.weight, std=0.01)
        nn.init.zeros_(self.uncertain.bias)
        self.uncertain.to(parameter)

    def param_groups(self) -> list[dict[str, Any]]:
        groups = self.method.param_groups()
        if self.uncertain is not None:
            groups += [{"params": [self.uncertain.weight]}, {"params": [self.uncertain.bias], "weight_decay": 0.0}]
        return groups

    def pooled(self, net: Network, out: Output) -> Tensor:
        """What the classifier reads, (M, C)."""
        try:
            return net.model.forward_head(out.features, pre_logits=True)
        except (AttributeError, TypeError) as e:
            raise EvalkitError(f"model '{net.name}' cannot be given a second head ({e}); take another model") from e

    def uncertainty(self, net: Network, out: Output) -> Tensor:
        """u (M, K) float32, with gradient."""
        if self.uncertain is None:
            return out.logits.float()
        return unit(self.uncertain(self.pooled(net, out)).float().softmax(1))

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        mixed = self.method.mix(ctx, x, y, net)
        if mixed.partner is None or len(mixed.x) != len(x):
            raise EvalkitError(
                f"sumix needs a method that mixes pairs of images, but got {type(self.method).__name__}; take cutmix,"
                " say"
            )
        return mixed

    def relabel(self, ctx: Context, mixed: Mixed, y: Tensor, out: Output) -> Tensor:
        """The shares lam of the method that mixes; lam' takes a look at the clean images, in `loss`."""
        return self.method.relabel(ctx, mixed, y, out)

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        partner = mixed.partner
        assert partner is not None
        lam = self.relabel(ctx, mixed, y, out).detach().diagonal().float().clamp(0, 1)
        clean = net(x, features=True)
        with torch.autocast(x.device.type, enabled=False):
            own, seen = (o.logits.detach().float().softmax(1) for o in (clean, out))
            a, b = distance(seen, own, y[partner]), distance(seen, own[partner], y)
            share = (lam.logit() - pick(a, y) + pick(b, y[partner])).sigmoid()
            if self.average:
                share = share.mean().expand_as(share)
            loss = ctx.criterion(out.logits, mixed_target(pair_weights(share, partner), ctx.target(y)))
        if not self.weight:
            return loss
        u, v = self.uncertainty(net, clean), self.uncertainty(net, out)
        first = F.cross_entropy((-(u + v + a)).exp(), y, reduction="none")
        second = F.cross_entropy((-(u[partner] + v + b)).exp(), y[partner], reduction="none")
        return loss + self.weight * (lam * first + (1 - lam) * second).mean()

    def after_step(self, ctx: Context, net: Network) -> None:
        self.method.after_step(ctx, net)

    def eval_network(self, net: Network) -> Network:
        return self.method.eval_network(net)


def unit(v: Tensor) -> Tensor:
    """Rows of length 1."""
    return v / v.norm(dim=1, keepdim=True)


def distance(seen: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    """B unit(softmax(seen - own)) where own's entry of the class `hidden` is 0.

    Args:
        seen: Probabilities (B, K) for the mixed images.
        own: Probabilities (B, K) for one of the two clean images of each.
        hidden: Classes (B,) of the other.
    """
    return len(seen) * unit((seen - own.scatter(1, hidden[:, None], 0)).softmax(1))


def pick(values: Tensor, classes: Tensor) -> Tensor:
    """The entry of each row's class, (B,).

    Args:
        values: A number for each image and class (B, K).
        classes: A class for each image (B,).
    """
    return values.gather(1, classes[:, None])[:, 0]
