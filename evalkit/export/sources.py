"""Files of evalkit that go along with an export, as one flat package that imports nothing of evalkit."""

import ast
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from .. import __version__

PACKAGE = "evalkit_export"
INIT = f'"""Parts of evalkit {__version__} that this export needs (https://www.apache.org/licenses/LICENSE-2.0)."""\n'


def write(folder: Path, modules: Iterable[str]) -> None:
    """Write `modules` and whatever of evalkit they import into the package `PACKAGE` below a folder.

    Args:
        folder: Where the package goes.
        modules: By their full names; each lands under its last part.
    """
    left, done = list(modules), dict[str, str]()
    while left:
        name = left.pop()
        text, needed = flat(name, source(name))
        done[name] = f"# SPDX-License-Identifier: Apache-2.0, from evalkit {__version__}\n{text}"
        left += [other for other in needed if other not in done]
    stems = [name.rpartition(".")[2] for name in done]
    assert len(set(stems)) == len(stems), f"two of {sorted(done)} would be one file"
    if done:
        (folder / PACKAGE).mkdir()
        (folder / PACKAGE / "__init__.py").write_text(INIT, encoding="utf-8")
    for name, text in done.items():
        (folder / PACKAGE / f"{name.rpartition('.')[2]}.py").write_text(text, encoding="utf-8")


def source(name: str) -> str:
    """The text of a module."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"{name} is a file"
    return Path(spec.origin).read_text(encoding="utf-8")


def flat(name: str, text: str) -> tuple[str, list[str]]:
    """The text of a module with its imports of evalkit as imports beside it, and the modules that it imports.

    Args:
        name: Of the module.
        text: Its source.
    """
    lines, needed = text.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom):
            continue
        above = name.split(".")[: -node.level] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        if module.partition(".")[0] != "evalkit":
            continue
        words = ", ".join(f"{a.name} as {a.asname}" if a.asname else a.name for a in node.names)
        # `from . import x` names modules in its list
        beside = node.module is None
        needed += [f"{module}.{a.name}" for a in node.names] if beside else [module]
        assert node.end_lineno is not None
        for number in range(node.lineno - 1, node.end_lineno):
            lines[number] = ""
        place = "." if beside else f".{module.rpartition('.')[2]}"
        lines[node.lineno - 1] = f"{' ' * node.col_offset}from {place} import {words}\n"
    return "".join(lines), needed


def imports(modules: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """The part of an mm config that imports modules which `write` wrote."""
    return {"custom_imports": {"imports": [f"{PACKAGE}.{name.rpartition('.')[2]}" for name in modules]}}


def of_architecture(entry: str) -> list[str]:
    """What registers an architecture with timm, if it is evalkit's.

    Args:
        entry: The module of its function.
    """
    return [entry] if entry.partition(".")[0] == "evalkit" else []
