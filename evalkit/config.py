"""Recipes: YAML files plus key=value overrides, checked against a frozen dataclass. Strict: what is not understood is
an error."""

import dataclasses
import importlib
import re
import types
import typing
import warnings
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import keys, plain_yaml
from .errors import EvalkitError, suggest, unknown

T = TypeVar("T", bound=keys.Keys)
MOST_BYTES = 2**20  # of a YAML file; parsing it takes seconds, and many times its memory
NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)?(\.\d*)?([eE][-+]?\d+)?|nan|inf)", re.ASCII)  # that may stand in quotes


def load(schema: type[T], recipe: str | Path | None, overrides: list[str] | None = None, folder: str = "train") -> T:
    """A configuration: defaults, the recipe's values, then the overrides, all checked.

    Args:
        schema: The class of the keys.
        recipe: The name of one in configs/`folder`, the path of a YAML file, or None for the defaults alone.
        overrides: `key=value`, as typed on the command line.
        folder: Where recipes called by name lie.

    Raises EvalkitError for an unknown recipe or key (naming the closest one), a value of the wrong type, a missing key,
    or what the schema's `check()` refuses.
    """
    conf = resolve(schema, recipe, overrides, folder)
    missing = [name for name in keys.of(schema) if OmegaConf.is_missing(conf, name)]
    if missing:
        raise EvalkitError(
            f"{_called(recipe)} lacks {', '.join(missing)}; add {' '.join(f'{name}=...' for name in missing)}"
        )
    cfg = to_instance(conf)
    cfg.check()
    idle = cfg.idle()
    given = {text.partition("=")[0].partition(".")[0] for text in overrides or []}
    for name, why in idle.items():
        if name in given:
            raise EvalkitError(f"key '{name}' has no effect here; {why}")
    if recipe is not None and idle:
        own = _meant(schema, find(recipe, folder))
        for name in own.keys() & idle.keys() - given:
            if getattr(cfg, name) != keys.default(schema, name):
                raise EvalkitError(f"{_called(recipe)}: key '{name}' has no effect here; {idle[name]}, or leave it out")
    return cfg


def _meant(schema: type[keys.Keys], path: Path) -> dict[str, Any]:
    """What a recipe file gives because it is meant: all of one with a few keys, nothing of one that writes out most."""
    values = _read_file(path)
    return values if 2 * len(values) < len(keys.of(schema)) else {}


def resolve(
    schema: type[keys.Keys], recipe: str | Path | None, overrides: list[str] | None = None, folder: str = "train"
) -> DictConfig:
    """Like `load`, but mandatory keys may still be missing: for showing and comparing recipes whose data folder is the
    user's to name.

    Args:
        schema: The class of the keys.
        recipe: As in `load`.
        overrides: `key=value`, as typed on the command line.
        folder: Where recipes called by name lie.
    """
    keys.of(schema)  # refuses a class that does not describe its keys
    conf, fields = OmegaConf.structured(schema), keys.hints(schema)
    OmegaConf.set_readonly(conf, False)  # a frozen dataclass makes a read-only config
    if recipe is not None:
        for name, value in _current(schema, read(find(recipe, folder), folder), f"{_called(recipe)}: ").items():
            _set(conf, fields, name, value, f"{_called(recipe)}: ")
    before: list[str] = []
    for text in overrides or []:
        path = text.partition("=")[0]
        if any(f"{earlier}.".startswith(f"{path}.") for earlier in before):
            warnings.warn(f"key '{path}' is given more than once; the last one counts: {text}", stacklevel=3)
        before.append(path)
        name = path.partition(".")[0]
        if name in schema.RETIRED:
            raise EvalkitError(f"key '{name}' no longer exists; {schema.RETIRED[name].now}")
        if "=" in text and name and name not in fields and (words := schema.elsewhere(name)):
            raise EvalkitError(f"unknown key '{path}'. {words}")
        _override(conf, fields, text)
    given = {text.partition("=")[0] for text in overrides or []}
    for name, value in schema.settle(plain(conf), given).items():
        _set(conf, fields, name, value, f"{_called(recipe)}: ")
    return conf


def _current(schema: type[keys.Keys], values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of a file without keys of the past: renamed, or dropped with a line where nothing is lost by it."""
    kept = {}
    for name, value in values.items():
        retired = schema.RETIRED.get(name) if isinstance(name, str) else None
        if retired is None:
            kept[name] = value
        elif retired.renamed is not None and retired.renamed not in values:
            kept[retired.renamed] = value
            warnings.warn(f"{where}key '{name}' is called '{retired.renamed}' now", stacklevel=3)
        elif value in retired.harmless:
            warnings.warn(f"{where}key '{name}' no longer exists; without it nothing changes", stacklevel=3)
        else:
            raise EvalkitError(f"{where}key '{name}' no longer exists; {retired.now}")
    return kept


def to_instance(conf: DictConfig) -> Any:
    """The dataclass instance with plain containers."""
    try:
        return OmegaConf.to_object(conf)
    except OmegaConfBaseException as e:
        raise EvalkitError(f"cannot resolve the configuration: {_first_line(e)}") from e


def to_dict(cfg: Any) -> dict[str, Any]:
    """The configuration as plain containers that JSON can hold."""
    return dataclasses.asdict(cfg)


def to_yaml(cfg: Any) -> str:
    """YAML text of a configuration; loading it gives an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def save(cfg: Any, path: str | Path) -> None:
    """Write the configuration so that `evalkit train PATH` runs it again; atomic.

    Args:
        cfg: An instance of the class of its keys.
        path: The YAML file.
    """
    from .files import write_atomic

    write_atomic(
        path,
        lambda f: f.write(
            ("# The resolved configuration of this run; it is a recipe itself.\n" + to_yaml(cfg)).encode()
        ),
    )


def plain(conf: Any) -> Any:
    """What OmegaConf holds as plain containers."""
    return OmegaConf.to_container(conf)


# ---- recipe files


def recipes(folder: str = "train") -> dict[str, Path]:
    """The recipes that come with evalkit: name -> file, sorted by name."""
    root = Path(str(importlib.import_module("evalkit.configs").__file__)).parent
    return {path.stem: path for path in sorted((root / folder).glob("*.yaml"), key=lambda p: p.stem)}


def find(recipe: str | Path, folder: str = "train") -> Path:
    """The file of a recipe given by name or path.

    Args:
        recipe: A name or a path.
        folder: Where recipes called by name lie.
    """
    if isinstance(recipe, Path) or "/" in recipe or "\\" in recipe or recipe.endswith((".yaml", ".yml")):
        if not Path(recipe).is_file():
            raise EvalkitError(
                f"no recipe file '{recipe}'; give the path of a YAML file or a name from `evalkit recipes list`"
            )
        return Path(recipe)
    known = recipes(folder)
    if recipe not in known:
        raise unknown("recipe", recipe, known)
    return known[recipe]


def read(path: Path, folder: str = "train") -> dict[str, Any]:
    """The values of a recipe file on top of those of its `base:`, if it names one; a base has no base itself.

    Args:
        path: The recipe file.
        folder: Where recipes called by name lie.
    """
    values = _read_file(path)
    if "base" not in values:
        return values
    base = base_of(path, values["base"], folder)
    below = _read_file(base)
    if "base" in below:
        raise EvalkitError(f"{path.name}: its base '{values['base']}' has a base itself; only one level is allowed")
    del values["base"]
    return below | values


def base_name(path: Path) -> Any:
    """What the recipe file `path` names as its base; None for one without."""
    return _read_file(path).get("base")


def base_of(path: Path, name: Any, folder: str) -> Path:
    """The file that `base: name` in a recipe file means: a file beside it, else a recipe's name.

    Args:
        path: The recipe file.
        name: The value of `base`.
        folder: Where recipes called by name lie.
    """
    if not isinstance(name, str):
        raise EvalkitError(f"{path.name}: `base` must be the name or the path of a recipe, but got {name!r}")
    beside = path.parent / name
    return beside if beside.is_file() else find(name, folder)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise EvalkitError(
                f"{path} has {size / 2**20:,.1f} MiB, and a recipe or study has {MOST_BYTES >> 20} MiB at most"
            )
        text = path.read_text(encoding="utf-8")
        OmegaConf.create(text)  # whose words for what is no YAML are the clearer ones
        values = plain_yaml.parse(text)
    except (OSError, UnicodeDecodeError) as e:
        raise EvalkitError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise EvalkitError(f"{path}{line}: {_yaml_problem(e)}") from e
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise EvalkitError(f"{path}: a recipe is a list of `key: value` lines, but this holds {type(values).__name__}")
    return values


# ---- overrides


def _override(conf: DictConfig, fields: dict[str, Any], text: str) -> None:
    """Apply one 'key=value'. 'mixup.alpha=0.5' goes into a mapping; a plain name becomes {name: ..., alpha: 0.5}."""
    key, equals, value = text.partition("=")
    name, *inner = key.split(".")
    if not equals or value.strip() == "" or not all((name, *inner)):
        raise EvalkitError(f"'{text}' is not key=value; for no value write {key}=null, for empty text {key}='\"\"'")
    if name not in fields:
        raise unknown("key", key, fields)
    if not inner:
        _set(conf, fields, name, _parse(key, value, _is_text(fields[name])))
        return
    current = plain(conf)[name]
    if isinstance(current, str) and fields[name] is Any:
        current = {"name": current}
    if not isinstance(current, dict):
        raise EvalkitError(f"key '{key}' cannot be set, since {name} is not a mapping; give {name} as a whole")
    if "choice" in current:
        raise EvalkitError(
            f"{name} is a choice of several, so '{key}' is ambiguous; replace it as a whole: {name}='{{choice: [...]}}'"
            f" or {name}=NAME"
        )
    target: dict[str, Any] = current
    for part in inner[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise EvalkitError(f"key '{key}' cannot be set, since {part} is not a mapping; give it as a whole")
    target[inner[-1]] = _parse(key, value, False)
    _set(conf, fields, name, current)


def _parse(key: str, text: str, is_text: bool) -> Any:
    """The YAML value of an override. A key that holds text keeps what was typed (a folder called 007 or yes), unless it
    is quoted or null."""
    if is_text and text[0] not in "'\"" and text != "null":
        return text
    try:
        OmegaConf.create(f"value: {text}")
        value = plain_yaml.parse(f"value: {text}")["value"]
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, KeyError, RecursionError) as e:
        raise EvalkitError(f"{key}={text}: {_yaml_problem(e)}") from e
    if isinstance(value, dict) and (glued := next((k for k, v in value.items() if v is None and ":" in str(k)), None)):
        raise EvalkitError(
            f"{key}={text}: YAML wants a blank after the colon of a mapping: '{glued.replace(':', ': ', 1)}', and"
            " quotes around it all"
        )
    return value


# ---- the schema


def _set(conf: DictConfig, fields: dict[str, Any], name: Any, value: Any, where: str = "") -> None:
    """Give a key a value that its type takes."""
    if name not in fields:
        raise EvalkitError(f"{where}unknown key '{name}'.{suggest(str(name), fields)}")
    plain_yaml.check_literal(value, f"{where}key '{name}'")
    try:
        if _is_text(fields[name]) and not isinstance(value, str | None):
            raise ValueError("YAML reads this as something else than text")
        if isinstance(value, str) and not _takes_text(fields[name]) and not NUMBER.fullmatch(value):
            raise ValueError("this is text")
        OmegaConf.update(conf, name, value, merge=False)
    except (OmegaConfBaseException, ValueError) as e:
        raise EvalkitError(
            f"{where}key '{name}' must be {keys.kind(fields[name], examples=True)}, but got {value!r}"
        ) from e


def _takes_text(hint: Any) -> bool:
    """Whether a key may hold text: OmegaConf would make numbers of '012' and '1_000', and true of 'yes'."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(part is Any or part is str for part in parts)


def _is_text(hint: Any) -> bool:
    return hint is str or (isinstance(hint, types.UnionType) and set(typing.get_args(hint)) == {str, type(None)})


def _called(recipe: str | Path | None) -> str:
    return "the configuration" if recipe is None else f"recipe '{recipe}'"


def _first_line(e: Exception) -> str:
    return str(e).splitlines()[0] if str(e) else type(e).__name__


def _yaml_problem(e: Exception) -> str:
    if "node expansion" in str(e):  # OmegaConf's bound, whose words advise to lift it
        return "it holds more than 10,000 values"
    return f"not valid YAML: {getattr(e, 'problem', None) or _first_line(e)}"
