"""Methods set up with small random networks in place of trained ones, for looking at them and timing them."""

import dataclasses
import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from evalkit import models
from evalkit.errors import EvalkitError, unknown
from evalkit.models import Network
from evalkit.runtime import seed_torch

from ..mixups import METHODS, MixMethod, create

TEACHERS = ("attentive_cutmix", "attentivemix_plus")
POOLED = ("alignmix", "snapmix")  # want a network that pools a feature map
LEFT_OUT = {
    **{name: f"{name}'s masks come from a mix block that training makes" for name in ("adautomix", "automix", "samix")},
    "supermix": "supermix needs a teacher that knows the images' classes",
    "choice": "choice is a switch between other methods; name those",
}


def network(size: int, num_classes: int, patch: int = 16) -> Network:
    """A ViT of two narrow blocks with random weights for images of `size` pixels. Raises EvalkitError where patches do
    not divide them."""
    if size % patch:
        raise EvalkitError(f"images of {size} pixels do not divide into patches of {patch}; give a multiple of {patch}")
    seed_torch("stand-in", size)
    arguments = {"img_size": size, "patch_size": patch, "embed_dim": 48, "depth": 2, "num_heads": 3}
    return models.create("vit_tiny_patch16_224", num_classes=num_classes, **arguments).eval()


def suited(name: str, net: Network) -> Network:
    """`net`, or a narrow ResNet for the same images where the method `name` wants a network that pools a feature
    map."""
    if name not in POOLED:
        return net
    seed_torch("stand-in", *net.input_size)
    made = models.create("resnet10_cifar", num_classes=net.num_classes, channels=(4, 4, 8, 8)).eval()
    made.input_size = net.input_size
    return made.to(next(net.parameters()).device)


def chosen(names: str | None) -> list[str]:
    """Names from a list with commas, by default every method but `choice`. Raises EvalkitError for one that does not
    exist."""
    picked = [n.strip() for n in names.split(",") if n.strip()] if names else [n for n in METHODS if n != "choice"]
    if not picked:
        raise EvalkitError("which methods? Name some, for example --methods mixup,cutmix")
    for name in picked:
        if name not in METHODS:
            raise unknown("mixup", name, METHODS)
    return picked


def method(name: str, net: Network) -> MixMethod:
    """The method `name` in its default preset, set up with `net`; a teacher, if it wants one, sees 7 x 7 cells like a
    ResNet, or 4 x 4.

    tokenmix gets the class attention of `net` in place of a teacher."""
    size, arguments = net.input_size[0], {}
    if name in TEACHERS:
        arguments = {"teacher": network(size, net.num_classes, size // (4 if size % 7 else 7))}
    made = create(name, **({"teacher": "self"} if name == "tokenmix" else arguments))
    made.setup(net)
    return made.to(next(net.parameters()).device)


def answer_at_once(net: Network, methods: Iterable[MixMethod], x: Tensor) -> None:
    """Make `net` and the methods' teachers answer for `x` without a pass, so that what is timed is the methods
    alone."""
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
    for teacher in (m.teacher.on(x) for m in methods if getattr(m, "teacher", None)):
        teacher.feature_map = functools.partial(_given, teacher.feature_map(x))


def _given(value, *_, **__):
    return value
