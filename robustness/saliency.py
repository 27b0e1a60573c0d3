"""Where the saliency of an image's patches comes from: DINO, the evaluated model itself, another model with class
attention, or a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evalkit import models
from evalkit.arrays import read_npz
from evalkit.errors import EvalkitError
from evalkit.inference import normaliser
from evalkit.models.attention import class_attention_modules
from evalkit.runtime import sha256_file

from . import store

if TYPE_CHECKING:
    from evalkit.models.wrap import Wrapped

DINO = "vit_small_patch16_224.dino"
DINO_HEAD = 1  # the second of six: the one the published code uses

Source = Callable[[Tensor, Sequence[str]], tuple[np.ndarray, tuple[int, int]]]


@dataclass(frozen=True)
class Saliency:
    """Calling it with pixels in [0, 1] (F, 3, S, S) and the ids of the first n gives their saliency (n, g_h * g_w)
    float64 and the grid (g_h, g_w).

    Args:
        source: Pixels in [0, 1] (F, 3, S, S) and ids of the first n to saliency (n, g_h * g_w) and grid (g_h, g_w).
        settings: What identifies it in a record.
        said: What loading its model did beyond matching names.

    Raises EvalkitError naming the image where the saliency is negative, not finite or zero everywhere.
    """

    source: Source
    settings: dict[str, Any]
    said: tuple[str, ...] = ()

    @property
    def by_file(self) -> str | None:
        """sha256 of the file of maps, or of the weights of another model, that they come from; None where there is no
        such file."""
        return None if self.settings["source"] == "self" else self.settings.get("sha256")

    def __call__(self, x: Tensor, ids: Sequence[str]) -> tuple[np.ndarray, tuple[int, int]]:
        values, grid = self.source(x, ids)
        values = np.asarray(values[: len(ids)], dtype=np.float64)
        usable = np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1) & (values.sum(axis=1) > 0)
        if not usable.all():
            raise EvalkitError(
                f"the saliency of {ids[int(np.argmin(usable))]} is negative, not finite or zero everywhere; use another"
                " saliency="
            )
        return values, grid


def attention(
    network: "models.Network | Wrapped",
    device: torch.device,
    head: int | None,
    settings: dict[str, Any],
) -> Saliency:
    """Class attention of the last block of a network; images of another size are resized to its own.

    Args:
        network: A ViT, on `device`, that tells its class attention.
        device: Where the passes run.
        head: The attention head that is taken, from 0; None: the mean of all.
        settings: What the records say of this saliency, JSON values.
    """
    normalise = normaliser(network, device)

    def source(x: Tensor, ids: Sequence[str]) -> tuple[np.ndarray, tuple[int, int]]:
        if tuple(x.shape[-2:]) != tuple(network.input_size):
            x = torch.nn.functional.interpolate(x, size=tuple(network.input_size), mode="bilinear", antialias=True)
        values, grid = network.class_attention(normalise(x), head=head)
        return values.cpu().numpy(), grid

    return Saliency(source, settings | {"head": "mean" if head is None else head})


def cached(path: Path, saliency: Saliency, ids: Sequence[str]) -> Saliency | None:
    """`saliency` as an earlier pass wrote it to `path`; None where that is not there, damaged, or lacks one of
    `ids`.

    Args:
        path: The .npz of a pass over the images.
        saliency: What the pass would ask otherwise; its settings are part of the result.
        ids: The images that must be there.
    """
    found = store.read(path)
    if found is None or not set(ids) <= set(found[0]["ids"].tolist()):
        return None
    position = {sample: i for i, sample in enumerate(found[0]["ids"].tolist())}
    values = found[0]["saliency"]
    rows, columns = found[0]["grid"].tolist()
    grid = (rows, columns)
    return Saliency(lambda x, wanted: (values[[position[sample] for sample in wanted]], grid), saliency.settings)


def file(path: str | Path, head: str = "auto") -> Saliency:
    """Saliency from a .npz with `ids` (n,) text and `saliency` (n, g*g) numbers. Raises EvalkitError for a file that is
    none of that, or a chosen head.

    Args:
        path: A .npz with `ids` (n,) text and `saliency` (n, g*g) numbers.
        head: Must be "auto": a file has no heads.
    """
    if head != "auto":
        raise EvalkitError(
            f"head={head} chooses an attention head of a model, but {path} is a file of saliency; leave it out"
        )
    try:
        content = read_npz(path)
        ids, values = content["ids"], np.asarray(content["saliency"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EvalkitError(
            f"cannot read saliency from {path}; it must be a .npz with `ids` (n,) and `saliency` (n, g*g)"
        ) from e
    side = round(values.shape[-1] ** 0.5) if values.ndim == 2 else 0
    if side == 0 or side * side != values.shape[1] or ids.shape != values.shape[:1]:
        raise EvalkitError(
            f"{path}: expected `ids` (n,) and `saliency` (n, g*g), but got {ids.shape} and {values.shape}"
        )
    position = {sample: i for i, sample in enumerate(ids.tolist())}
    if len(position) < len(ids):
        raise EvalkitError(f"{path}: {len(ids) - len(position)} of its {len(ids)} ids are repeated")

    def source(x: Tensor, wanted: Sequence[str]) -> tuple[np.ndarray, tuple[int, int]]:
        missing = [sample for sample in wanted if sample not in position]
        if missing:
            raise EvalkitError(
                f"{path} holds no saliency for {missing[0]}; its ids must be paths below the data folder"
            )
        return values[[position[sample] for sample in wanted]], (side, side)

    return Saliency(source, {"source": "file", "sha256": sha256_file(path), "head": "auto"})


def open_saliency(spec: str, head: str, evaluated: models.Loaded, device: torch.device) -> Saliency:
    """Where the saliency maps of an evaluation come from.

    Args:
        spec: "dino", "self" (the evaluated model), a .npz of saliency, a weights file of DINO's ViT-S/16, or another
            model or checkpoint.
        head: "auto" (the published one of DINO, the mean of other models), "mean" or a number.
        evaluated: The model that is measured.
        device: Where the saliency model runs.
    """
    if spec.endswith(".npz"):
        return file(spec, head)
    if spec == "self":
        if isinstance(evaluated.network, models.Network):
            try:
                class_attention_modules(evaluated.network.model)
            except EvalkitError as e:  # before any pass
                raise EvalkitError(
                    f"{e} Give saliency=MODEL, one of those, or do without salient and nonsalient: modes=[random]"
                ) from e
        return attention(evaluated.network, device, _head(head, None), _settings("self", evaluated))
    if spec in ("dino", DINO):
        try:
            loaded, spec = models.load(DINO), "dino"
        except EvalkitError as e:
            advice = (
                "check the connection, give a weights file with saliency=FILE, or do without salient and nonsalient:"
                " modes=[random]"
            )
            raise EvalkitError(f"the saliency needs DINO's weights, {DINO}, which could not be loaded; {advice}") from e
    elif Path(spec).is_file():
        loaded = models.load(spec, model=DINO, num_classes=0)
    else:
        loaded = models.load(spec)
    auto = DINO_HEAD if loaded.name == DINO else None
    known = _settings(spec, loaded)
    found = attention(loaded.network.to(device), device, _head(head, auto), known)
    return replace(found, said=tuple(f"saliency model: {line}" for line in models.describe(loaded.report)))


def known_by(spec: str) -> str | None:
    """`Saliency.by_file` of what `open_saliency` would open, without its weights.

    Args:
        spec: As `open_saliency` takes it.
    """
    if spec.endswith(".npz"):
        return str(file(spec).settings["sha256"])
    if spec in ("self", "dino", DINO):
        return None
    return models.sha256_of(spec)


def _settings(source: str, loaded: models.Loaded) -> dict[str, Any]:
    """What records say of a network whose attention is taken."""
    more = {"model_args": loaded.asked} if loaded.asked else {}
    return {"source": source, "sha256": loaded.sha256, **more}


def _head(head: str, auto: int | None) -> int | None:
    return {"auto": auto, "mean": None}[head] if head in ("auto", "mean") else int(head)
