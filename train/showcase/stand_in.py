"""Methods set up with small random networks in place of trained ones, for looking at them and timing them."""

import dataclasses
import functools
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.runtime import seed_torch

from ..mixups import METHODS, MixMethod, create, find
from ..mixups.base import TEACHER
from ..mixups.parts.teacher import Teacher


def network(size: int, num_classes: int, patch: int = 16) -> Network:
    """A ViT of two narrow blocks with random weights. Raises EvalkitError where patches do not divide the images.

    Args:
        size: Pixels per side of the images.
        num_classes: How many classes it tells apart.
        patch: Pixels per side of a patch.
    """
    if size % patch:
        raise EvalkitError(f"images of {size} pixels do not divide into patches of {patch}; give a multiple of {patch}")
    seed_torch("stand-in", size)
    arguments: dict[str, Any] = {"img_size": size, "patch_size": patch, "embed_dim": 48, "depth": 2, "num_heads": 3}
    return models.create("vit_tiny_patch16_224", num_classes=num_classes, **arguments).eval()


def suited(name: str, net: Network) -> Network:
    """A network of the kind that a method takes.

    Args:
        name: The method.
        net: What is given back if the method takes it; else it is a narrow ResNet for the same images.
    """
    if find(name).takes != "cnn":
        return net
    seed_torch("stand-in", *net.input_size)
    made = models.create("resnet10_cifar", num_classes=net.num_classes, channels=(4, 4, 8, 8)).eval()
    made.input_size = net.input_size
    return made.to(next(net.parameters()).device)


def chosen(names: str | None) -> list[str]:
    """Names from a list with commas, "module:Class" too, by default every method. Raises EvalkitError for one that does
    not exist."""
    picked = [n.strip() for n in names.split(",") if n.strip()] if names else list(METHODS)
    if not picked:
        raise EvalkitError("which methods? Name some, for example --methods mixup,cutmix")
    for name in picked:
        find(name)
    return picked


def method(name: str, net: Network) -> MixMethod:
    """The method `name` in its default preset, set up with `net`; a teacher, if it wants one, sees 7 x 7 cells like a
    ResNet, or 4 x 4.

    Args:
        name: The method, by its name or "module:Class".
        net: What it is set up with.
    """
    size = net.input_size[0]
    patch = size // (4 if size % 7 else 7)
    given: dict[str, Any] = {
        argument: network(size, net.num_classes, patch) if value is TEACHER else value
        for argument, value in find(name).stand_in.items()
    }
    seed_torch("stand-in", name)  # a mix block begins with random weights
    made = create(name, **given)
    made.setup(net)
    return made.to(next(net.parameters()).device).eval()


def answer_at_once(net: Network, methods: Iterable[MixMethod], x: Tensor) -> None:
    """Make the network, and those that methods ask besides, answer without a pass, so that what is timed is the methods
    alone.

    Args:
        net: The network.
        methods: The methods.
        x: Images (B, C, H, W), the only ones that are answered for.
    """
    with torch.no_grad():
        out = net(x, attention=net.patch_size is not None)
        if net.patch_size is not None:
            out = dataclasses.replace(out, rollout=net(x, attention="rollout").rollout)
    answers = {
        "forward": out,
        "saliency": net.saliency(x, torch.zeros(len(x), dtype=torch.int64, device=x.device)),
        "feature_map": net.feature_map(x),
    }
    if net.patch_size is not None:
        answers |= {"class_attention": net.class_attention(x), "patch_attention": net.patch_attention(x)}
    for question, answer in answers.items():
        setattr(net, question, functools.partial(_given, answer))
    for asker in (module for m in methods for module in m.modules() if isinstance(module, MixMethod)):
        for path in asker.asks:
            owner, _, question = path.rpartition(".")
            asked = attrgetter(owner)(asker) if owner else asker
            setattr(asked, question, functools.partial(_given, getattr(asked, question)(x)))
        for teacher in (value for value in vars(asker).values() if isinstance(value, Teacher)):
            seen = teacher.on(x)
            seen.feature_map = functools.partial(_given, seen.feature_map(x))


def _given(value: Any, *_: Any, **__: Any) -> Any:
    return value
