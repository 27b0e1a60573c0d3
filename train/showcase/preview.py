"""One picture of what methods do: mixed samples, their masks, a sweep of lambda, and under each image the label shares
it is trained on."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from evalkit import plots
from evalkit.data.transforms import EvalTransform
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.runtime import derive_rng, write_atomic

from ..mixups import Context, MixMethod
from . import stand_in

SIZE = 224
SWEEP = (0.1, 0.3, 0.5, 0.7, 0.9)
CHARACTERS = 28  # as many fit under an image
# what is drawn once for all of a method's pictures: alignmix and manifold show the image, puzzlemix its finest grid
SETTLED = {"layer": 0, "grid": 8}


@dataclass(frozen=True)
class Picture:
    pixels: np.ndarray  # (S, S, 3) uint8
    mask: np.ndarray | None  # (S, S) share of the own image
    shares: np.ndarray  # (B,) label shares
    title: str

    def caption(self, names: list[str]) -> str:
        """The label shares in words, for example 'china 63 % · flower 37 %'."""
        return " · ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, self.shares) if share > 0.0005)


class Noting(Context):
    """A context that keeps in `draws` what was drawn, except draws made of other draws, which are made anew when those
    change."""

    def draw(self, name: str, sample: Any) -> Any:
        before = set(self.draws)
        value = super().draw(name, sample)
        if set(self.draws) == before:
            self.draws[name] = value
        return value


def save(images: list[Path], names: str | None, out: Path) -> list[str]:
    """Write the sheet of the methods `names` (with commas; default all) to `out`, .png or .html; returns lines about
    what was left out.

    Two images or more are centre-cropped to 224 pixels; by default two photographs. Networks that a method needs are
    small and random.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise EvalkitError(f"--out is a .png or an .html file, but got {out}")
    chosen = stand_in.chosen(names)
    labels, pixels = load(images)
    net = stand_in.network(SIZE, max(len(labels), 2))
    rows, notes = {}, []
    for name in chosen:
        if name in stand_in.LEFT_OUT:
            notes.append(f"left out: {stand_in.LEFT_OUT[name]}")
            continue
        own = stand_in.suited(name, net)
        rows[name] = pictures(name, stand_in.method(name, own), pixels, own)
    if not rows:
        raise EvalkitError("; ".join(notes))
    png = plots.png(draw(labels, pixels, rows))
    content = png if out.suffix.lower() == ".png" else page(labels, rows, png).encode()
    write_atomic(out, lambda f: f.write(content))
    return notes


def load(paths: list[Path]) -> tuple[list[str], Tensor]:
    """Names and uint8 pixels (B, 3, S, S) of image files, or of the two photographs if there are none."""
    from evalkit.data.embedded import photos
    from evalkit.data.images import decode

    if len(set(paths)) == 1:
        raise EvalkitError("mixing takes two different images or more; give another one, or none for two photographs")
    images = {
        path.stem if [p.stem for p in paths].count(path.stem) == 1 else str(path): decode(path, str(path))
        for path in paths
    } or photos()
    crop = EvalTransform(SIZE, SIZE)
    return list(images), torch.stack([crop(image) for image in images.values()])


@torch.no_grad()
def pictures(name: str, method: MixMethod, pixels: Tensor, net: Network) -> list[Picture]:
    """A free draw, then lambda at the values of SWEEP with everything else as drawn; five more draws if the method
    draws no lambda."""
    first, draws = picture(name, method, pixels, net, 0, {}, "a draw")
    if "lam" not in draws:
        return [first] + [
            picture(name, method, pixels, net, seed, {}, "a draw")[0] for seed in range(1, 1 + len(SWEEP))
        ]
    sweep = [np.full(np.shape(draws["lam"]), value) if np.ndim(draws["lam"]) else value for value in SWEEP]
    return [first] + [
        picture(name, method, pixels, net, 0, draws | {"lam": lam}, f"λ = {value}")[0]
        for lam, value in zip(sweep, SWEEP)
    ]


def picture(
    name: str, method: MixMethod, pixels: Tensor, net: Network, seed: int, draws: dict[str, Any], title: str
) -> tuple[Picture, dict[str, Any]]:
    """The last mixed sample of the first image, and what was drawn for it."""
    batch = len(pixels)
    rng = derive_rng("preview", name, seed)
    extras = {}
    for extra, make in method.loader_extras.items():
        extras[extra] = torch.stack([make(Image.fromarray(image.permute(1, 2, 0).numpy()), rng) for image in pixels])
    settled = {"partner": np.roll(np.arange(batch), -1), **SETTLED}
    simple = Context.simple(
        net.num_classes, rng, mean=net.mean, std=net.std, extras=extras, total_steps=2, step=1, draws=settled | draws
    )
    ctx = Noting(**{field: getattr(simple, field) for field in Context.__slots__})
    std, mean = (v[:, None, None] for v in (ctx.std, ctx.mean))
    x, y = (pixels / 255 - mean) / std, torch.arange(batch)
    mixed = method.mix(ctx, x, y, net)
    out = net(mixed.x, attention=method.attention, inject=mixed.inject)
    weights = method.relabel(ctx, mixed, y, out)
    row = (len(mixed.x) - 1) // batch * batch
    seen, mask = mixed.x, mixed.mask
    if mixed.inject is not None and mask is not None:  # mixed inside the network: shown as if in the image
        seen = mask * x + (1 - mask) * x[mixed.partner]
    shown = ((seen[row] * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    mask = None if mask is None else mask[row, 0].numpy()
    return Picture(shown, mask, weights[row].numpy(), title), {k: v for k, v in ctx.draws.items() if k not in settled}


def draw(names: list[str], pixels: Tensor, rows: dict[str, list[Picture]]) -> Figure:
    """The sheet: originals on top, then for each method a sample, its mask and the sweep."""
    # the end tells files apart, and "100 %" follows
    names = [name if len(name) <= CHARACTERS - 6 else f"…{name[7 - CHARACTERS :]}" for name in names]

    def caption(item: Picture) -> str:
        text = item.caption(names)
        return text if len(text) <= CHARACTERS else text.replace(" · ", "\n")

    columns = max(2 + len(SWEEP), len(names))
    more = max(caption(item).count("\n") for cells in rows.values() for item in cells) * 0.12  # inches
    cell, gap, left, top, bottom = 1.5, 0.36 + more, 1.5, 0.2, 0.25 + more  # inches
    width, height = left + (cell + 0.08) * columns + 0.1, top + (cell + gap) * (len(rows) + 1) - gap + bottom
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(len(rows) + 1, columns, squeeze=False)
    margins = {"left": left / width, "right": 1 - 0.1 / width, "top": 1 - top / height, "bottom": bottom / height}
    figure.subplots_adjust(**margins, wspace=0.08 / cell, hspace=gap / cell)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, name, image in zip(axes[0], names, pixels):
        show(ax, image.permute(1, 2, 0).numpy(), "", name)
    axes[0, 0].text(
        -0.08, 0.5, "originals", transform=axes[0, 0].transAxes, ha="right", va="center", fontsize=9, weight="bold"
    )
    for line, (name, cells) in zip(axes[1:], rows.items()):
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9, weight="bold")
        first, *sweep = cells
        show(line[0], first.pixels, first.title, caption(first))
        if first.mask is None:
            line[1].text(
                0.5,
                0.5,
                "no one mask",
                transform=line[1].transAxes,
                ha="center",
                va="center",
                fontsize=6.5,
                color=plots.GREY,
            )
        else:
            show(line[1], first.mask, "its mask", f"{100 * first.mask.mean():.0f} % own", cmap="gray", vmin=0, vmax=1)
        for ax, item in zip(line[2:], sweep):
            show(ax, item.pixels, item.title, caption(item))
    return figure


def show(ax: Any, image: np.ndarray, title: str, caption: str, **kwargs: Any) -> None:
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_color(plots.LIGHT)
    ax.imshow(image, interpolation="nearest", **kwargs)
    ax.set_title(title, fontsize=6.5, pad=2, color=plots.GREY)
    # a file's name may hold $ signs
    ax.text(0.5, -0.03, caption, transform=ax.transAxes, ha="center", va="top", fontsize=6.5, parse_math=False)


def page(names: list[str], rows: dict[str, list[Picture]], png: bytes) -> str:
    """The sheet and its label shares as one HTML page."""
    lines = []
    for name, cells in rows.items():
        shares = "".join(f"<td>{escape(item.title)}: {escape(item.caption(names))}</td>" for item in cells)
        lines.append(f"<tr><th>{escape(name)}</th>{shares}</tr>")
    style = (
        "body{font:14px sans-serif;margin:2em}img{max-width:100%}td,th{padding:.2em"
        " .8em;text-align:left;border-bottom:1px solid #d9dce1}"
    )
    image = (
        f'<img alt="mixed samples of {escape(", ".join(rows))}"'
        f' src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>evalkit mixups</title><style>{style}</style>'
        f"<h1>Mixups</h1>{image}<h2>Label shares</h2><table>{''.join(lines)}</table></html>\n"
    )
