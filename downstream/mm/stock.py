"""Configs of mmsegmentation and mmdetection: found by file or name, read, and made plain: what cannot be used is taken
out, and said.

A config is Python code. It is read from a file that the user names, or from those that come with the two packages; a
run folder keeps what was read as a literal, which is never executed.
"""

import ast
import hashlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config

from evalkit.errors import EvalkitError, unknown
from evalkit.ordered import each_once

from ..config import SCOPES, check_names

SUFFIXES = (".py", ".json", ".yaml", ".yml")
LACKING = ("mmpretrain", "mmcls")  # whose backbones some configs take; ours goes in their place
# the parts that training and testing are made of; the others are mmengine's surroundings, which evalkit's replace
PARTS = ("model", "train_dataloader", "optim_wrapper", "param_scheduler", "custom_hooks", "test_dataloader")
MORE = ("tta_model", "tta_pipeline", "auto_scale_lr", "train_cfg", "custom_imports", "find_unused_parameters")
# change the images while training runs, which workers that are already at it do not see
DROPPED_HOOKS = ("YOLOXModeSwitchHook", "PipelineSwitchHook", "TrackSaveBestHook", "WandbVisHook", "WandbLoggerHook")


def shipped(scope: str) -> dict[str, Path]:
    """Name -> file of every config that comes with "mmseg" or "mmdet", parts of others (`_base_`) left out."""
    root = Path(str(import_module(scope).__file__)).parent / ".mim" / "configs"
    return {path.stem: path for path in sorted(root.rglob("*.py")) if "_base_" not in path.relative_to(root).parts}


def find(name: str, scope: str) -> Path:
    """The file of a config that is a path or the name of one that comes with `scope`, its folder before it or not.
    Raises EvalkitError.

    Args:
        name: A path, or a name.
        scope: mmseg or mmdet.
    """
    path = Path(name)
    if path.suffix in SUFFIXES and path.is_file():
        return path
    known = shipped(scope)
    if path.is_dir() or path.is_absolute() or name.startswith((".", "~")):
        raise EvalkitError(f"config={name} is no file; name a .py file, or one that comes with {scope}")
    found = known.get(path.name.removesuffix(".py"))
    if found is None or not str(found.with_suffix("")).endswith(name.removesuffix(".py")):
        raise unknown(f"{scope} config", path.name.removesuffix(".py"), known)
    return found


def read(name: str, scope: str) -> tuple[dict[str, Any], list[str]]:
    """The parts of a config as plain containers, and a sentence for each thing that was taken out. Raises EvalkitError
    for one that is not there, does not run, or is no config of a network that is trained and tested.

    Args:
        name: A path, or a name.
        scope: mmseg or mmdet.
    """
    path = find(name, scope)
    try:
        # what mmpretrain registers is not there, and imports are seen to below
        whole = Config.fromfile(str(path), import_custom_modules=False).to_dict()
    except Exception as e:
        raise EvalkitError(
            f"{path} is no config that mmengine reads ({said(e)}); see that its own tools take it"
        ) from e
    if lacking := [part for part in PARTS if part not in whole and part != "custom_hooks"]:
        raise EvalkitError(
            f"{path} has no {lacking[0]}; name a whole config of {scope}, with data, schedule and test, not a part"
        )
    config = {part: whole[part] for part in (*PARTS, *MORE) if whole.get(part) is not None}
    config.setdefault("custom_hooks", [])
    if not isinstance(config["model"].get("backbone"), dict):
        raise EvalkitError(f"{path}: its model has no backbone that could be replaced; choose another config")
    notes = _without_urls(config, whole.get("load_from"))
    notes += _imports(config, path)
    hooks = [hook["type"] for hook in config["custom_hooks"]]
    config["custom_hooks"] = [h for h in config["custom_hooks"] if h["type"] not in DROPPED_HOOKS]
    notes += [f"left out: {hook}, which evalkit's own loop has no use for" for hook in hooks if hook in DROPPED_HOOKS]
    dump(config, path)  # refuses what is not plain now rather than when the run starts
    return config, notes


def _without_urls(config: dict[str, Any], load_from: Any) -> list[str]:
    """Take out what points to weights on the net; a sentence that names it."""
    gone = [f"load_from ({load_from})"] if load_from else []
    for container, key, value in list(_pairs(config)):
        where = value.get("checkpoint") if key == "init_cfg" and isinstance(value, dict) else value
        if key in ("pretrained", "init_cfg", "load_from") and isinstance(where, str) and _is_url(where):
            container[key] = None
            gone.append(f"{key} ({where})")
        elif key == "init_cfg" and isinstance(value, list):
            kept = [part for part in value if not _is_url(str(part.get("checkpoint", "")))]
            gone += [f"{key} ({part['checkpoint']})" for part in value if part not in kept]
            container[key] = kept
    return [f"weights that the config names are not fetched: {', '.join(each_once(gone))}"] if gone else []


def _is_url(text: str) -> bool:
    return "://" in text


def _pairs(value: Any) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """(mapping, key, value) of every entry, the outer ones first."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key, inner
            yield from _pairs(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _pairs(inner)


def _imports(config: dict[str, Any], path: Path) -> list[str]:
    """Do the imports that a config asks for, but those of packages that only a backbone needs, which is replaced."""
    asked = config.get("custom_imports") or {}
    names = [asked] if isinstance(asked, str) else asked.get("imports", []) if isinstance(asked, dict) else asked
    names = [names] if isinstance(names, str) else list(names)
    left = [name for name in names if name.partition(".")[0] in LACKING]
    for name in (name for name in names if name not in left):
        try:
            import_module(name)
        except Exception as e:
            raise EvalkitError(
                f"{path} imports {name}, which fails ({said(e)}); install it, or make it importable"
            ) from e
    config.pop("custom_imports", None)
    if len(names) > len(left):
        config["custom_imports"] = [name for name in names if name not in left]
    return [f"left out with its backbone: {', '.join(left)}"] if left else []


# ---- as kept in the run folder


def dump(config: dict[str, Any], path: str | Path = "the config") -> str:
    """The config as a Python literal, which `load` reads. Raises EvalkitError for one that holds anything else than
    numbers, texts and containers.

    Args:
        config: The parts of a config.
        path: Where they come from, for errors.
    """
    text = repr(config)
    try:
        if ast.literal_eval(text) != config:
            raise ValueError("a value that differs from itself")
    except (ValueError, SyntaxError, RecursionError, MemoryError) as e:
        raise EvalkitError(
            f"{path} holds more than numbers, texts and containers ({said(e)}); name parts by their registered names"
        ) from e
    return text


def load(path: Path, trusted: bool = False) -> dict[str, Any]:
    """What `dump` wrote. Raises EvalkitError for a damaged file, and, unless it is `trusted`, for one that would import
    or call code by its path: a run folder may be another person's.

    Args:
        path: What holds the literal.
        trusted: Whether the user named the config in this command.
    """
    try:
        config = ast.literal_eval(path.read_text(encoding="utf-8"))
        assert isinstance(config, dict) and isinstance(config["model"]["backbone"], dict)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, AssertionError, KeyError, TypeError) as e:
        raise EvalkitError(f"{path} is missing or damaged; start again in another folder") from e
    if not trusted:
        foreign = [name for name in config.get("custom_imports", []) if str(name).partition(".")[0] not in SCOPES]
        if foreign:
            raise EvalkitError(
                f"the config of this run imports {', '.join(foreign)}, which a run folder may not ask"
                " for; name the config again: evalkit transfer ... --resume DIR config=FILE"
            )
        check_names("config", {k: v for k, v in config.items() if k not in ("model", "custom_imports")})
        check_names("config.model", {k: v for k, v in config["model"].items() if k != "backbone"})
        _known_scope(config["model"]["backbone"])
    return config


def _known_scope(backbone: dict[str, Any]) -> None:
    """The backbone that is replaced is built once, to see its maps: it must be a registered part too."""
    scope, dot, _ = str(backbone.get("type")).partition(".")
    if dot and scope not in (*SCOPES, *LACKING):
        check_names("config.model.backbone", backbone)


def digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(repr(config).encode()).hexdigest()


def said(e: Exception) -> str:
    """The first line of an error, in brackets for a message."""
    lines = str(e).strip().splitlines() or ["no message"]
    line = lines[0] if len(lines[0]) <= 200 else f"{lines[0][:197]}..."
    return f"{type(e).__name__}: {line}"
