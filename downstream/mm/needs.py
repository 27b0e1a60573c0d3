"""What one process, other classes and other weights make necessary in the model of a stock config."""

from typing import Any

import torch

from evalkit.errors import EvalkitError

from ..backbone import Source


def one_process(value: Any, several: bool) -> bool:
    """Batch normalisation instead of the synchronised one, unless there are several processes on GPUs; whether there
    was any.

    Args:
        value: An mm config or a part of it, changed.
        several: Whether there are several processes on GPUs.
    """
    changed = False
    if isinstance(value, dict):
        if value.get("type") in ("SyncBN", "MMSyncBN") and not several:
            value["type"], changed = "BN", True
        for inner in value.values():
            changed |= one_process(inner, several)
    elif isinstance(value, list | tuple):
        for inner in value:
            changed |= one_process(inner, several)
    return changed


def set_classes(model: dict[str, Any], count: int) -> list[str]:
    """As many classes as the data set has, wherever the model says how many; sentences for what that costs.

    Args:
        model: The `model` of an mm config, changed.
        count: Classes of the data set.
    """
    known = sorted({v for _, k, v in _entries(model) if k in ("num_classes", "num_things_classes") and v})
    if not known:
        raise EvalkitError(
            "the config's model does not say how many classes it has (num_classes); choose another config"
        )
    old, notes = known[-1], []
    if any(k == "num_stuff_classes" and v for _, k, v in _entries(model)):
        raise EvalkitError(
            "the config is one of panoptic segmentation, whose truth no reader here has; choose one of instances or of"
            " semantic segmentation"
        )
    for container, key, value in list(_entries(model)):
        if (
            key in ("num_classes", "num_things_classes", "out_channels") and value == old and "num_classes" in container
        ) or (key == "num_things_classes" and value == old):
            container[key] = count
        elif key == "class_weight" and isinstance(value, list | tuple) and count != old:
            if len(set(value[:-1])) == 1 and len(value) in (old, old + 1):
                container[key] = [value[0]] * (count + len(value) - old - 1) + [value[-1]]
            else:
                container[key] = None
                notes.append(f"the weights of {len(value)} classes in the loss are left out: they are of another set")
    return notes


def _entries(value: Any) -> list[tuple[dict[str, Any], str, Any]]:
    found: list[tuple[dict[str, Any], str, Any]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [(value, key, inner), *_entries(inner)]
    elif isinstance(value, list | tuple):
        for inner in value:
            found += _entries(inner)
    return found


def set_normalisation(model: dict[str, Any], source: Source) -> list[str]:
    """The mean and deviation that the weights were trained with; a sentence where the config has others.

    Args:
        model: The `model` of an mm config, changed.
        source: Our backbone.
    """
    preprocessor = model.setdefault("data_preprocessor", {})
    ours = {"mean": [255 * v for v in source.mean], "std": [255 * v for v in source.std], "bgr_to_rgb": True}
    same = all(
        preprocessor.get(k) is not None and torch.allclose(torch.tensor(preprocessor[k]), torch.tensor(v), atol=1e-2)
        for k, v in ours.items()
        if k != "bgr_to_rgb"
    )
    same &= bool(preprocessor.get("bgr_to_rgb", preprocessor.get("rgb_to_bgr") is not True))
    preprocessor.pop("rgb_to_bgr", None)
    preprocessor |= ours
    return [] if same else [f"images are normalised as {source.model} was trained, not as the config says"]
