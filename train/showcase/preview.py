"""What methods do to a few images: mixed samples, their masks, a sweep of lambda, the label shares they are trained on
and where the class attention looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evalkit import plots
from evalkit.data.loading import made
from evalkit.data.transforms import EvalTransform
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.models.attention import has_class_attention
from evalkit.runtime import derive_rng, write_atomic

from ..mixups import Context, MixMethod
from ..mixups.base import checked_mix, checked_pick, checked_relabel
from . import sheet, stand_in, trained
from .sheet import Picture, Row

SIZE = 224
SWEEP = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Look:
    """What is shown of each method.

    Args:
        lambdas: Values of lambda that are shown beside the free draw.
        pairs: Every image with its partner instead of the first one alone.
        attention: The class attention beneath each mixed sample.
    """

    lambdas: Sequence[float] = SWEEP
    pairs: bool = False
    attention: bool = False


class Noting(Context):
    """A context that keeps in `draws` what was drawn, except draws made of other draws, which are made anew when those
    change."""

    def draw(self, name: str, sample: Any) -> Any:
        kept: Any = self.draws
        before = set(kept)
        value = super().draw(name, sample)
        if set(kept) == before:
            kept[name] = value
        return value


def save(
    images: list[Path], names: str | None, out: Path, checkpoint: str | None = None, look: Look | None = None
) -> list[str]:
    """Write the sheet of the methods `names` to `out`, .png or .html; returns lines about what a reader should know.

    Args:
        images: Two images or more, centre-cropped to the network's size; two photographs if there are none.
        names: Methods with commas, "module:Class" too; all, or with a checkpoint the one it was trained with.
        out: A .png or .html file.
        checkpoint: A run or checkpoint folder whose network and learned mix block are shown; without one, networks that
            a method needs are small and random.
        look: What is shown of each method.

    Raises EvalkitError for anything that cannot be drawn.
    """
    look = look or Look()
    if out.suffix.lower() not in (".png", ".html"):
        raise EvalkitError(f"--out is a .png or an .html file, but got {out}")
    if not look.lambdas or not all(0 <= value <= 1 for value in look.lambdas):
        raise EvalkitError(f"--lambdas are numbers between 0 and 1, but got {list(look.lambdas)}")
    run = None if checkpoint is None else trained.load(checkpoint, torch.device("cpu"), names or "")
    chosen = [run.name] if run is not None and names is None else stand_in.chosen(names)
    labels, pixels, notes = load(images, SIZE if run is None else run.net.input_size[0])
    net = stand_in.network(SIZE, max(len(labels), 2)) if run is None else run.net
    classes = None if run is None else run.classes(pixels)
    shown = range(len(labels) if look.pairs else 1)
    rows = []
    for name in chosen:
        own = stand_in.suited(name, net) if run is None else net
        try:
            method = stand_in.method(name, own) if run is None else run.named(name)
            lines = [pictures(name, method, pixels, own, first, classes, look) for first in shown]
        except EvalkitError as e:
            notes.append(f"left out: {name}: {e}")
            continue
        if method.asks and (run is None or name != run.name):
            notes.append(f"{name}: its mix block is untrained; --checkpoint RUN shows a trained one")
        for first, cells in zip(shown, lines):
            rows.append(Row(f"{name}\n{labels[first]}" if look.pairs else name, cells, look.attention))
    if look.attention and run is None:
        notes.append("the class attention is that of a random network; --checkpoint RUN shows a trained one's")
    if not rows:
        raise EvalkitError("; ".join(notes))
    png = plots.png(sheet.draw(labels, pixels, rows))
    content = png if out.suffix.lower() == ".png" else sheet.page(labels, rows, png).encode()
    write_atomic(out, lambda f: f.write(content))
    return notes


def load(paths: list[Path], size: int = SIZE) -> tuple[list[str], Tensor, list[str]]:
    """Names and uint8 pixels (B, 3, S, S) of image files, or of the two photographs if there are none, and what their
    decoder did silently.

    Args:
        paths: Image files; none: the two photographs.
        size: S, pixels per side.
    """
    from evalkit.data.embedded import photos
    from evalkit.data.images import decode

    if len(set(paths)) == 1:
        raise EvalkitError("mixing takes two different images or more; give another one, or none for two photographs")
    images = {
        path.stem if [p.stem for p in paths].count(path.stem) == 1 else str(path): decode(path, str(path))
        for path in paths
    } or photos()
    crop = EvalTransform(size, size)
    notes = [f"{name}: {note}" for name, image in images.items() for note in image.info.get("notes", [])]
    return list(images), torch.stack([crop(image) for image in images.values()]), notes


@torch.no_grad()
def pictures(
    name: str,
    method: MixMethod,
    pixels: Tensor,
    net: Network,
    first: int = 0,
    labels: Tensor | None = None,
    look: Look | None = None,
) -> list[Picture]:
    """Of one image: a free draw, then lambda at some values with everything else as drawn; as many more draws if the
    method draws no lambda.

    Args:
        name: The method, as the sheet calls it.
        method: It, set up with `net`.
        pixels: Images (B, 3, S, S) uint8.
        net: The network that answers the method.
        first: Which image.
        labels: The images' classes, (B,); None: one for each.
        look: What is shown; None: the usual.
    """
    look = look or Look()
    shown = Subject(name, method, pixels, net, first, torch.arange(len(pixels)) if labels is None else labels, look)
    free, draws = shown.picture(0, {}, "a draw")
    if "lam" not in draws:
        return [free] + [shown.picture(seed, {}, "a draw")[0] for seed in range(1, 1 + len(look.lambdas))]
    sweep = [np.full(np.shape(draws["lam"]), v) if np.ndim(draws["lam"]) else v for v in look.lambdas]
    return [free] + [
        shown.picture(0, draws | {"lam": lam}, f"λ = {value:g}")[0] for lam, value in zip(sweep, look.lambdas)
    ]


@dataclass(frozen=True)
class Subject:
    """A method about to mix images, of which the mixed sample of one is looked at.

    Args:
        name: The method, as the sheet calls it.
        method: It, set up with `net`.
        pixels: Images (B, 3, S, S) uint8.
        net: The network that answers the method.
        first: Which image is looked at.
        labels: The images' classes, (B,).
        look: What is shown.
    """

    name: str
    method: MixMethod
    pixels: Tensor
    net: Network
    first: int
    labels: Tensor
    look: Look

    def context(self, seed: int, draws: dict[str, Any]) -> Context:
        """Every image is mixed with the next; what else is drawn is kept in `draws`."""
        rng, net = derive_rng("preview", self.name, seed), self.net
        extras = {
            extra: torch.stack(
                [made(extra, make, Image.fromarray(image.permute(1, 2, 0).numpy()), rng) for image in self.pixels]
            )
            for extra, make in self.method.loader_extras.items()
        }
        simple = Context.simple(
            net.num_classes, rng, mean=net.mean, std=net.std, extras=extras, total_steps=2, step=1, draws=draws
        )
        return Noting(**{field: getattr(simple, field) for field in Context.__slots__})

    def picture(self, seed: int, draws: dict[str, Any], title: str) -> tuple[Picture, dict[str, Any]]:
        """The last mixed sample of the image, and what was drawn for it."""
        batch = len(self.pixels)
        settled = {"partner": np.roll(np.arange(batch), -1)} | {
            draw: value for m in self.method.modules() if isinstance(m, MixMethod) for draw, value in m.settled.items()
        }
        ctx = self.context(seed, settled | draws)
        std, mean = (v[:, None, None] for v in (ctx.std, ctx.mean))
        x = (self.pixels / 255 - mean) / std
        y = self.labels
        method = checked_pick(self.method, ctx)
        mixed = checked_mix(method, ctx, x, y, self.net)
        out = self.net(mixed.x, attention=method.attention, features=method.features, inject=mixed.inject)
        weights = checked_relabel(method, ctx, mixed, y, out)
        row = (len(mixed.x) - 1) // batch * batch + self.first
        row = row if row < len(mixed.x) else self.first % len(mixed.x)
        seen, mask = mixed.x, mixed.mask
        if mixed.inject is not None and mask is not None:  # mixed inside the network: shown as if in the image
            seen = mask * x + (1 - mask) * x[mixed.partner]
        shown = ((seen[row] * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        item = Picture(
            shown,
            None if mask is None else mask[row, 0].numpy(),
            weights[row].numpy(),
            title,
            self.looks(seen[row : row + 1]),
        )
        return item, {k: v for k, v in (ctx.draws or {}).items() if k not in settled}

    def looks(self, x: Tensor) -> np.ndarray | None:
        """(rows, columns) class attention of one image, if it is to be shown and the network has one."""
        if not self.look.attention or not has_class_attention(self.net.model):
            return None
        attention, grid = self.net.class_attention(x)
        return attention[0].reshape(grid).numpy()
