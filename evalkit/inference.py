"""Forward passes over a data set whose results do not depend on batch size, worker count or number of processes.

The network always sees chunks of the same shape (`forward_batch` rows, the last one filled up), in float32 without
TF32: a row's logits then depend on nothing but the row. Process k of W evaluates the images k, k+W, ...; every process
ends up with the results of all, in the order of the data set.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .data.images import BadImage, Images
from .data.loading import eval_batches
from .device_copy import Fetched, to_device
from .errors import EvalkitError
from .parts import Parts
from .progress import progress
from .runtime import gather_objects, is_main, rank, world_size


@dataclass(frozen=True, slots=True)
class Records:
    """What a network says about each image, in the order of the data set.

    Args:
        ids: Of the N images that were read.
        labels: (N,) int64.
        logits: (N, K) float32.
        bad: (id, reason) of images that could not be read.
        complete: False if images could not be read and the policy was "fail".
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    bad: list[tuple[str, str]]
    complete: bool


class Sizes(Protocol):
    """What every configuration of an evaluation says about its passes."""

    @property
    def forward_batch(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def workers(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Pass:
    """How a network runs over images. No result depends on it, but for the last bits on `forward_batch`.

    Args:
        device: where the network is.
        forward_batch: the fixed number of rows of a forward pass.
        batch_size: images that a worker hands over at a time.
        workers: processes that read images; 0: this one.
        what: names the pass in a progress bar; None: no bar.
    """

    device: torch.device
    forward_batch: int = 64
    batch_size: int = 64
    workers: int = 2
    what: str | None = None

    @classmethod
    def of(cls, cfg: Sizes, device: torch.device, what: str | None = None) -> "Pass":
        return cls(device, cfg.forward_batch, cfg.batch_size, cfg.workers, what)


def predict(
    network: Callable[[Tensor], Any],
    images: Images,
    transform: Callable[..., Tensor],
    run: Pass,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    on_error: str = "fail",
    parts: Parts | None = None,
) -> Records:
    """Logits of every image of `images`, or of those at some positions.

    Raises ValueError for a network in training mode and a `forward_batch` below 1, EvalkitError for logits that are not
    finite (naming the images) or when no image can be read.

    Args:
        network: a `Network` in eval mode, normalising with its own mean and std, or any callable that maps (F, 3, S, S)
            float32 to (F, K) logits (without `mean` and `std` attributes it gets pixels in [0, 1]).
        images: the data set.
        transform: image to uint8 (3, S, S).
        run: where, and in which pieces.
        rows: the positions; None: all.
        on_error: what images that cannot be read, which are listed in `bad`, do to the records: "fail" makes them
            incomplete, "skip" leaves the images out.
        parts: where the pass is saved now and then; what an earlier pass saved there is not computed again. For the
            caller to remove.
    """
    if on_error not in ("fail", "skip"):
        raise ValueError(f"Expected argument `on_error` to be 'fail' or 'skip', but got {on_error!r}")
    if run.forward_batch < 1:
        raise ValueError(
            f"Expected argument `forward_batch` to be an integer larger than 0, but got {run.forward_batch}"
        )
    check_eval_mode(network)
    rows = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)
    normalise = normaliser(network, run.device)
    bad: list[tuple[str, str]] = []
    saved = Resumed(images, rows, parts)
    index: list[np.ndarray] = []  # positions in the data set of the rows in `logits` and, behind them, in `waiting`
    logits = Fetched()
    done = (0, 0)  # how much of `index` and `logits` has been saved
    with exact(), progress(run.what, len(saved.left)) as advance:
        for x, chunk in fixed_chunks(
            images,
            transform,
            saved.left,
            run.forward_batch,
            run.device,
            batch_size=run.batch_size,
            workers=run.workers,
            bad=bad,
        ):
            out = network(normalise(x))
            logits.add(getattr(out, "logits", out)[: len(chunk)].float())
            index.append(chunk)
            if parts is not None and parts.due():
                arrays = logits.arrays()
                saved.save(np.concatenate(index[done[0] :]), logits=np.concatenate(arrays[done[1] :]))
                done = len(index), len(arrays)
            advance(len(chunk) * world_size())
    positions = np.concatenate([np.zeros(0, np.int64), *index])
    arrays = logits.arrays()
    values = np.concatenate(arrays) if arrays else np.zeros((0, 0), np.float32)
    order, (values,), bad = gather(images, rows, *saved.joined(positions, logits=values), bad)
    ids = [images.ids[i] for i in order]
    check_finite(ids, np.isfinite(values).all(axis=1))
    return Records(ids, images.labels[order].astype(np.int64), values, bad, complete=not bad or on_error == "skip")


# ---- the pieces, shared with the occlusion sweep


class Resumed:
    """What an earlier pass over some images saved, and what is `left` to do.

    Args:
        images: The data set.
        rows: Positions of the images.
        parts: Where the pass was saved; None: everything is left.
    """

    def __init__(self, images: Images, rows: np.ndarray, parts: Parts | None):
        self.images, self.parts = images, parts
        self.arrays = (parts.load() if parts is not None else None) or {
            "ids": np.zeros(0, np.str_),
            "notes": np.zeros(0, np.str_),
        }
        position = {images.ids[i]: i for i in rows.tolist()}
        known = np.array([sample in position for sample in self.arrays["ids"].tolist()], dtype=bool)
        self.arrays = {name: values[known] for name, values in self.arrays.items()}
        self.index = np.array([position[sample] for sample in self.arrays.pop("ids").tolist()], dtype=np.int64)
        self.left = rows[~np.isin(rows, self.index)]

    def save(self, index: np.ndarray, **arrays: np.ndarray) -> None:
        """Save the results of the images at `index`, with what their decoding noted."""
        notes = np.array([",".join(self.images.noted.get(i, ())) for i in index.tolist()], dtype=np.str_)
        assert self.parts is not None, "there is somewhere to save to"
        self.parts.save([self.images.ids[i] for i in index], notes=notes, **arrays)

    def joined(self, index: np.ndarray, **arrays: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """This process's results with, in the first process, the saved ones; counts the saved notes among
        `images.notes`."""
        if not is_main() or not len(self.index):
            return index, list(arrays.values())
        counts = Counter(self.images.notes)
        counts.update(note for notes in self.arrays["notes"].tolist() for note in notes.split(",") if note)
        self.images.notes = dict(sorted(counts.items()))
        both = [
            np.concatenate([self.arrays[name], new]) if len(new) else self.arrays[name] for name, new in arrays.items()
        ]
        return np.concatenate([self.index, index]), both


@contextlib.contextmanager
def exact(gradients: bool = False) -> Iterator[None]:
    """Inside: no gradients (unless asked for), float32 without TF32, no autocast, deterministic cuDNN kernels chosen
    without timing them.

    Restores what was set before."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(not gradients),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def check_eval_mode(network: Any) -> None:
    """Raise ValueError if any part of `network` is in training mode (dropout, stochastic depth, batch statistics)."""
    if (
        isinstance(network, nn.Module)
        and (name := next((name for name, m in network.named_modules() if m.training), None)) is not None
    ):
        raise ValueError(
            f"Expected argument `network` to be in eval mode, but {'it' if not name else repr(name)} is in training"
            " mode"
        )


def normaliser(network: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function from pixels in [0, 1], (B, 3, H, W), to what a network expects: (x - mean) / std with its own, or x
    itself where it names none.

    Args:
        network: The network.
        device: Where the images are.
    """
    if not hasattr(network, "mean"):
        return lambda x: x
    mean, std = (
        torch.tensor(values, device=device, dtype=torch.float32).view(-1, 1, 1)
        for values in (network.mean, network.std)
    )
    return lambda x: (x - mean).div_(std)  # in place: a new tensor less


def fixed_chunks(
    images: Images,
    transform: Callable[..., Tensor],
    rows: np.ndarray,
    size: int,
    device: torch.device,
    *,
    batch_size: int,
    workers: int,
    bad: list[tuple[str, str]],
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """This process's share of a pass as (pixels float32 in [0, 1] (size, 3, S, S) on the device, positions (n,)); n <
    size only at the end, where row 0 is repeated.

    Args:
        images: The data set.
        transform: From a PIL image to pixels (3, S, S).
        rows: Positions of the images.
        size: Images of a forward pass.
        device: Where the pixels go.
        batch_size: What a loader process reads at a time.
        workers: Processes that read images.
        bad: (id, reason) of what cannot be read is appended.
    """
    mine = rows[rank() :: world_size()]
    pin = device.type == "cuda"
    batches = eval_batches(images, transform, batch_size=batch_size, workers=workers, indices=mine, pin=pin)
    for x, index in _rechunk(batches, size, bad):
        x = torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if len(x) < size else x
        yield to_device(x, device).float().div_(255), index


def gather(
    images: Images, rows: np.ndarray, index: np.ndarray, arrays: list[np.ndarray], bad: list[tuple[str, str]]
) -> tuple[np.ndarray, list[np.ndarray], list[tuple[str, str]]]:
    """(positions ascending, arrays in that order, bad images by id) of all processes together.

    Args:
        images: The data set.
        rows: Positions that all processes together were to read.
        index: Positions that this one read.
        arrays: Its results, the first axis following `index`.
        bad: What it could not read.

    Raises EvalkitError if no image is left, or if an image came up twice or not at all.
    """
    parts = gather_objects((index, arrays, bad))
    bad = sorted(b for part in parts for b in part[2])
    index = np.concatenate([part[0] for part in parts])
    if not len(index):
        raise EvalkitError(
            f"none of the {len(rows)} images of {images.name} could be read"
            + (f"; the first: {bad[0][0]}: {bad[0][1]}" if bad else "")
        )
    order = np.argsort(index, kind="stable")
    seen = [images.ids[i] for i in index] + [b[0] for b in bad]
    if len(set(seen)) != len(seen) or set(seen) != {images.ids[i] for i in rows}:
        raise EvalkitError(
            f"{images.name}: {len(seen)} results of {len(set(seen))} different images for {len(rows)} asked for; its"
            " sample ids are not unique"
        )
    filled = [part for part in parts if len(part[0])]  # a process without images does not know the shapes
    return index[order], [np.concatenate([part[1][k] for part in filled])[order] for k in range(len(arrays))], bad


def check_finite(ids: Sequence[str], finite: ArrayLike) -> None:
    """Raise EvalkitError naming the samples whose outputs are NaN or infinite.

    Args:
        ids: Ids of the N samples.
        finite: Whether each one's outputs are finite, (N,).
    """
    finite = np.asarray(finite, dtype=bool)
    if not finite.all():
        names = [ids[int(i)] for i in np.flatnonzero(~finite)]
        raise EvalkitError(
            f"the model's output is not finite for {len(names)} of {len(ids)} images, e.g. {', '.join(names[:5])}; is"
            " the checkpoint damaged?"
        )


def _rechunk(
    batches: Iterable[tuple[Tensor, Tensor, list[BadImage]]], size: int, bad: list[tuple[str, str]]
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Batches of any length, joined and cut into chunks of `size`, the last one shorter."""
    held_x: list[Tensor] = []
    held_index: list[np.ndarray] = []
    for x, index, broken in batches:
        bad.extend((b.id, b.reason) for b in broken)
        if len(index):
            held_x.append(x)
            held_index.append(index.numpy())
        while sum(map(len, held_index)) >= size:
            x, index = _joined(held_x), np.concatenate(held_index)
            yield x[:size], index[:size]
            held_x, held_index = [x[size:]], [index[size:]]
    if any(map(len, held_index)):
        yield _joined(held_x), np.concatenate(held_index)


def _joined(parts: list[Tensor]) -> Tensor:
    """The tensors as one; a single one stays where it is, in page-locked memory."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
