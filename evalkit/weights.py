"""Weights files of any origin as plain state dicts: safetensors, torch files, folders that timm wrote for the Hugging
Face Hub.

Nothing in them is executed, and nothing is allocated that the file does not hold. What wrappers put before every name
is taken off: `module.` (data parallel), `_orig_mod.` (torch.compile).
"""

import argparse
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import EvalkitError
from .runtime import parse_json, sha256_file

STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
HUB_CONFIG, HUB_WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
# of timm's own config of a model: how images are prepared for it
PREPARED = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")
MOST_PIXELS = 1 << 13  # a side of an image that a file may ask for
SLACK = 64 << 20  # bytes that the tensors of a file may declare beyond what it holds: small ones that were expanded
# what published files hold beside their weights: DeiT's arguments, NumPy scalars such as a best accuracy
_numpy_types = [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u8", "?")]
_scalar: Any = np.float64().__reduce__()[0]  # numpy has no public name for it
SAFE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *_numpy_types,
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]

Read = tuple[dict[str, Tensor], dict[str, Any], str]


def read_file(path: Path, weights: str | None = None) -> Read:
    """(state_dict, meta, sha256); meta is {} or says which weights were read, and under "chosen", of several sets,
    which one.

    Torch files may nest the weights under state_dict_ema, model_ema, state_dict or model. Raises EvalkitError.

    Args:
        path: A .safetensors or torch file.
        weights: "raw" or "ema"; None takes averaged ones where there are some.
    """
    if not path.is_file():
        raise EvalkitError(f"no such checkpoint: {path}")
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
        said = _of_another_precision(tensors)
        return _plain(tensors, path), {"chosen": said} if said else {}, sha256_file(path)
    content = read_torch(path)
    keys = STATE_DICT_KEYS if weights != "raw" else STATE_DICT_KEYS[2:]
    meta: dict[str, Any] = {}
    for key in keys:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            meta = {"weights": "ema" if key in STATE_DICT_KEYS[:2] else "raw"}
            if weights not in (None, meta["weights"]):
                raise EvalkitError(f"{path} holds no averaged (ema) weights; use weights=raw")
            if others := _other_sets(content, key):
                meta["chosen"] = [
                    f"of several sets of weights in the file, those under '{key}' were read, not {others}"
                ]
            content = content[key]
            break
    tensors = _tensors_of(content)
    if not tensors or not all(isinstance(name, str) for name in tensors):
        inner = [repr(k) for k, v in content.items() if _names_in(v)] if isinstance(content, dict) else []
        raise EvalkitError(
            f"{path} holds no state dict; expected tensors at the top level or under one of"
            f" {', '.join(STATE_DICT_KEYS)}"
            + (f", but they lie under {' and '.join(inner[:4])}: save the one that is meant alone" if inner else "")
        )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise EvalkitError(
                f"{path} holds tensors that are quantised, sparse or without values, such as '{name}'; save the plain"
                " ones"
            )
    if said := _of_another_precision(tensors):
        meta["chosen"] = [*meta.get("chosen", []), *said]
    return _plain(tensors, path), meta, sha256_file(path)


def _of_another_precision(tensors: Mapping[str, Tensor]) -> list[str]:
    """A clause for each precision of a file's weights that is not the one they are computed with in."""
    count = Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point())
    return [
        f"{n} tensors of the file are {kind}, and computed with in float32"
        for kind, n in count.items()
        if kind != "float32"
    ]


def _tensors_of(content: Any) -> dict[str, Tensor]:
    return {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}


def _names_in(content: Any) -> set[str]:
    """The names of tensors in a mapping and the mappings within it, without what wrappers put before them."""
    found = {WRAPPERS.sub("", str(name)) for name in _tensors_of(content)}
    inner = content.values() if isinstance(content, dict) else ()
    return found.union(*(_names_in(value) for value in inner if isinstance(value, dict)))


def _other_sets(content: Mapping[Any, Any], chosen: str) -> str:
    """Where a torch file holds other weights of the same names than under `chosen`, in words; "" for nowhere."""
    plain = {key: _names_in(value) for key, value in content.items() if isinstance(key, str)}
    found = [
        repr(key)
        for key, names in plain.items()
        if key != chosen and (names & plain[chosen] or ("ema" in key.lower() and _tensors(content[key])))
    ]
    which = "raw" if chosen in STATE_DICT_KEYS[:2] else "ema"
    other = STATE_DICT_KEYS[2:] if which == "raw" else STATE_DICT_KEYS[:2]
    advice = f" (weights={which} reads those)" if any(repr(key) in found for key in other) else ""
    return " or ".join(found) + advice if found else ""


def read_hub(folder: Path, weights: str | None = None) -> Read:
    """(state_dict, meta, sha256); meta has `model`, `num_classes` and, where the folder names them, `model_args` and
    `classes`. Raises EvalkitError for a config of another library and for weights in several files.

    Args:
        folder: One with timm's config.json and its weights.
        weights: "raw" or "ema"; None takes averaged ones where there are some.
    """
    about = hub_meta(folder)
    found = next((folder / name for name in HUB_WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise EvalkitError(f"{folder} holds neither {' nor '.join(HUB_WEIGHTS)}; fetch the folder again")
    others = [folder / name for name in HUB_WEIGHTS if (folder / name).is_file() and folder / name != found]
    tensors, meta, sha256 = read_file(found, weights)
    if others:
        meta["chosen"] = [*meta.get("chosen", []), f"{found.name} was read, not {others[0].name} beside it"]
    return tensors, meta | about, sha256


def hub_meta(folder: Path) -> dict[str, Any]:
    """What a folder that timm wrote for the Hugging Face Hub says of its network. Raises EvalkitError."""
    try:
        config = parse_json((folder / HUB_CONFIG).read_text(encoding="utf-8"))
        known = isinstance(config, dict) and isinstance(config.get("architecture"), str)
    except (OSError, ValueError) as e:
        raise EvalkitError(f"{folder / HUB_CONFIG} is not readable JSON; fetch the folder again") from e
    if not known:
        raise EvalkitError(
            f"{folder / HUB_CONFIG} names no timm `architecture`, so the weights are of another library; convert them"
            " to timm's names, or give the weights file with model=NAME"
        )
    return _described(config, folder / HUB_CONFIG) | {"label": folder.resolve().name}


def _described(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What timm's config.json says of the network: also how its images are prepared, where that is not as timm does it
    for the architecture. Raises EvalkitError for values of the wrong kind."""
    from timm.models import get_pretrained_cfg

    of_timm: Any = config.get("pretrained_cfg", config)  # old files hold it all in one
    model_args: Any = config.get("model_args", {})
    count = config.get("num_classes", of_timm.get("num_classes") if isinstance(of_timm, dict) else None)
    for what, value, kind in (
        ("pretrained_cfg", of_timm, dict),
        ("model_args", model_args, dict),
        ("num_classes", count, int | None),
    ):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise EvalkitError(f"{path}: `{what}` is {value!r}, which it cannot be; fetch the folder again")
    if count is not None and count < 0:
        raise EvalkitError(f"{path}: `num_classes` is {count}; fetch the folder again")
    found: dict[str, Any] = {"model": config["architecture"]}
    try:
        own: Any = get_pretrained_cfg(found["model"], allow_unregistered=True)
    except RuntimeError as e:
        raise EvalkitError(f"{path}: timm has no weights tag of '{found['model']}'; leave the tag out") from e
    own = own.to_dict() if own is not None else {}
    plain = lambda v: list(v) if isinstance(v, tuple) else v  # noqa: E731
    model_args = {k: v for k, v in model_args.items() if k != "num_classes"}
    prepared = {k: of_timm[k] for k in PREPARED if of_timm.get(k) is not None and of_timm[k] != plain(own.get(k))}
    check_prepared(prepared, str(path), "fetch the folder again")
    if prepared:
        model_args = model_args | {"pretrained_cfg_overlay": prepared}
    found |= {"model_args": model_args} if model_args else {}
    found |= {} if count is None else {"num_classes": count}
    pool = config.get("global_pool") or of_timm.get("global_pool")
    found |= {"global_pool": pool} if isinstance(pool, str) else {}
    labels = config.get("label_names") or of_timm.get("label_names") or config.get("labels")
    return found | ({"classes": _labels(labels, count, path)} if labels else {})


def check_prepared(prepared: Mapping[str, Any], where: str, advice: str) -> None:
    """Raise EvalkitError for a normalisation, a size or a crop that is none of pixels in [0, 1].

    Args:
        prepared: Some of `PREPARED`.
        where: What says so, for the error.
        advice: What to do then.
    """
    number = lambda v: isinstance(v, int | float) and not isinstance(v, bool)  # noqa: E731
    three = lambda v: isinstance(v, list) and len(v) == 3 and all(map(number, v))  # noqa: E731
    right = {
        "mean": lambda v: three(v) and all(0 <= n <= 1 for n in v),
        "std": lambda v: three(v) and all(1e-3 <= n <= 2 for n in v),
        "input_size": lambda v: three(v) and all(isinstance(n, int) and 0 < n <= MOST_PIXELS for n in v),
        "crop_pct": lambda v: number(v) and 0 < v <= 2,
        "crop_mode": lambda v: v in ("center", "squash", "border"),
        "interpolation": lambda v: v in ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    }
    for key, value in prepared.items():
        if not right[key](value):
            hint = ", since pixels lie within 0 to 1" if key in ("mean", "std") else ""
            raise EvalkitError(f"{where}: `{key}` is {value!r}, which it cannot be{hint}; {advice}")


def _labels(labels: Any, count: int | None, path: Path) -> list[str]:
    """The names of the classes in the order of the outputs: a list, or a mapping from their numbers. Raises
    EvalkitError for names that are not those of the outputs."""
    if isinstance(labels, dict) and {str(key) for key in labels} == {str(i) for i in range(len(labels))}:
        labels = [value for _, value in sorted(labels.items(), key=lambda item: int(item[0]))]
    if not isinstance(labels, list) or not all(isinstance(v, str | int) for v in labels):
        raise EvalkitError(
            f"{path}: `label_names` is no list of names in the order of the outputs; correct or remove it"
        )
    names = [str(value) for value in labels]
    if len(set(names)) < len(names) or count not in (None, len(names)):
        raise EvalkitError(
            f"{path}: `label_names` holds {len(names)} names, {len(set(names))} different ones, for {count} outputs;"
            " correct or remove it"
        )
    return names


def _plain(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors without what wrappers put before their names."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = WRAPPERS.sub("", name)
        if plain in found:
            raise EvalkitError(
                f"{path} holds '{plain}' twice, as it is and behind {name.removesuffix(plain)!r}; which of the two"
                " networks is meant? Save that one alone"
            )
        found[plain] = tensor
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises EvalkitError."""
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, RuntimeError, OverflowError, MemoryError) as e:
        raise EvalkitError(f"{path} is truncated or not a safetensors file; fetch or write it again") from e


def read_torch(path: Path) -> Any:
    """What a torch file holds, tensors and plain values only. Raises EvalkitError."""
    damaged = f"{path} is truncated or not a torch file; fetch or write it again"
    try:
        _check_packing(path)
        with torch.serialization.safe_globals(SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise EvalkitError(
            f"{path} holds more than tensors and was not opened, since that could run code; ask for a .safetensors file"
        ) from e
    except EvalkitError:
        raise
    except Exception as e:  # a malformed file leads torch to any error
        raise EvalkitError(damaged) from e
    declared = sum(t.numel() * t.element_size() for t in _tensors(content))
    if declared > path.stat().st_size + SLACK:
        raise EvalkitError(f"{path} declares {declared:,} bytes of numbers, more than it holds; ask for another file")
    return content


def _check_packing(path: Path) -> None:
    """Raise EvalkitError for an archive that unpacks to more than it is: torch's own never do."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as packed:
        if sum(member.file_size for member in packed.infolist()) > path.stat().st_size:
            raise EvalkitError(f"{path} is packed, so that it declares more than it holds; ask for another file")


def _tensors(content: Any) -> list[Tensor]:
    """The tensors within lists and mappings, each once."""
    found: dict[int, Tensor] = {}
    left = [content]
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            found[id(item)] = item
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list | tuple):
            left += item
    return list(found.values())
