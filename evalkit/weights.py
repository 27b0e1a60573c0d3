"""Weights files of any origin as plain state dicts: safetensors, torch files, folders that timm wrote for the Hugging
Face Hub.

Nothing in them is executed, and nothing is allocated that the file does not hold. What wrappers put before every name
is taken off: `module.` (data parallel), `_orig_mod.` (torch.compile).
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import EvalkitError
from .record_content import short
from .runtime import parse_json, sha256_file

STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
HUB_CONFIG, HUB_WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
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
        return _plain(read_safetensors(path), path), {}, sha256_file(path)
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
        raise EvalkitError(
            f"{path} holds no state dict; expected tensors at the top level or under one of"
            f" {', '.join(STATE_DICT_KEYS)}"
        )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise EvalkitError(
                f"{path} holds tensors that are quantised, sparse or without values, such as '{name}'; save the plain"
                " ones"
            )
    return _plain(tensors, path), meta, sha256_file(path)


def _tensors_of(content: Any) -> dict[str, Tensor]:
    return {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}


def _other_sets(content: Mapping[Any, Any], chosen: str) -> str:
    """Where a torch file holds other weights of the same names than under `chosen`, in words; "" for nowhere."""
    plain = {
        key: {WRAPPERS.sub("", str(name)) for name in _tensors_of(value)}
        for key, value in content.items()
        if isinstance(key, str)
    }
    found = [repr(key) for key, names in plain.items() if key != chosen and names & plain[chosen]]
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
    found = next((folder / name for name in HUB_WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise EvalkitError(f"{folder} holds neither {' nor '.join(HUB_WEIGHTS)}; fetch the folder again")
    tensors, meta, sha256 = read_file(found, weights)
    labels, count = config.get("label_names"), config.get("num_classes")
    if isinstance(labels, list) and (not all(isinstance(n, str) for n in labels) or len({*labels}) < len(labels)):
        raise EvalkitError(f"{folder / HUB_CONFIG}: `label_names` must be texts, each another one; correct it")
    if isinstance(count, bool) or (isinstance(count, int) and count < 0):
        raise EvalkitError(f"{folder / HUB_CONFIG}: `num_classes` is {short(count)}; correct it")
    kinds = {"num_classes": int, "model_args": dict}
    meta |= {"model": config["architecture"], "label": folder.resolve().name}
    meta |= {key: config[key] for key, kind in kinds.items() if isinstance(config.get(key), kind)}
    return tensors, meta | ({"classes": labels} if isinstance(labels, list) else {}), sha256


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
