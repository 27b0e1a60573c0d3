"""Manifold Mixup: blend two images at a random depth of the network."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.models.network import Network
from evalkit.ordered import each_once

from .base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect
from .parts.masks import blend
from .parts.saliency import evaluating

INPUT = "input"
# ResNet; ConvNeXt and others; Swin; MogaNet, whose stages end with a norm
STAGES = ("layer1", "layer2"), ("stages.0", "stages.1"), ("layers.0", "layers.1"), ("blocks2", "norm1", "norm2")


class ManifoldMixup(MixMethod):
    """Manifold Mixup (Verma et al., ICML 2019, arXiv:1806.05236).

        lam ~ Beta(alpha, alpha), k ~ U{0, 1, 2}, pi a permutation, one each per batch;
        h = g_k(x), the output of layer k, h = x for k = 0
        h~_i = lam h_i + (1 - lam) h_pi(i),   logits = f_k(h~),   t_i = lam s(y_i) + (1 - lam) s(y_pi(i))

    Gradients flow through both h_i and h_pi(i).

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        pairing: As CutMix.
        layers: Names of the layers to choose from, "input" for the image. None: the image and the outputs of the first
            two stages (ResNet, ConvNeXt, Swin, MogaNet, PVT), or of the first quarter and the first half of the blocks
            where there are no stages (ViT: a choice of this toolkit, the paper has convolutional networks only).

    Draws: layer (index into the layers), lam, partner.

    Differs from the paper / the official code in the loss, which is the recipe's.
    """

    family = "feature"
    needs = "layers that give one tensor"
    bibtex = """
    @inproceedings{verma2019manifold,
      title = {Manifold Mixup: Better Representations by Interpolating Hidden States},
      author = {Verma, Vikas and Lamb, Alex and Beckham, Christopher and Najafi, Amir and Mitliagkas, Ioannis
        and Lopez-Paz, David and Bengio, Yoshua},
      booktitle = {International Conference on Machine Learning},
      year = {2019},
      eprint = {1806.05236},
      archivePrefix = {arXiv}
    }
    """
    settled = {"layer": 0}

    def __init__(self, alpha: float = 2.0, layers: Sequence[str] | None = None, pairing: str = "perm"):
        super().__init__()
        named = (
            isinstance(layers, Sequence)
            and not isinstance(layers, str)
            and len(layers) > 0
            and all(isinstance(name, str) for name in layers)
        )
        expect(layers is None or named, "layers", "a list of names of layers", layers)
        self.alpha = beta_parameter(alpha)
        self.pairing = check_pairing(pairing)
        self.inject_layers = list(layers or ())

    def setup(self, net: Network) -> None:
        self.inject_layers = self.inject_layers or [INPUT, *early_layers(net.model)]

    def check_size(self, net: Network, height: int, width: int) -> None:
        self.setup(net)
        x = torch.zeros(2, 3, height, width, device=next(net.parameters()).device)
        with torch.no_grad(), evaluating(net):
            for layer in self.inject_layers:
                if layer != INPUT:
                    net(x, inject=(layer, partial(one_tensor, layer)))

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        self.setup(net)
        layer = self.inject_layers[int(ctx.draw("layer", lambda rng: rng.integers(len(self.inject_layers))))]
        lam = beta(ctx, self.alpha)
        partner = upload(pair(ctx, len(x), self.pairing), x)
        share = torch.full((len(x),), lam, device=x.device)
        weights = pair_weights(share, partner)
        if layer == INPUT:
            mask = share[:1, None, None, None].expand(1, 1, *x.shape[-2:])
            return Mixed(blend(x, partner, lam), weights, mask, partner)

        def mix_features(h: Tensor) -> Tensor:
            return blend(one_tensor(layer, h), partner, lam)

        return Mixed(x, weights, None, partner, inject=(layer, mix_features))


def one_tensor(layer: str, h: Any) -> Tensor:
    """What a layer gave, if it is a tensor. Raises EvalkitError for anything else.

    Args:
        layer: Name of the layer, for the error.
        h: What it gave.
    """
    if not isinstance(h, Tensor):
        raise EvalkitError(
            f"layer '{layer}' gives more than one tensor and cannot be mixed; give manifold other `layers`"
        )
    return h


def early_layers(model: Any) -> list[str]:
    """Names of the two layers that end the first two stages, or the first quarter and half of the blocks. Raises
    EvalkitError if there are none."""
    names = {name for name, _ in model.named_modules()}
    for stages in STAGES:
        if names.issuperset(stages):
            return list(stages[-2:])
    if names.issuperset(("block1", "block2")):  # PVT: each stage is a list of blocks
        return [f"block{stage}.{len(getattr(model, f'block{stage}')) - 1}" for stage in (1, 2)]
    if "blocks.0" in names:
        depth = len(model.blocks)
        return each_once(f"blocks.{max(1, depth // part) - 1}" for part in (4, 2))
    raise EvalkitError(
        f"{type(model).__name__} has no stages or blocks that manifold knows; name its `layers`, for example"
        " layers=[input,features.3]"
    )
