"""The operations of RandAugment and colour jitter on a whole batch at once, on any device.

Each follows Pillow's arithmetic: its tables and blends in the same precision, its bicubic filter (a = -1), its
truncation. Results differ from Pillow's by one grey level where rounding falls the other way.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

NONE = "none"
# Each takes one number per image; those without one ignore it.
TABLES = ("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "brightness", "contrast")
BLENDS = ("color", "sharpness")
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (NONE, *TABLES, *BLENDS, *MOVES)


def augment(x: Tensor, operations: np.ndarray, values: np.ndarray, fill: tuple[int, ...], interpolation: str) -> Tensor:
    """What Pillow makes of the images `x` (B, 3, H, W) uint8, on their device.

    Args:
        x: images; they are left as they are.
        operations: (B, L) indices into `OPERATIONS`, applied from left to right.
        values: (B, L) float64, the argument of each: posterize keeps that many bits, solarize inverts from that level,
            solarize_add adds it below 128; factors of brightness, contrast, color and sharpness; degrees; shear;
            pixels to the left or up.
        fill: the colour of what is moved in.
        interpolation: bilinear or bicubic.
    """
    x = x.clone(memory_format=torch.contiguous_format)
    for layer in range(operations.shape[1]):
        names, arguments = np.array(OPERATIONS)[operations[:, layer]], values[:, layer]
        for group in (TABLES, BLENDS, MOVES):
            rows = np.flatnonzero(np.isin(names, group))
            if not len(rows):
                continue
            where = _upload(rows, x)
            chosen = x[where]
            if group is TABLES:
                changed = _tables(chosen, names[rows], arguments[rows])
            elif group is BLENDS:
                changed = _blends(chosen, names[rows], arguments[rows])
            else:
                changed = _moves(chosen, names[rows], arguments[rows], fill, interpolation)
            x.index_copy_(0, where, changed)
    return x


def _upload(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, non_blocking=True)


# ---- tables: a new value for each of the 256, per image and channel


def _tables(x: Tensor, names: np.ndarray, values: np.ndarray) -> Tensor:
    known = np.stack([_fixed_table(name, value) for name, value in zip(names, values)])
    tables = _upload(known, x)[:, None].repeat(1, x.shape[1], 1)  # (n, 3, 256)
    for name, measured in (("auto_contrast", _contrast_tables), ("equalize", _equal_tables), ("contrast", None)):
        rows = np.flatnonzero(names == name)
        if len(rows):
            where = _upload(rows, x)
            found = (
                measured(x[where]) if measured is not None else _around_mean(x[where], _upload(values[rows], x).float())
            )
            tables.index_copy_(0, where, found)
    return tables.gather(2, x.flatten(2).long()).view_as(x)


def _fixed_table(name: str, value: float) -> np.ndarray:
    """(256,) uint8 of an operation that does not look at the image; of the others, no change."""
    levels = np.arange(256)
    if name == "invert":
        levels = 255 - levels
    elif name == "posterize" and value < 8:
        levels = levels & (256 - 2 ** (8 - int(value)))
    elif name == "solarize":
        levels = np.where(levels < value, levels, 255 - levels)
    elif name == "solarize_add":
        levels = np.where(levels < 128, np.minimum(255, levels + int(value)), levels)
    elif name == "brightness":
        levels = np.clip(np.float32(value) * levels.astype(np.float32), 0, 255)
    return levels.astype(np.uint8)


def _contrast_tables(x: Tensor) -> Tensor:
    """Stretches the values in use to 0 ... 255."""
    low, high = (f(x.flatten(2), 2).double()[..., None] for f in (torch.amin, torch.amax))
    scale = torch.full_like(low, 255.0) / (high - low)  # a number over a tensor is rounded twice
    levels = torch.arange(256, device=x.device, dtype=torch.float64)
    return torch.where(high > low, levels * scale + -low * scale, levels).clamp(0, 255).to(torch.uint8)


def _equal_tables(x: Tensor) -> Tensor:
    """Makes the histogram even."""
    flat = x.flatten(2).long()
    counts = flat.new_zeros(*flat.shape[:2], 256).scatter_add_(2, flat, torch.ones_like(flat))
    highest = counts.gather(2, flat.amax(2, keepdim=True))  # how often the largest value occurs
    step = (flat.shape[2] - highest) // 255
    below = counts.cumsum(2) - counts
    levels = torch.arange(256, device=x.device)
    return torch.where(step > 0, (step // 2 + below) // step.clamp(min=1), levels).clamp(max=255).to(torch.uint8)


def _around_mean(x: Tensor, factor: Tensor) -> Tensor:
    """Moves the values away from the image's mean grey."""
    grey = _grey(x).flatten(1).long()
    mean = (2 * grey.sum(1) + grey.shape[1]) // (2 * grey.shape[1])
    levels = torch.arange(256, device=x.device, dtype=torch.float32)
    return _blend(mean[:, None].float(), levels, factor[:, None])[:, None].expand(-1, x.shape[1], -1)


def _grey(x: Tensor) -> Tensor:
    """(n, H, W) int32, ITU-R 601-2 luma in Pillow's fixed point."""
    red, green, blue = x.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _blend(a: Tensor, b: Tensor, factor: Tensor) -> Tensor:
    """`a` at factor 0, `b` at 1, beyond that further the same way; truncated."""
    return (a + factor * (b - a)).clamp(0, 255).to(torch.uint8)


# ---- blends with a picture made of the image


def _blends(x: Tensor, names: np.ndarray, values: np.ndarray) -> Tensor:
    out = torch.empty_like(x)
    for name, picture in (("color", lambda x: _grey(x)[:, None]), ("sharpness", _smooth)):
        rows = np.flatnonzero(names == name)
        if len(rows):
            where = _upload(rows, x)
            chosen, factor = x[where], _upload(values[rows], x).float().view(-1, 1, 1, 1)
            out.index_copy_(0, where, _blend(picture(chosen).float(), chosen.float(), factor))
    return out


def _smooth(x: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: the mean of 3 x 3 pixels, the middle one five times; the border stays."""
    out = x.int()
    height, width = x.shape[2:]
    total = 4 * out[:, :, 1:-1, 1:-1]
    for i in range(3):
        for j in range(3):
            total = total + out[:, :, i : height - 2 + i, j : width - 2 + j]
    out[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26
    return out


# ---- moves: every pixel is taken from somewhere else


def _moves(x: Tensor, names: np.ndarray, values: np.ndarray, fill: tuple[int, ...], interpolation: str) -> Tensor:
    """One gather of 16 pixels (bicubic) or 4 around each place."""
    _, _, height, width = x.shape
    matrices = np.array([_matrix(name, value, width, height) for name, value in zip(names, values)])
    a, b, c, d, e, f = _upload(matrices, x)[:, :, None, None].unbind(1)  # float64: a floor hangs on the last bits
    across = torch.arange(width, device=x.device, dtype=torch.float64) + 0.5
    down = torch.arange(height, device=x.device, dtype=torch.float64)[:, None] + 0.5
    u, v = a * across + b * down + c, d * across + e * down + f
    outside = (u < 0) | (u >= width) | (v < 0) | (v >= height)
    u, v = u - 0.5, v - 0.5
    left, top = u.floor(), v.floor()
    right_of, below = (u - left).float()[:, None], (v - top).float()[:, None]
    linear = interpolation == "bilinear"
    taps: tuple[int, ...] = (0, 1) if linear else (-1, 0, 1, 2)
    mix: Callable[..., Tensor] = _linear if linear else _cubic
    columns = [(left.long() + k).clamp(0, width - 1) for k in taps]
    flat, lines = x.flatten(2), []
    for k in taps:
        row = (top.long() + k).clamp(0, height - 1) * width
        places = [(row + column).flatten(1)[:, None].expand(-1, x.shape[1], -1) for column in columns]
        lines.append(mix(*(flat.gather(2, place).view_as(x).float() for place in places), right_of))
    moved = mix(*lines, below).clamp(0, 255).to(torch.uint8)
    colour = torch.tensor(fill, dtype=torch.uint8).view(1, -1, 1, 1).to(x.device, non_blocking=True)
    return torch.where(outside[:, None], colour, moved)


def _linear(a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    return a + (b - a) * d


def _cubic(a: Tensor, b: Tensor, c: Tensor, e: Tensor, d: Tensor) -> Tensor:
    """Between b and c, at the share d of the way: Keys' cubic convolution with a = -1."""
    return b + d * ((c - a) + d * ((2 * (a - b) + c - e) + d * (b - a + e - c)))


def _matrix(name: str, value: float, width: int, height: int) -> tuple[float, ...]:
    """(a, b, c, d, e, f): the pixel at (x, y) comes from (a x + b y + c, d x + e y + f)."""
    if name == "shear_x":
        return 1, value, 0, 0, 1, 0
    if name == "shear_y":
        return 1, 0, 0, value, 1, 0
    if name == "translate_x":
        return 1, 0, value, 0, 1, 0
    if name == "translate_y":
        return 1, 0, 0, 0, 1, value
    angle = -math.radians(value % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y
