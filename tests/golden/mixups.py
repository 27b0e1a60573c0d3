"""What evalkit gives for a golden vector of a mixup method.

`x`, `y`, `num_classes`, `smoothing` are the batch; `draws/` what `Context(draws=...)` takes; `net/` what network,
teacher or loader would have given; `expect/` what the official code returned. `meta["network"]` describes a network
whose weights follow from a seed; without it, saliency and features are the stored ones."""

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evalkit import models
from evalkit.models import Network
from evalkit.train import Context, MixMethod, create

from .vectors import Case

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Recorded(nn.Module):
    """A network or teacher of `size` that answers with the recorded saliency and features; its logits come from a small
    convolutional classifier with the recorded weights."""

    mean, std = IMAGENET["mean"], IMAGENET["std"]

    def __init__(self, case: Case, size: tuple[int, int], num_classes: int):
        super().__init__()
        self.answers, self.input_size, self.num_classes = case.tensors("net"), size, num_classes
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )
        weights = case.tensors("net/weights")
        if weights:
            self.body.load_state_dict(weights)

    def saliency(self, x: Tensor, y: Tensor) -> Tensor:
        return self.answers["saliency"]

    def feature_map(self, x: Tensor) -> Tensor:
        return self.answers["features"]

    def forward(self, x: Tensor, **wanted: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.body(x))


def seeded_network(num_classes: int, name: str, seed: int, sha256: str, **arguments: Any) -> Network:
    """A network with weights from numpy's frozen RandomState, the same everywhere."""
    network, rng, digest = models.create(name, num_classes=num_classes, **arguments), np.random.RandomState(seed), []
    for key, p in sorted(network.model.named_parameters()):
        z = torch.from_numpy(rng.standard_normal(tuple(p.shape)))
        p.data.copy_(z / np.prod(p.shape[1:]) ** 0.5 if p.ndim > 1 else 0.1 * z + float(key.endswith("weight")))
        digest.append(key.encode() + p.detach().numpy().tobytes())
    if hashlib.sha256(b"".join(digest)).hexdigest() != sha256:
        raise AssertionError(f"the weights of {name} are not those the vector was made with")
    return network


def recorded_rng(draws: dict[str, Any]) -> SimpleNamespace:
    """A generator whose methods hand out recorded values, in order and whatever they are asked for."""

    def method(values: Any) -> Any:
        remaining = iter(values)
        return lambda *_: next(remaining)

    return SimpleNamespace(**{name: method(values) for name, values in draws.items()})


def energy(mask: Tensor, graph: dict[str, Tensor]) -> Tensor:
    """(B,) energy of masks of the values 0, 1/2 and 1 on a grid graph: `unary` (B, m, m, 3) and the squared differences
    weighed by `down` (B, m - 1, m) and `right` (B, m, m - 1)."""
    m = graph["unary"].shape[1]
    step = mask.shape[-1] // m
    label = (2 * (1 - mask[:, 0, ::step, ::step].double())).round()
    total = graph["unary"].gather(3, label.long()[..., None]).sum((1, 2, 3))
    for axis, weight in ((1, graph["down"]), (2, graph["right"])):
        total = total + ((label.diff(dim=axis) / 2).square() * weight).sum((1, 2))
    return total


def results(case: Case) -> dict[str, Any]:
    """evalkit's values for the keys of `expect/`."""
    meta, stored, expected = case.meta, case.tensors("net"), case.tensors("expect")
    arguments = dict(meta.get("arguments", {}))
    num_classes = int(case.arrays["num_classes"])
    if "teacher_size" in meta:
        arguments["teacher"] = Recorded(case, meta["teacher_size"], num_classes)
    method = create(meta["method"], preset=meta.get("preset", "default"), **arguments)
    if "view" in expected:
        image = Image.fromarray(stored["image"].numpy())
        return {"view": method.loader_extras["views"](image, recorded_rng(case.draws()))[0]}  # type: ignore[arg-type]
    return mixed(case, method, stored, num_classes)


def mixed(case: Case, method: MixMethod, stored: dict[str, Tensor], num_classes: int) -> dict[str, Any]:
    """The mixed batch, its target, and of the network's output what the case expects."""
    meta, expected = case.meta, case.tensors("expect")
    x, y = (torch.from_numpy(case.arrays[key]) for key in ("x", "y"))
    has_network = "network" in meta
    net: Any = (
        seeded_network(num_classes, **meta["network"]) if has_network else Recorded(case, x.shape[-2:], num_classes)
    )
    net.train(meta.get("train_mode", False))
    ctx = Context.simple(
        num_classes,
        np.random.default_rng(0),
        smoothing=float(case.arrays["smoothing"]),
        draws=case.draws(),
        extras=stored,
    )
    method.setup(net)
    for name, p in method.named_parameters():
        p.data.copy_(stored[f"method/{name}"])
    batch = method.mix(ctx, x, y, net)
    target = batch.state if meta.get("target") == "state" else batch.weights @ ctx.target(y)
    got = {"x": batch.x, "mask": batch.mask, "weights": batch.weights, "target": target}
    if "loss" in expected:
        out = SimpleNamespace(logits=stored.get("logits"))
        if has_network:
            out = net(batch.x, features=method.features, inject=batch.inject)
        got |= {"logits": out.logits, "loss": method.loss(ctx, x, y, batch, out, net)}
    for key in case.below("expect/gradient"):
        (gradient,) = torch.autograd.grad(got["loss"], net.model.get_parameter(key), retain_graph=True)
        got[f"gradient/{key}"] = gradient
    if "energy" in expected:  # an upper bound: a lower energy is better, not different
        got["energy"] = energy(batch.mask, stored).maximum(expected["energy"])
    return got
