"""The mm config that a run keeps, mm_config.py, read without executing it: the folder may be another person's."""

import ast
import re
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError

from .config import check_names

# mmengine writes keys as they are between quotes, so that others would be code in a config that is written again
KEY = re.compile(r"[^'\"\\{}\x00-\x1f]*")


def read(path: Path) -> dict[str, Any]:
    """The top-level values. Raises EvalkitError for a file that is not there or holds more than numbers, texts,
    containers and calls of `dict`, and for one that names code by its path."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        config = dict(_assigned(node) for node in body)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, TypeError, AttributeError) as e:
        raise EvalkitError(f"{path} is missing, damaged or no config that a transfer wrote; resume the run") from e
    check_names("mm_config", config)
    return config


def _assigned(node: ast.stmt) -> tuple[str, Any]:
    if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        raise ValueError(f"line {node.lineno} is no value")
    if node.targets[0].id.startswith("_"):  # such as _base_, which names another file
        raise ValueError(f"line {node.lineno} is no part of a config")
    return node.targets[0].id, _value(node.value)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != "dict":
            raise ValueError(f"line {node.lineno} calls something")
        given = [item for part in node.args for item in _value(part).items()]
        return dict(given) | {_name(k.arg): _value(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {_key(k): _value(v) for k, v in zip(node.keys, node.values)}
    if isinstance(node, ast.List):
        return [_value(part) for part in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(part) for part in node.elts)
    return ast.literal_eval(node)


def _name(name: str | None) -> str:
    if name is None:
        raise ValueError("** in a call of dict")
    return name


def _key(node: ast.expr | None) -> str | int:
    if node is None:
        raise ValueError("** in a mapping")
    key = ast.literal_eval(node)
    if isinstance(key, bool) or not isinstance(key, str | int) or (isinstance(key, str) and not KEY.fullmatch(key)):
        raise ValueError(f"the key {key!r}")
    return key
