"""Every method of METHODS in each of its presets, and a choice in each of its branches, about to mix a batch of small
random images."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from evalkit import models
from evalkit.data.transforms import View
from evalkit.models import Network
from evalkit.train import METHODS, create
from evalkit.train.mixups import Context, Mixed, arguments
from evalkit.train.mixups.base import TEACHER
from tests.train.mixups.fakes import context
from tests.train.mixups.saliency_fakes import TeacherNet

PATCH, CLASSES = 4, 5

CASES = [
    pytest.param(name, preset, branch, id=f"{name}-{preset}" + ("" if branch is None else f"-{branch}"))
    for name, cls in METHODS.items()
    for preset in cls.PRESETS
    for branch in (range(len(create(name, preset).methods)) if name == "choice" else [None])
]
every_method = pytest.mark.parametrize(("name", "preset", "branch"), CASES)


def make_vit(**kwargs) -> Network:
    """A ViT of one narrow block on 4-pixel patches, for any image size."""
    torch.manual_seed(0)
    arguments = {
        "img_size": 16,
        "patch_size": PATCH,
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 2,
        "dynamic_img_size": True,
    }
    return models.create("vit_tiny_patch16_224", num_classes=CLASSES, **arguments | kwargs).train()


def make_cnn() -> Network:
    """A narrow ResNet with batch norm; no class attention."""
    torch.manual_seed(0)
    return models.create("resnet10_cifar", num_classes=CLASSES, channels=(4, 4, 8, 8)).train()


@functools.cache
def shared_vit() -> Network:
    """For tests that leave the network as it is."""
    return make_vit()


@functools.cache
def shared_cnn() -> Network:
    """The same in evaluation mode: in training mode, a pass would change what the next one gives."""
    return make_cnn().eval()


@functools.cache
def score_teacher() -> Network:
    """A ResNet with class activation maps of both signs."""
    net = make_cnn().eval()
    with torch.no_grad():
        net.model.fc.weight.mul_(50)
    return net


@functools.cache
def score_maps() -> str:
    """A folder with a score map for each of the images "0", "1", ..."""
    folder = Path(tempfile.mkdtemp(prefix="evalkit-maps-"))
    for i in range(8):
        np.savez(folder / f"{i}.npz", map=np.random.default_rng(i).random((4, 4)))
    return str(folder)


@functools.cache
def teacher() -> TeacherNet:
    """Sees the colours of an image."""
    head = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(3)) * 20
    return TeacherNet(lambda x: x[:, :, ::4, ::4], lambda x: x.mean((2, 3)) @ head, CLASSES)


class Case:
    def __init__(
        self,
        name: str,
        preset: str,
        branch: int | None,
        batch: int = 6,
        size: tuple[int, int] = (16, 16),
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format,
        images: Tensor | None = None,
        labels: Tensor | None = None,
        net: Callable[[], Network] = shared_vit,
    ):
        fixed = METHODS[name].PRESETS[preset]
        cls = METHODS[name]
        given = {k: v for k, v in cls.small.items() if k not in fixed or fixed[k] > v}
        given |= {k: teacher() for k, v in cls.stand_in.items() if v is TEACHER}
        made = {"network": score_teacher, "maps": score_maps}  # what a teacher of score maps is made of
        given |= {k: make() for k, make in made.items() if k in arguments(cls)}
        whole = {k: p.default for k, p in arguments(cls).items()} | fixed | given
        idle = {k for k, (other, values) in cls.counts_with.items() if whole[other] not in values}
        given = {k: v for k, v in given.items() if k not in idle}
        if cls.takes == "cnn" and net in (shared_vit, make_vit):
            net = shared_cnn if net is shared_vit else make_cnn
        method = create(name, preset, **given)
        if name == "choice":
            for child in method.modules():
                if hasattr(child, "scale"):
                    child.scale = 2  # the images are 16 pixels wide
        self.name = name
        self.draws = {} if branch is None else {"branch": branch}
        self.net = net()
        torch.manual_seed(0)
        self.method = method.pick(context(draws=self.draws))
        self.method.setup(self.net)
        if self.net.patch_size is None and getattr(self.method, "scale", None):
            self.method.cell = 8
        images = torch.randn(batch, 3, *size) if images is None else images
        self.x = images.to(dtype).contiguous(memory_format=layout)
        self.y = torch.arange(batch) % CLASSES if labels is None else labels

    def context(self, seed: int = 0) -> Context:
        extras = {name: self.extra(make, seed) for name, make in self.method.loader_extras.items()}
        return context(CLASSES, seed, smoothing=0.1, draws=self.draws, step=3, total_steps=10, extras=extras)

    def extra(self, make: Callable, seed: int) -> Tensor:
        """What the loader would make of the batch."""
        pixels = (self.x.float() * 60 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        images = [Image.fromarray(image) for image in pixels]
        for i, image in enumerate(images):
            image.info = {"id": str(i), "view": View(0, 0, 1, 1, False)}
        made = [make(image, np.random.default_rng([seed, i])) for i, image in enumerate(images)]
        return torch.stack(made).to(self.x.device)  # as the loop uploads it with the images

    def forward(self, mixed: Mixed):
        return self.net(
            mixed.x.float(), attention=self.method.attention, features=self.method.features, inject=mixed.inject
        )

    def mix(self, seed: int = 0):
        """(mixed batch, network output, label weights after the forward pass)."""
        ctx = self.context(seed)
        mixed = self.method.mix(ctx, self.x, self.y, self.net)
        with torch.no_grad():
            out = self.forward(mixed)
            return mixed, out, self.method.relabel(ctx, mixed, self.y, out)

    @property
    def shuffles(self) -> bool:
        """Whether patches leave their places: neither a blend nor itself for identical images."""
        return bool(getattr(self.method, "shuffle", None))

    @property
    def rows_sum_to_one(self) -> bool:
        return self.method.row_sum is not None
