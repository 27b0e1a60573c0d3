"""What the setting of a recipe brings for the network and the mixup that are chosen: `models` holds, for a network,
keys of the recipe; `methods`, for a method, arguments and, under `recipe`, keys of the recipe."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from evalkit.checkpoint import read_meta
from evalkit.errors import EvalkitError, unknown
from evalkit.recipe_text import flow

RECIPE = "recipe"
CODE = re.compile(r"[\w.]+:\w+")  # module:Class
OF_THE_SETTING = ("mixup", "methods", "models", "applied", "picked")  # keys that no method's `recipe` may hold
OF_A_MODEL = ("model", "models", "applied", "picked")  # keys that no entry of `models` may hold


def settle(values: Mapping[str, Any], given: Collection[str], known: Collection[str]) -> dict[str, Any]:
    """The keys of a configuration that change once its setting is applied: those that `models` holds for its network,
    its mixup with the setting's arguments, what the method's `recipe` holds, and `applied`, a line for each. What the
    command line gave comes first.

    Args:
        values: All keys of the configuration.
        given: What the command line gave, KEY or KEY.INNER.
        known: The names of all keys.

    Raises EvalkitError for an entry of `methods` that is wrong, for methods of one choice that want a key differently,
    and for another mixup in a configuration that a setting was applied to already."""
    for key in ("applied", "picked"):
        if key in given:
            raise EvalkitError(f"key '{key}' is written by the program; leave it out")
    if values["applied"] and "mixup" in given:
        raise EvalkitError(
            f"this configuration was made for its own mixup ({'; '.join(values['applied'])}); for another one name the"
            " recipe it came from"
        )
    named = {key.partition(".")[0] for key in given}
    changes, applied = of_model(values, given, known)
    values = {**values, **changes}
    methods = values["methods"]
    if not set(names(values["mixup"])) & set(methods):
        return {**changes, "applied": applied} if applied else {}
    check(methods, known)
    wanted: dict[str, tuple[str, Any]] = {}
    mixup = with_setting(values["mixup"], methods, wanted, applied)
    if not applied and not wanted:
        return {}
    changes |= {key: value for key, (_, value) in wanted.items() if key not in named}
    for key, (name, value) in wanted.items():
        if key in named:
            applied.append(f"{key}={flow(values[key])} of the command line instead of {flow(value)} for {name}")
        else:
            applied.append(f"{key}={flow(value)} for {name}")
    return {"mixup": mixup, "methods": {}, "applied": applied, **changes}


def that_of_init(values: Mapping[str, Any]) -> dict[str, Any]:
    """`model` and `model_args` of the checkpoint that `init` names, for a recipe whose `model` is null; else nothing.

    Args:
        values: All keys of the configuration.
    """
    if values["model"] is not None or values["init"] in (None, "pretrained"):
        return {}
    meta = read_meta(values["init"])
    if not isinstance(meta.get("model"), str):
        raise EvalkitError(f"init={values['init']} does not say its architecture; add model=NAME")
    return {"model": meta["model"], "model_args": {**meta.get("model_args", {}), **values["model_args"]}}


def of_model(
    values: Mapping[str, Any], given: Collection[str], known: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The keys that `models` holds for the configuration's network, with a line for each. A network of which the
    setting says nothing gets a line that says so.

    Args:
        values: The configuration, key -> value.
        given: Keys of the command line, which come first.
        known: Names of all keys.
    """
    models, model = values["models"], values["model"]
    if not models:
        return {}, []
    for name, entry in models.items():
        if not isinstance(entry, Mapping):
            raise EvalkitError(f"`models` holds {name}: {{KEY: ...}}, but got {entry!r}")
        for key in entry:
            if key not in known or key in OF_A_MODEL:
                raise unknown(f"recipe key of {name} in `models`", key, set(known) - set(OF_A_MODEL))
    if model not in models:
        return {"models": {}}, [f"{model}: not a network of this setting, which names {', '.join(models)}"]
    changes: dict[str, Any] = {"models": {}}
    lines = []
    for key, value in models[model].items():
        if key == "methods" and isinstance(value, Mapping):  # what a method gets with this network, over the others'
            both = {**values["methods"], **{name: over(values["methods"].get(name), value[name]) for name in value}}
            changes["methods"] = both
            lines.append(f"settings of {', '.join(value)} for {model}")
            continue
        within = [other for other in given if other.startswith(f"{key}.")]
        if key in given or (within and not isinstance(value, Mapping)):
            lines.append(f"{key} of the command line instead of {flow(value)} for {model}")
            continue
        changes[key] = {**value, **values[key]} if within else value
        lines.append(f"{key}={flow(changes[key])} for {model}")
    return changes, lines


def over(entry: Any, own: Any) -> Any:
    """What a setting gives a method, with what is given for one network over it; under `recipe` key by key.

    Args:
        entry: Of the setting's `methods`; None: nothing.
        own: Of the network's.
    """
    if not isinstance(entry, Mapping) or not isinstance(own, Mapping):
        return own
    inner = {**entry.get(RECIPE, {}), **own.get(RECIPE, {})}
    return {**entry, **own, **({RECIPE: inner} if inner else {})}


def names(spec: Any) -> Iterator[str]:
    """The methods that the value of `mixup` names, branches of a choice and methods inside others included."""
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, Mapping):
        if isinstance(spec.get("name"), str):
            yield spec["name"]
        for part in ("choice", "methods", "method"):
            yield from names(spec.get(part))
    elif isinstance(spec, Sequence):
        for part in spec:
            yield from names(part)


def check_code(spec: Any, given: Iterable[str], place: str, how: str) -> None:
    """Raise EvalkitError where a run or checkpoint folder names code, module:Class, that the command line does not: the
    folder may be another person's, and the module may lie in it.

    Args:
        spec: The value of `mixup` in the folder.
        given: Text of the command line.
        place: The folder.
        how: What to add to the command line, before the name.
    """
    given = list(given)
    for name in names(spec):
        if ":" in name and not any(name in text for text in given):
            raise EvalkitError(
                f"{place} names code, {name}, which is not run on the word of a folder alone; if it is yours, add"
                f" {how}{name}"
            )


def with_setting(
    spec: Any, methods: Mapping[str, Mapping[str, Any]], wanted: dict[str, tuple[str, Any]], applied: list[str]
) -> Any:
    """The value of `mixup` with the arguments that a setting has for each method in it. Its own arguments come first,
    then those of its preset.

    Args:
        spec: The value of `mixup`: a name, a mapping or a choice.
        methods: The setting: method -> argument or recipe key -> value.
        wanted: The recipe keys that the methods want are added to it: key -> (method, value).
        applied: A line for each argument is added to it.
    """
    from .mixups import METHODS

    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [with_setting(part, methods, wanted, applied) for part in spec]
    own = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    for part in ("choice", "methods", "method"):
        if part in own:
            own[part] = with_setting(own[part], methods, wanted, applied)
    name = str(own.get("name"))
    if name not in methods:
        return own if isinstance(spec, Mapping) else spec
    for key, value in methods[name].get(RECIPE, {}).items():
        other, wish = wanted.setdefault(key, (name, value))
        if wish != value:
            raise EvalkitError(f"{other} wants {key}={wish} in this setting and {name} {value}; choose: {key}=...")
    fixed = METHODS[name].PRESETS.get(own["preset"], {}) if "preset" in own else {}
    for key, value in methods[name].items():
        if key == RECIPE or key in own:
            continue
        if key in fixed or (key == "preset" and "preset" in own):
            applied.append(f"{name}: preset {own['preset']} instead of {key}={flow(value)}")
        else:
            own[key] = value
            applied.append(f"{name}: {key}={flow(value)}")
    return own


def check(methods: Mapping[str, Any], known: Collection[str]) -> None:
    """Args:
        methods: The setting: method -> argument or recipe key -> value.
        known: Names of all recipe keys.

    Raises EvalkitError for a name that is no method, and for arguments or recipe keys that do not exist.
    """
    from .mixups import METHODS, arguments

    for name, entry in methods.items():
        if name not in METHODS:
            raise unknown("mixup in `methods`", name, METHODS)
        if not isinstance(entry, Mapping) or not isinstance(entry.get(RECIPE, {}), Mapping):
            raise EvalkitError(f"`methods` holds {name}: {{ARGUMENT: ..., recipe: {{KEY: ...}}}}, but got {entry!r}")
        for key in entry:
            if key not in (*arguments(METHODS[name]), "preset", RECIPE):
                raise unknown(f"{name} key in `methods`", key, [*arguments(METHODS[name]), "preset", RECIPE])
        for key in entry.get(RECIPE, {}):
            if key not in known or key in OF_THE_SETTING:
                raise unknown(f"recipe key of {name} in `methods`", key, set(known) - set(OF_THE_SETTING))
