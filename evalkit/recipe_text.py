"""List, show and compare recipes, with the source that each one gives for a value."""

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from . import config

COMMENT = re.compile(r"^([A-Za-z_]\w*):.*?\s#\s*(.+)$")
BARE = re.compile(r"[A-Za-z][\w./-]*")


def header(path: Path) -> list[str]:
    """The comment lines at the top of a recipe: what it is, the expected result, the cost."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def sources(path: Path, folder: str) -> dict[str, str]:
    """Key -> the comment behind its value, the base's comments included.

    Args:
        path: The recipe file.
        folder: Where recipes called by name lie.
    """
    own, keys, base = {}, set(), {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.partition(":")[0]
        if key.isidentifier():
            keys.add(key)
        if match := COMMENT.match(line):
            own[match[1]] = match[2]
        if key == "base":
            name = line.partition(":")[2].partition("#")[0].strip()
            base = sources(config.base_of(path, name, folder), folder)
    return {k: v for k, v in base.items() if k not in keys} | {k: v for k, v in own.items() if k != "base"}


def listing(folder: str = "train") -> str:
    """One line per recipe: its name and the first line of its header."""
    return "\n".join(f"{name:22} {(header(path) or [''])[0]}" for name, path in config.recipes(folder).items())


def show(schema: type, recipe: str, overrides: list[str], folder: str = "train") -> str:
    """The recipe with every key written out, as YAML that is itself a recipe; values that only the defaults give are
    marked.

    Args:
        schema: The class of the keys.
        recipe: A name or a path.
        overrides: `key=value`, as typed on the command line.
        folder: Where recipes called by name lie.
    """
    path = config.find(recipe, folder)
    conf = config.resolve(schema, recipe, overrides, folder)
    given, comments = config.read(path, folder), sources(path, folder)
    changed = {text.partition("=")[0].partition(".")[0] for text in overrides}
    lines = [f"# {line}" for line in header(path)]
    for key in map(str, conf):
        note = "command line" if key in changed else comments.get(key, "" if key in given else "default")
        if key not in changed and key in given and value_of(conf, key) != given[key]:
            note = "for this mixup"
        lines.append(f"{key}: {value_text(conf, key)}" + (f"  # {note}" if note else ""))
    return "\n".join(lines)


def diff(schema: type, a: str, b: str, folder: str = "train") -> str:
    """The keys in which two recipes differ, the value of each and the source it gives; empty if there are none.

    Args:
        schema: The class of the keys.
        a: A recipe, by name or path.
        b: Another one.
        folder: Where recipes called by name lie.
    """
    pair = [
        (name, config.resolve(schema, name, [], folder), sources(config.find(name, folder), folder)) for name in (a, b)
    ]
    width = max(len(a), len(b))
    lines = []
    for key in map(str, pair[0][1]):
        texts = [value_text(conf, key) for _, conf, _ in pair]
        if texts[0] != texts[1]:
            lines.append(key)
            for (name, _, comments), text in zip(pair, texts):
                lines.append(f"  {name:{width}}  {text}" + (f"  # {comments[key]}" if key in comments else ""))
    return "\n".join(lines)


def value_text(conf: DictConfig, key: str) -> str:
    """A value as YAML on one line.

    Args:
        conf: The configuration.
        key: Which of its values.
    """
    return "???" if OmegaConf.is_missing(conf, key) else flow(value_of(conf, key))


def value_of(conf: DictConfig, key: str) -> Any:
    """A value as plain containers.

    Args:
        conf: The configuration.
        key: Which of its values.
    """
    return config.plain(conf)[key]


def flow(value: Any) -> str:
    """Plain containers as one line of YAML; text is quoted only where YAML would take it for something else."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and BARE.fullmatch(value) and config.plain(OmegaConf.create(f"v: {value}"))["v"] == value:
        return value
    return json.dumps(value, ensure_ascii=False)
