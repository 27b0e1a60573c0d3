"""What each method does to two photographs, made by the code of `evalkit mixup preview` when the site is built."""

import functools
import io

import torch
from PIL import Image
from torch import Tensor

from evalkit.train.mixups import METHODS
from evalkit.train.showcase import preview, stand_in
from evalkit.train.showcase.preview import Look
from evalkit.train.showcase.sheet import Picture

from .markup import safe

SWEEP = (0.3, 0.5, 0.7)
QUALITY = 85  # of JPEG
Shown = list[tuple[str, str, bytes]]  # file, caption, content


@functools.cache
def photographs() -> tuple[list[str], Tensor]:
    """Names and pixels of the two that come with scikit-learn."""
    return preview.load([])[:2]


@functools.cache
def shown(name: str) -> tuple[Shown, str]:
    """The pictures of a method, and a sentence on the network that it asked."""
    labels, pixels = photographs()
    network = stand_in.suited(name, stand_in.network(preview.SIZE, len(labels)))
    method = stand_in.method(name, network)
    made = preview.pictures(name, method, pixels, network, look=Look(lambdas=SWEEP))
    found = [(f"{name}-{i}.jpg", f"{p.title}: {p.caption(labels)}", jpeg(p.pixels)) for i, p in enumerate(made)]
    mask = made[0].mask
    if mask is not None:
        content = jpeg((255 * mask).round().astype("uint8"))
        found.insert(1, (f"{name}-mask.jpg", f"its mask: {100 * mask.mean():.0f} % own", content))
    return found, asked(name, made, bool(method.asks))


def asked(name: str, made: list[Picture], learned: bool) -> str:
    """What a reader should know of the pictures.

    Args:
        name: The method.
        made: Its pictures.
        learned: Whether it has a mix block.
    """
    said = "λ as drawn, then set, everything else as drawn." if "λ" in made[-1].title else "Several draws."
    if learned:
        return f"{said} The mix block is untrained; `evalkit mixup preview --checkpoint RUN` shows a trained one."
    if METHODS[name].needs:
        return f"{said} What it asks a network is answered by a small one with random weights."
    return said


def jpeg(pixels: object) -> bytes:
    """A file of an image (H, W, 3) or (H, W), uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)  # type: ignore[arg-type]
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """File below methods/ -> content, of every method and of the photographs."""
    labels, pixels = photographs()
    originals = zip(labels, pixels.permute(0, 2, 3, 1).numpy())
    made = {f"original-{label}.jpg": jpeg(image) for label, image in originals}
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are tiny
    try:
        for name in METHODS:
            made |= {file: content for file, _, content in shown(name)[0]}
    finally:
        torch.set_num_threads(before)
    return made


def strip(name: str) -> str:
    """The pictures of a method, as Markdown for its page."""
    found, said = shown(name)
    return gallery([(file, caption, f"{name}, {caption}") for file, caption, _ in found]) + f"\n\n{said}"


def originals() -> str:
    """The photographs before they are mixed, as Markdown for the index."""
    labels, _ = photographs()
    return gallery([(f"methods/original-{label}.jpg", label, f"the photograph {label}") for label in labels])


def gallery(items: list[tuple[str, str, str]]) -> str:
    """Pictures side by side.

    Args:
        items: File, caption and description of each.
    """
    figures = [f":::{{figure}} {file}\n:alt: {alt}\n\n{safe(caption)}\n:::" for file, caption, alt in items]
    return "::::{container} pictures\n" + "\n\n".join(figures) + "\n::::"
