"""Sheets to look at: images, the truth, and what was predicted, side by side."""

import colorsys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

IGNORE = 255
NAMED = 24  # classes in a legend, those of most pixels
COLUMNS = ("image", "truth", "prediction")


class Objects(NamedTuple):
    """Objects of an image.

    Args:
        boxes: (n, 4): left, top, right, bottom in pixels.
        masks: (n, H, W) bool, the pixels of each; None: boxes alone.
        labels: (n,) indices of classes.
        scores: (n,) confidences; None: the truth.
    """

    boxes: np.ndarray
    masks: np.ndarray | None
    labels: np.ndarray
    scores: np.ndarray | None = None


def segmentation(samples: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str]) -> Figure:
    """Images with true and predicted labels beside them. A class called background stays bare, pixels that do not count
    (255) are black.

    Args:
        samples: Image (H, W, 3) uint8, true and predicted labels (H, W), of each row.
        classes: Names of the classes.
    """
    bare = [i for i, name in enumerate(classes) if name == "background"]

    def draw(ax: Axes, image: np.ndarray, labels: np.ndarray) -> None:
        shown = image.astype(np.float64)
        for label in np.setdiff1d(labels, [*bare, IGNORE]):
            where = labels == label
            shown[where] = 0.25 * shown[where] + 0.75 * 255 * np.array(colour(label))
        shown[labels == IGNORE] = 0
        _show(ax, shown.astype(np.uint8))

    figure = _grid(samples, draw)
    pixels = np.bincount(
        np.concatenate([labels.ravel() for _, *both in samples for labels in both]), minlength=IGNORE + 1
    )
    pixels[[*bare, IGNORE]] = 0
    named = sorted(np.argsort(-pixels, kind="stable")[: min(NAMED, np.count_nonzero(pixels))])
    _legend(figure, [Patch(color=colour(label), label=_plain(classes[label])) for label in named])
    return figure


def detection(
    samples: Sequence[tuple[np.ndarray, Objects, Objects]], classes: Sequence[str], threshold: float = 0.5
) -> Figure:
    """Images with true and predicted objects beside them.

    Args:
        samples: Image (H, W, 3) uint8, true and predicted objects, of each row.
        classes: Names of the classes.
        threshold: The score from which on a predicted object is shown.
    """

    def draw(ax: Axes, image: np.ndarray, objects: Objects) -> None:
        scores = np.ones(len(objects.labels)) if objects.scores is None else objects.scores
        order = [i for i in np.argsort(scores, kind="stable") if scores[i] >= threshold]  # the surest on top
        shown = image.astype(np.float64)
        masks = objects.masks
        for i in order if masks is not None else ():
            assert masks is not None
            shown[masks[i]] = 0.5 * shown[masks[i]] + 0.5 * 255 * np.array(colour(objects.labels[i]))
        _show(ax, shown.astype(np.uint8))
        for i in order:
            left, top, right, bottom = objects.boxes[i]
            tone = colour(objects.labels[i])
            ax.add_patch(
                Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=tone, linewidth=1)
            )
            text = _plain(classes[objects.labels[i]]) + ("" if objects.scores is None else f" {100 * scores[i]:.0f}")
            label = {"facecolor": tone, "edgecolor": "none", "pad": 0.6}
            above = "bottom" if top > 0.08 * len(image) else "top"  # below its line where there is no room above
            ax.text(left - 0.5, top - 0.5, text, fontsize=5, color="black", va=above, clip_on=True, bbox=label)

    return _grid(samples, draw)


def colour(label: int) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1] of a class: hues far apart for neighbours, light enough for black text."""
    return colorsys.hsv_to_rgb(
        0.61803398875 * int(label) % 1, 0.55 + 0.2 * (int(label) % 3 == 1), 1.0 - 0.12 * (int(label) % 2)
    )


def _grid(samples: Sequence[tuple[np.ndarray, Any, Any]], draw: Callable[[Axes, np.ndarray, Any], None]) -> Figure:
    """Two samples to a row, each as image, truth and prediction."""
    if not samples:
        raise ValueError("Expected argument `samples` to hold at least one sample, but got none")
    across = min(2, len(samples))
    rows = -(-len(samples) // across)
    figure = Figure(figsize=(5.1 * across, 1.75 * rows + 0.4), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, hspace=0.02, wspace=0.02)
    axes = figure.subplots(rows, 3 * across, squeeze=False).reshape(-1, 3)
    for ax in axes.ravel():
        ax.set_axis_off()
    for k, ((image, truth, predicted), (plain, true, found)) in enumerate(zip(samples, axes)):
        _show(plain, image)
        draw(true, image, truth)
        draw(found, image, predicted)
        if k < across:
            for ax, title in zip((plain, true, found), COLUMNS):
                ax.set_title(title, fontsize=9)
    return figure


def _show(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, interpolation="nearest" if max(image.shape[:2]) <= 160 else "antialiased")


def _legend(figure: Figure, handles: list[Patch]) -> None:
    if handles:
        columns = min(len(handles), 8)
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // columns))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, fontsize=7, frameon=False, handlelength=1.2
        )


def _plain(name: str) -> str:
    """A class name with nothing Matplotlib would take for mathematics, nor hide for a leading underscore."""
    return " " + " ".join(name.split())[:20].replace("$", r"\$")
