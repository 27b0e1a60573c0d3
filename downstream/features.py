"""Features of a frozen network, made once and kept beside the results: a file says of which weights, images and
preparation it is, and is used for no other."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from evalkit import data, fingerprint, inference, models, zoo
from evalkit.arrays import read_npz
from evalkit.checkpoint import read_meta
from evalkit.errors import EvalkitError
from evalkit.models.fit import head_names
from evalkit.runtime import gather_objects, is_main, seed_torch, write_atomic
from evalkit.text import say

from .about.cls import ClsConfig
from .probes import Features

FOLDER, VERSION = "features", 1


@dataclass(frozen=True)
class Extractor:
    """A network without its head.

    Args:
        loaded: The network, whose output are the features, and where it comes from.
        sha256: Of its weights.
        identity: What decides its features beside the images, as JSON values.
    """

    loaded: models.Loaded
    sha256: str
    identity: dict[str, Any]


def extractor(spec: str, cfg: ClsConfig) -> Extractor:
    """The network of a checkpoint without its head, or the same architecture at initial weights.

    Args:
        spec: A checkpoint or run folder, a weights file, or a timm name.
        cfg: Which of its weights.
    """
    if cfg.init == "random":
        loaded = _initial(spec, cfg)
    else:
        loaded = models.load(spec, model=cfg.model, model_args=cfg.model_args, weights=cfg.weights, num_classes=0)
    network = loaded.network
    assert isinstance(network, models.Network), "read from a file or built"
    sha256 = digest(network)
    identity = {
        "version": VERSION,
        "model": loaded.name,
        "tensors": sha256,
        "size": list(network.input_size),
        "mean": list(network.mean),
        "std": list(network.std),
        **({"model_args": loaded.asked} if loaded.asked else {}),
    }
    return Extractor(loaded, loaded.sha256 or sha256, identity)


def _initial(spec: str, cfg: ClsConfig) -> models.Loaded:
    """The architecture of a checkpoint with the weights that its training would begin with at the seed of `cfg`."""
    meta = read_meta(spec) if zoo.located(spec).exists() else {}
    name = meta.get("model") or cfg.model or spec
    if Path(name).exists() or "/" in name:
        raise EvalkitError(f"{spec} does not say its architecture; add model=NAME, e.g. model=deit_small_patch16_224")
    args = {**meta.get("model_args", {}), **cfg.model_args}
    models.check_arguments(name, args)
    seed_torch(cfg.seed, "init")
    network = models.create(name, num_classes=meta.get("num_classes", 1000), **args)
    network.model.reset_classifier(0)
    if meta.get("image_size"):
        network.input_size = (meta["image_size"], meta["image_size"])
    return models.Loaded(
        network.eval(), name, None, None, spec, None, f"{name}, random", "raw", meta, asked=cfg.model_args
    )


def features(
    of: Extractor, images: data.Images, transform: Callable[..., Tensor], run: inference.Pass, folder: Path
) -> tuple[Features, list[str], list[tuple[str, str]]]:
    """(features, what a reader must know, unreadable images). All processes get the same.

    Args:
        of: The network.
        images: What it sees.
        transform: From an image to pixels.
        run: Where and in which pieces.
        folder: Of the results; features lie in a folder of it.
    """
    identity = {**of.identity, "data": images.fingerprint, "prepared": str(transform), "rows": run.forward_batch}
    text = json.dumps(identity, sort_keys=True)
    path = folder / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    found = gather_objects(_read(path, text) if is_main() else None)[0]
    if found is not None:
        sampled = fingerprint.remark(images.fingerprint)
        say(f"features of {images.name} made before are used{f', {sampled}' if sampled else ''}: {path}")
        return *found, []
    records = inference.predict(of.loaded.network, images, transform, run)
    made = Features(records.ids, records.labels, records.logits)
    counted = [f"{images.name}: {what} in {n:,} of the {len(images):,} images" for what, n in images.notes.items()]
    if is_main() and not records.bad:  # what could not be read may have been mended the next time
        arrays: dict[str, Any] = {
            "ids": np.array(made.ids, dtype=np.str_),
            "labels": made.labels,
            "values": made.values,
        }
        arrays["notes"] = np.array(counted, dtype=np.str_)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda f: np.savez(f, identity=np.array(text), **arrays))
    return made, counted, records.bad


def _read(path: Path, identity: str) -> tuple[Features, list[str]] | None:
    """What was kept at `path`, with what decoding noted; None where nothing is, it is damaged or it is of
    something else."""
    try:
        arrays = read_npz(path)
        if str(arrays["identity"]) != identity:
            return None
        found = Features(arrays["ids"].tolist(), arrays["labels"].astype(np.int64), arrays["values"])
        notes = arrays["notes"].tolist()
    except (OSError, ValueError, KeyError):
        return None
    whole = len(found.ids) == len(found.labels) == len(found.values) and found.values.ndim == 2
    return (found, notes) if whole else None


def digest(network: models.Network) -> str:
    """sha256 of a network's tensors, its head left out."""
    heads = tuple(f"{name}." for name in head_names(network.model))
    found = hashlib.sha256()
    for name, tensor in sorted(network.model.state_dict().items()):
        if not name.startswith(heads):
            found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
