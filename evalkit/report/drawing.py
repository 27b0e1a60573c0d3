"""A figure of a report, and its files."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import plots

PIXELS_PER_INCH = 110  # of a figure on the page: one scale for all, so that their text is of one size


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Args:
        name: Of its file, without suffix.
        title: Its heading.
        caption: What is drawn.
        png: Its bytes; None: nothing could be drawn.
        left_out: Labels of runs that it does not show, and why.
        half: Half the width of the page.
        figure: Matplotlib's, where it was drawn here: for other formats.
    """

    name: str
    title: str
    caption: str
    png: bytes | None
    left_out: list[str]
    half: bool = False
    figure: Any = None

    @cached_property
    def vectors(self) -> dict[str, bytes]:
        """Format -> file, for what is drawn here; once, as Matplotlib moves a layout a little each time it draws."""
        return {} if self.figure is None else {format: plots.vector(self.figure, format) for format in plots.VECTOR}

    @property
    def uri(self) -> str:
        """The picture as a data: address: SVG where lines are drawn, PNG where photographs are shown."""
        if self.figure is not None and not any(ax.images for ax in self.figure.axes):
            return "data:image/svg+xml;base64," + base64.b64encode(self.vectors["svg"]).decode()
        return "data:image/png;base64," + base64.b64encode(self.png or b"").decode()

    @property
    def width(self) -> int:
        """CSS pixels, from the header of the PNG."""
        return round(int.from_bytes((self.png or b"")[16:20], "big") / plots.DPI * PIXELS_PER_INCH)


def files(drawings: Sequence[Drawing], folder: Path) -> dict[Path, bytes]:
    """Every drawing as PNG, and as SVG and PDF where it is drawn here, by the path of its file.

    Args:
        drawings: All of a report.
        folder: Where its figures lie.
    """
    found = {folder / f"{d.name}.png": d.png for d in drawings if d.png is not None}
    for d in drawings:
        found |= {folder / f"{d.name}.{format}": content for format, content in d.vectors.items()}
    return found
