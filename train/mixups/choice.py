"""Choice: one of several methods for each batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from evalkit.models.network import Network
from evalkit.ordered import each_once

from .base import Context, Mixed, MixMethod
from .parts.checks import expect, is_number
from .switch import Switch

MIXUP, CUTMIX = {"name": "mixup", "alpha": 0.8, "pairing": "flip"}, {"name": "cutmix", "alpha": 1.0, "pairing": "flip"}


class Choice(MixMethod):
    """A random switch between methods, one draw per batch (DeiT: Touvron et al., ICML 2021, arXiv:2012.12877).

        branch k ~ Categorical(probs);  x~, t and the loss are those of methods[k]

    Args:
        methods: The methods, one of which is drawn for each batch.
        probs: Their probabilities; None: equal ones.

    In a recipe: {choice: [{name: mixup, alpha: 0.8, prob: 0.5}, ...]}. Presets are the published switches: "default"
    DeiT's (as timm's batch mode, alphas 0.8 and 1); "transmix" and "mixpro" those of the methods;
    "transmix_released_s" what TransMix's DeiT-S configuration really ran (its switch key is misspelt);
    "mixpro_nocutmix" the one of MixPro's component table. Draws: branch (index into `methods`), then those of the
    branch. A choice inside a choice sees the same injected `branch`.

    Does not differ from the paper / the official code but in odd batches, whose middle sample is paired with itself
    instead of refused.
    """

    family = "switch"
    needs = "what its branches need"
    extra_passes = "those of its branches"
    bibtex = Switch.bibtex
    PRESETS = {
        "default": {"methods": [MIXUP, CUTMIX]},
        "mixpro": {"methods": ["mixpro", MIXUP, CUTMIX], "probs": [0.5, 0.25, 0.25]},
        "mixpro_nocutmix": {"methods": ["mixpro", MIXUP]},
        "transmix": {"methods": ["transmix", MIXUP], "probs": [0.8, 0.2]},
        "transmix_released_s": {"methods": ["transmix", MIXUP], "probs": [0.5, 0.5]},
    }

    def __init__(self, methods: Sequence[MixMethod], probs: Sequence[float] | None = None):
        super().__init__()
        usable = isinstance(methods, Sequence) and len(methods) > 0 and all(isinstance(m, MixMethod) for m in methods)
        expect(usable, "methods", "a list of at least one mixup method", methods)
        blocks = {str(m.attention) for m in methods if m.attention}
        expect(len(blocks) <= 1, "methods", "methods that take the class attention from one and the same block", blocks)
        probs = [1 / len(methods)] * len(methods) if probs is None else list(probs)
        expect(len(probs) == len(methods), "probs", f"one probability for each of {len(methods)} methods", probs)
        expect(all(is_number(p) and p >= 0 for p in probs), "probs", "numbers of at least 0", probs)
        expect(abs(sum(probs) - 1) <= 1e-6, "probs", "numbers that sum to 1", probs)
        self.methods = nn.ModuleList(methods)
        self.probs = np.asarray(probs, dtype=np.float64) / sum(probs)

    @property
    def branches(self) -> tuple[MixMethod, ...]:
        return tuple(m for m in self.methods if isinstance(m, MixMethod))

    def pick(self, ctx: Context) -> MixMethod:
        branch = ctx.draw("branch", lambda rng: rng.choice(len(self.methods), p=self.probs))
        return self.branches[int(branch)].pick(ctx)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        raise TypeError("a choice does not mix by itself: take `method = choice.pick(ctx)`, as train_step does")

    # What the training loop asks for reaches every branch. Other methods have attributes where these are computed, as a
    # branch may decide in its `setup`.

    @property
    def attention(self) -> bool | int | str:  # type: ignore[override]  # computed, see above
        return next((m.attention for m in self.branches if m.attention), False)

    @property
    def features(self) -> bool:  # type: ignore[override]  # computed, see above
        return any(m.features for m in self.branches)

    @property
    def skips_passes(self) -> bool:  # type: ignore[override]  # computed, see above
        return len({m.extra_passes for m in self.branches}) > 1 or any(m.skips_passes for m in self.branches)

    @property
    def own_passes(self) -> Literal["none", "whole", "layers"]:  # type: ignore[override]  # computed, see above
        return max((m.own_passes for m in self.branches), key=("none", "whole", "layers").index)

    @property
    def inject_layers(self) -> Sequence[str]:  # type: ignore[override]  # computed, see above
        return each_once(layer for m in self.branches for layer in m.inject_layers)

    @property
    def loader_extras(self) -> Mapping[str, Callable[..., Tensor]]:  # type: ignore[override]  # computed, see above
        return {name: make for m in self.branches for name, make in m.loader_extras.items()}

    def setup(self, net: Network) -> None:
        for method in self.branches:
            method.setup(net)

    def param_groups(self) -> list[dict[str, Any]]:
        return [group for method in self.branches for group in method.param_groups()]

    def after_step(self, ctx: Context, net: Network) -> None:
        for method in self.branches:
            method.after_step(ctx, net)

    def eval_network(self, net: Network) -> Network:
        """That of the first branch which evaluates another network than the trained one."""
        return next((n for n in (m.eval_network(net) for m in self.branches) if n is not net), net)
