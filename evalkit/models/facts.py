"""What a checkpoint says of itself, read without its weights: by this, evaluations choose the images that they read."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import timm

from .. import checkpoint, zoo
from ..runtime import parse_json, sha256_file
from . import load as loading
from .network import create


class Facts(Protocol):
    """Of a checkpoint: what it is called, its outputs, the images it takes, its `meta.json`. A `Loaded` has them, and
    so has what `stated` gives."""

    @property
    def source(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def classes(self) -> list[str] | None: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def meta(self) -> dict[str, Any]: ...
    @property
    def sha256(self) -> str | None: ...


@dataclass(frozen=True)
class Stated:
    """`Facts` of a checkpoint whose network was not built.

    Args:
        source: What the user named.
        label: How tables name the model.
        classes: Name of each output, if known.
        num_classes: How many outputs there are.
        input_size: (height, width) of the images in pixels.
        meta: What the checkpoint says of itself.
        sha256: Of the weights file that an evaluation would take; None: there is none.
    """

    source: str
    label: str
    classes: list[str] | None
    num_classes: int
    input_size: tuple[int, int]
    meta: dict[str, Any]
    sha256: str | None


def stated(
    spec: str, *, model: str | None = None, model_args: dict[str, Any] | None = None, weights: str | None = None
) -> Facts:
    """The facts of what `models.load` would load. Weights are read only where no `meta.json` says enough. Raises
    EvalkitError as `load` does.

    Args:
        spec: A checkpoint or run folder, `zoo:NAME`, a weights file, or a timm name.
        model: The architecture, for files that do not name theirs.
        model_args: What it is built with beside what the file says.
        weights: "raw" or "ema"; None: the averaged weights where there are some.
    """
    path = zoo.located(spec)
    meta = {} if model_args or not path.is_dir() else _meta(path)
    try:
        which = weights or ("ema" if checkpoint.FILES["ema"] in meta["sha256"] else "raw")
        sha256 = meta["sha256"][checkpoint.FILES[which]]
        classes, number, side = list(meta["classes"]), int(meta["num_classes"]), int(meta["image_size"])
    except (KeyError, TypeError, ValueError):
        if path.exists() or not timm.is_model(spec.partition(".")[0]):
            return loading.load(spec, model=model, model_args=model_args, weights=weights)
        number, size = _of_timm(spec, json.dumps(model_args or {}))
        return Stated(spec, spec, loading.imagenet_classes() if number == 1000 else None, number, size, {}, None)
    label = meta.get("label") or meta.get("method") or path.stem
    known = classes if len(classes) == number else None
    return Stated(str(spec), label, known, number, (side, side), meta, sha256)


def sha256_of(spec: str) -> str | None:
    """Of the weights file that `models.load` would read; None for timm's weights. Raises EvalkitError for what is not
    there.

    Args:
        spec: As `load` takes it.
    """
    path = zoo.located(spec)
    if path.is_file():
        return sha256_file(path)
    return checkpoint.read_weights(path)[2] if path.is_dir() and not _meta(path) else stated(spec).sha256


def _meta(path: Path) -> dict[str, Any]:
    """The meta.json of a checkpoint folder, or of the newest checkpoint of a run folder; {} where there is none."""
    found = (
        [path / "meta.json"] if (path / "meta.json").is_file() else sorted(path.glob("checkpoints/step-*/meta.json"))
    )
    try:
        meta = parse_json(found[-1].read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError, RecursionError):
        return {}  # `load` says what is wrong
    return meta if isinstance(meta, dict) else {}


@functools.cache
def _of_timm(name: str, model_args: str) -> tuple[int, tuple[int, int]]:
    network = create(name, **json.loads(model_args))
    return network.num_classes, (network.input_size[0], network.input_size[1])
