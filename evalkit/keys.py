"""Keys of configurations, each described where it is defined: meaning, unit, choices, bounds and what depends on it.

A configuration is a frozen dataclass derived from `Keys` whose fields are made by `key`:

    @dataclass(frozen=True)
    class MyConfig(Keys):
        lr: float = key(MISSING, "learning rate at the full batch size", above=0)

What is said here is what checks, errors, `--help`, `evalkit recipes keys` and the documentation read.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from .errors import EvalkitError, unknown

# What a key decides about the numbers of a run.
ROLES = {
    "setting": "setting: can move a number",
    "seed": "seed: chooses one of many runs that are equally good",
    "place": "place or name: no setting; results know models and data by their content",
    "bits": "last bits: can move the last bits of a number, no more",
    "execution": "execution: moves not one bit and may change on resume",
}
MANY = 2**32  # larger powers of two are written as such


@dataclasses.dataclass(frozen=True)
class Key:
    """The description of a key. Bounds and choices hold for each member of a list; null is allowed where the type says
    so.

    Args:
        meaning: What it is, in words.
        unit: What a number counts.
        choices: Value -> what it means, "" if its name says.
        least: The least value, which belongs to the range.
        above: The value that must be exceeded.
        most: The largest value, which belongs to the range.
        role: One of `ROLES`: whether it can move a number.
    """

    meaning: str
    unit: str = ""
    choices: Mapping[Any, str] = dataclasses.field(default_factory=dict)
    least: float | None = None
    above: float | None = None
    most: float | None = None
    role: str = "setting"

    def __post_init__(self) -> None:
        if not isinstance(self.meaning, str) or not self.meaning.strip():
            raise TypeError("a key needs a meaning, in words a user of `evalkit recipes keys` understands")
        if self.meaning.rstrip().endswith("."):
            raise TypeError(f"the meaning of a key goes on behind it, so it has no full stop: {self.meaning!r}")
        if self.role not in ROLES:
            raise TypeError(f"the role of a key is one of {', '.join(ROLES)}, but got {self.role!r}")

    def bounds(self) -> str:
        """What a number must be, in words; "" if anything finite goes."""
        low = self.least if self.above is None else self.above
        if self.most is None:
            return "" if low is None else f"{'at least' if self.above is None else 'larger than'} {spoken(low)}"
        if low is None:
            return f"at most {spoken(self.most)}"
        if self.above is None:
            return f"between {spoken(low)} and {spoken(self.most)}"
        return f"larger than {spoken(low)} and at most {spoken(self.most)}"

    def allows(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
        )

    def check(self, name: str, value: Any) -> None:
        """Raise EvalkitError, naming the key, for a value outside the choices or bounds."""
        members = value if isinstance(value, list | tuple) else [value]
        for member in members:
            if member is None:
                continue
            if self.choices and member not in self.choices:
                raise unknown(f"value of {name}", str(member), map(str, self.choices))
            if isinstance(member, bool) or not isinstance(member, int | float) or self.allows(member):
                continue
            words = self.bounds() or "a finite number"
            words = f"{'lie' if words.startswith('between') else 'be'} {words}"
            subject = f"each number of key '{name}'" if members is value else f"key '{name}'"
            raise EvalkitError(f"{subject} must {words}, but got {value}")


def key(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    choices: Sequence[Any] | Mapping[Any, str] = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    role: str = "setting",
) -> Any:
    """A field of a class derived from `Keys`, described.

    Args:
        default: Its value where a recipe gives none; a list or mapping is copied; `omegaconf.MISSING` if it must be
            given.
        meaning: What it is, in words; for a type with null also what null means.
        unit: What a number counts, where the meaning leaves it open.
        choices: All values that are allowed, with what each means where names do not say it.
        least: The least value that is allowed.
        above: The value that must be exceeded.
        most: The largest value that is allowed.
        role: One of `ROLES`: whether the key can move a number.

    Raises TypeError for an empty meaning or an unknown role.
    """
    described = choices if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
    metadata = {"key": Key(meaning, unit, dict(described), least, above, most, role)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Keys:
    """Base of every configuration class. A field that is not made by `key` is a TypeError when the class is defined.

    `RETIRED` names keys of the past: old name -> `Retired`. A file that holds one is still read where that is safe."""

    RETIRED: ClassVar[Mapping[str, "Retired"]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, hint in inspect.get_annotations(cls).items():
            field = cls.__dict__.get(name)
            if ClassVar in (typing.get_origin(hint), hint):
                continue
            if not isinstance(field, dataclasses.Field) or "key" not in field.metadata:
                raise TypeError(f"{cls.__name__}.{name} is not described; define it by key(default, meaning, ...)")

    @classmethod
    def settle(cls, values: Mapping[str, Any], given: Collection[str]) -> Mapping[str, Any]:
        """Keys that change once all are read, because one of them decides about others; the keys `given` on the command
        line never do."""
        return {}

    @classmethod
    def elsewhere(cls, name: str) -> str:
        """Where something that is no key belongs, as a sentence: the key whose meaning begins with these words; ""
        where there is none."""
        words = name.replace("_", " ").replace("-", " ")
        known = of(cls).items() if len(words) > 3 and name.replace("-", "_") not in of(cls) else ()
        found = next((key for key, described in known if f"{described.meaning} ".startswith(f"{words} ")), None)
        return f"Did you mean '{found}', {of(cls)[found].meaning.partition(';')[0]}?" if found else ""

    def idle(self) -> dict[str, str]:
        """Key -> what would give it an effect, for each that has none beside the other keys as they are. Giving one of
        these is an error."""
        return {}

    def check(self) -> None:
        """Raises EvalkitError for a value outside the choices or bounds of its key; a class adds what depends on
        several keys."""
        for name, described in of(type(self)).items():
            described.check(name, getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Retired:
    """A key that is no more.

    Args:
        now: What does its work, in a few words.
        renamed: The key that its value goes to.
        harmless: Values (what the key was by default, mostly) that are dropped without a loss.
    """

    now: str
    renamed: str | None = None
    harmless: tuple[Any, ...] = ()


def of(schema: type) -> dict[str, Key]:
    """Name -> description of every key of a configuration class, in order of definition."""
    if not (isinstance(schema, type) and issubclass(schema, Keys)):
        raise TypeError(f"{schema!r} is not a configuration: derive it from evalkit.keys.Keys and describe its keys")
    return {field.name: field.metadata["key"] for field in dataclasses.fields(typing.cast(Any, schema))}


def named(schema: type, *roles: str) -> set[str]:
    """The names of the keys with one of these roles.

    Args:
        schema: The class of the keys.
        roles: Some of `ROLES`.
    """
    return {name for name, described in of(schema).items() if described.role in roles}


def default(schema: type, name: str) -> Any:
    """The default of a key; `omegaconf.MISSING` if it must be given.

    Args:
        schema: The class of the keys.
        name: The key.
    """
    field = next(field for field in dataclasses.fields(typing.cast(Any, schema)) if field.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def kind(hint: Any, examples: bool = False) -> str:
    """A type in words.

    Args:
        hint: The type, as annotated.
        examples: Whether it is said how a value is written, where that is not evident.
    """
    words = {int: "an integer", float: "a number", bool: "true or false", Any: "anything", str: "text"}
    if isinstance(hint, types.UnionType):
        return " or ".join("null" if part is type(None) else kind(part, examples) for part in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple, Sequence):
        member = typing.get_args(hint)[0]
        inner = {int: "integers", float: "numbers", str: "texts"}.get(member, getattr(member, "__name__", "values"))
        return f"a list of {inner}" + " such as [1, 2]" * examples
    if typing.get_origin(hint) is dict:
        return "a mapping" + " such as {key: 1}" * examples
    return words.get(hint, getattr(hint, "__name__", str(hint))) + " (in quotes if it looks like a number)" * (
        examples and hint is str
    )


def hints(schema: type) -> dict[str, Any]:
    """Name -> type of every key."""
    types_ = typing.get_type_hints(schema)
    return {field.name: types_[field.name] for field in dataclasses.fields(typing.cast(Any, schema))}


def spoken(number: float) -> str:
    """A bound as text; 2^64-1 as such."""
    if isinstance(number, int) and number >= MANY and (number + 1).bit_count() == 1:
        return f"2^{number.bit_length()}-1"
    return f"{number:g}" if isinstance(number, float) else str(number)
