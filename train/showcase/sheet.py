"""The sheet of mixed samples: originals on top, then for each method a sample, its mask and the sweep, under each image
its label shares, and beneath the class attention."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from evalkit import plots
from evalkit.text import plain

CHARACTERS = 28  # as many fit under an image
CELL, LEFT, TOP = 1.5, 1.5, 0.2  # inches


@dataclass(frozen=True)
class Picture:
    """A mixed sample as the sheet shows it.

    Args:
        pixels: (S, S, 3) uint8.
        mask: (S, S) share of the own image.
        shares: (B,) label shares.
        title: How it was drawn, in words.
        attention: (rows, columns) class attention of the mixed sample.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    shares: np.ndarray
    title: str
    attention: np.ndarray | None = None

    def caption(self, names: list[str]) -> str:
        """The label shares in words, for example 'china 63 % · flower 37 %'."""
        return " · ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, self.shares) if share > 0.0005)


@dataclass(frozen=True)
class Row:
    """A method, or one pair of images that it mixes: a free draw first, then the sweep.

    Args:
        name: The method, as the sheet calls it.
        cells: The free draw and the sweep.
        attention: The class attention of the cells in a line beneath.
    """

    name: str
    cells: list[Picture]
    attention: bool = False


def draw(names: list[str], pixels: Tensor, rows: list[Row]) -> Figure:
    """The sheet of some images and how methods mix them.

    Args:
        names: What the images are called.
        pixels: Images (B, 3, S, S) uint8.
        rows: The mixed samples.
    """
    # the end tells files apart, and "100 %" follows
    names = [name if len(name) <= CHARACTERS - 6 else f"…{name[7 - CHARACTERS :]}" for name in names]
    lines = sum(1 + row.attention for row in rows)
    columns = max(1 + len(rows[0].cells), len(names))
    more = max(wrapped(item, names).count("\n") for row in rows for item in row.cells) * 0.12  # inches
    gap, bottom = 0.36 + more, 0.25 + more
    width, height = LEFT + (CELL + 0.08) * columns + 0.1, TOP + (CELL + gap) * (lines + 1) - gap + bottom
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(lines + 1, columns, squeeze=False)
    margins = {"left": LEFT / width, "right": 1 - 0.1 / width, "top": 1 - TOP / height, "bottom": bottom / height}
    figure.subplots_adjust(**margins, wspace=0.08 / CELL, hspace=gap / CELL)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, name, image in zip(axes[0], names, pixels):
        _show(ax, image.permute(1, 2, 0).numpy(), "", name)
    _heading(axes[0, 0], "originals")
    free = iter(axes[1:])
    for row in rows:
        mixed(next(free), row, names)
        if row.attention:
            attended(next(free), row)
    return figure


def mixed(line: np.ndarray, row: Row, names: list[str]) -> None:
    """The sample, its mask and the sweep of a row.

    Args:
        line: The axes of one line.
        row: What goes there.
        names: What the images are called.
    """
    _heading(line[0], row.name)
    first, *sweep = row.cells
    _show(line[0], first.pixels, first.title, wrapped(first, names))
    if first.mask is None:
        _remark(line[1], "no one mask")
    else:
        _show(line[1], first.mask, "its mask", f"{100 * first.mask.mean():.0f} % own", cmap="gray", vmin=0, vmax=1)
    for ax, item in zip(line[2:], sweep):
        _show(ax, item.pixels, item.title, wrapped(item, names))


def attended(line: np.ndarray, row: Row) -> None:
    """Where the class attention looks in the images of the line above, bright for much, each by its own maximum.

    Args:
        line: The axes of the line beneath.
        row: What goes there.
    """
    _heading(line[0], "class attention", weight="normal")
    for ax, item in zip([line[0], *line[2:]], row.cells):
        if item.attention is None:
            _remark(ax, "no class attention")
        else:
            extent = (0, item.pixels.shape[1], item.pixels.shape[0], 0)
            _show(ax, item.attention, "", "", cmap="inferno", vmin=0, extent=extent)


def wrapped(item: Picture, names: list[str]) -> str:
    """The label shares of a picture, on lines of their own where one line is too narrow.

    Args:
        item: The picture.
        names: What the images are called.
    """
    text = item.caption(names)
    return text if len(text) <= CHARACTERS else text.replace(" · ", "\n")


def _heading(ax: Any, text: str, weight: str = "bold") -> None:
    ax.text(
        -0.08, 0.5, text, transform=ax.transAxes, ha="right", va="center", fontsize=9, weight=weight, parse_math=False
    )


def _remark(ax: Any, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=6.5, color=plots.GREY)


def _show(ax: Any, image: np.ndarray, title: str, caption: str, **kwargs: Any) -> None:
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_color(plots.LIGHT)
    ax.imshow(image, interpolation="nearest", **kwargs)
    ax.set_title(title, fontsize=6.5, pad=2, color=plots.GREY)
    ax.text(0.5, -0.03, caption, transform=ax.transAxes, ha="center", va="top", fontsize=6.5, parse_math=False)


def page(names: list[str], rows: list[Row], png: bytes) -> str:
    """The sheet and its label shares as one HTML page.

    Args:
        names: What the images are called.
        rows: The mixed samples, for their shares.
        png: The sheet as a PNG file's bytes.
    """
    style = (
        "body{font:14px sans-serif;margin:2em}img{max-width:100%}td,th{padding:.2em"
        " .8em;text-align:left;border-bottom:1px solid #d9dce1}"
    )
    image = (
        f'<img alt="mixed samples of {_shown(", ".join(row.name for row in rows))}"'
        f' src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>evalkit mixups</title><style>{style}</style>'
        f"<h1>Mixups</h1>{image}<h2>Label shares</h2><table>{''.join(shares(names, rows))}</table></html>\n"
    )


def _shown(text: str) -> str:
    """Text as the page shows it, line by line."""
    return escape("\n".join(map(plain, text.split("\n"))))


def shares(names: list[str], rows: list[Row]) -> Iterator[str]:
    """The label shares as lines of an HTML table.

    Args:
        names: What the images are called.
        rows: The mixed samples.
    """
    for row in rows:
        cells = "".join(f"<td>{_shown(item.title)}: {_shown(item.caption(names))}</td>" for item in row.cells)
        yield f"<tr><th>{_shown(row.name)}</th>{cells}</tr>"
