"""The clean images of the protocols on ImageNet val: its folder or an embedded stand-in, or data that are given by
name, as a training recipe names them."""

from collections.abc import Sequence

import numpy as np

from evalkit import data
from evalkit.data.images import Images, Subset
from evalkit.errors import EvalkitError
from evalkit.models import Facts
from evalkit.preparation import recipe_of

from . import layouts
from .config import CleanConfig
from .layouts import Opened


def open_clean(loaded: Facts, cfg: CleanConfig, only: Sequence[str] | None = None) -> Opened:
    """The images of `cfg.data`.

    Args:
        loaded: The model, whose classes they must be.
        cfg: Where they lie, by folder or by name, and whether a part of them is accepted.
        only: The classes that are wanted; None: all.

    Raises EvalkitError for data that are missing, partial or of other classes than the model's."""
    spec = cfg.data
    if spec is None and cfg.data_dir is not None:
        spec = recipe_of(loaded).get("data")
    if spec is None or not data.has_parts(spec):
        given = [f"{key}={getattr(cfg, key)}" for key in ("data_dir", "split") if getattr(cfg, key) is not None]
        if given:
            raise EvalkitError(
                f"{given[0]} belongs to data by name, such as cifar100 or torch/imagenet, but data={spec}; name them"
                " with --data NAME, or give --data DIR alone"
            )
        spec = layouts.choose("val", spec, loaded)
        return layouts.open_set("val", spec, loaded, cfg.allow_partial, only=only, labels=cfg.val_labels)
    if cfg.val_labels is not None:
        raise EvalkitError(f"val_labels belongs to a folder of images; {spec} brings its own labels")
    split = cfg.split or recipe_of(loaded).get("val_split", "val")
    return _named(spec, data.load(spec, split, root=cfg.data_dir), loaded, cfg.allow_partial, only)


def reads(loaded: Facts, cfg: CleanConfig) -> dict[str, str]:
    """Role -> fingerprint of what a protocol reads that reads all of the clean images and nothing else.

    Args:
        loaded: The model, whose classes they must be.
        cfg: Where they lie.
    """
    return {"data": open_clean(loaded, cfg).images.fingerprint}


def _named(spec: str, images: Images, loaded: Facts, allow_partial: bool, only: Sequence[str] | None) -> Opened:
    own = layouts.check_known(loaded)
    odd = sorted(set(images.classes) ^ set(own))
    if odd:
        raise EvalkitError(
            f"{spec} has {len(images.classes)} classes, {loaded.label} {len(own)}, and their names differ, e.g."
            f" {odd[0]!r}; give images of the model's classes under the same names"
        )
    classes = sorted(own) if only is None else list(only)
    kept = images if only is None else Subset(images, np.flatnonzero(layouts.labels_in(images, only) >= 0))
    count = dict(zip(images.classes, np.bincount(images.labels, minlength=len(images.classes)).tolist()))
    problems: list[str] = []
    if layouts.is_imagenet(loaded):
        problems = layouts.find_problems("val", classes, count)
        notes = [f"val is partial: {p}" for p in problems]
    else:
        notes = [f"{spec} holds the model's own classes, not ImageNet's"]
    if problems and not allow_partial:
        raise EvalkitError(
            f"{spec} is not complete: {'; '.join(problems)}. Complete it, or accept it as partial with"
            " allow_partial=true"
        )
    filled = [c for c in classes if count[c]]
    return Opened(kept, classes, filled, not problems, layouts.is_imagenet(loaded), notes)
