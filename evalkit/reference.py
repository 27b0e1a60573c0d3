"""What the keys of configurations are, in words: for `evalkit recipes keys`, `--help` and the documentation."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import MISSING

from . import keys
from .errors import EvalkitError, unknown
from .recipe_text import flow

Schemas = Mapping[str, type[keys.Keys]]  # command -> the class of its keys


@dataclass(frozen=True)
class Entry:
    """A key as one or more commands take it.

    Args:
        name: The key.
        key: Its description.
        kind: Its type in words.
        default: As YAML; "" if it must be given.
    """

    name: str
    key: keys.Key
    kind: str
    default: str

    def allowed(self) -> str:
        """Type, unit and bounds in words."""
        kind = self.kind
        if self.key.choices:
            kind = "each one of" if kind.startswith("a list") else "one of"
            kind += f" {', '.join(map(str, self.key.choices))}" + (" or null" if self.kind.endswith("or null") else "")
        kind += f" in {self.key.unit}" if self.key.unit else ""
        return ", ".join(part for part in (kind, self.key.bounds()) if part)

    def given(self) -> str:
        """Its default, or that there is none."""
        return f"default {self.default}" if self.default else "must be given"

    def line(self) -> str:
        """Everything on one line."""
        return f"{self.key.meaning} ({self.allowed()}; {self.given()})"

    def text(self) -> str:
        """Everything, on lines of their own."""
        lines = [self.key.meaning, f"{self.allowed()}; {self.given()}"]
        lines += [f"{value}: {words}" for value, words in self.key.choices.items() if words]
        return "\n".join([*lines, keys.ROLES[self.key.role]])


def entries(schema: type[keys.Keys]) -> list[Entry]:
    """The keys of a configuration class, in order."""
    hints, found = keys.hints(schema), []
    for name, described in keys.of(schema).items():
        default = keys.default(schema, name)
        found.append(Entry(name, described, keys.kind(hints[name]), "" if default == MISSING else flow(default)))
    return found


def groups(schemas: Schemas) -> list[tuple[list[str], list[Entry]]]:
    """(commands, the keys that just these take), each key once; in order of the commands."""
    taken: list[tuple[Entry, list[str]]] = []
    for command, schema in schemas.items():
        for entry in entries(schema):
            commands = next((commands for known, commands in taken if known == entry), None)
            if commands is None:
                taken.append((entry, [command]))
            else:
                commands.append(command)
    together: dict[tuple[str, ...], list[Entry]] = {}
    for entry, commands in taken:
        together.setdefault(tuple(commands), []).append(entry)
    return [(list(commands), found) for commands, found in together.items()]


def listing(schemas: Schemas) -> str:
    """Every key on one line, under the commands that take it."""
    parts = []
    for commands, found in groups(schemas):
        width = max(len(entry.name) for entry in found)
        lines = [f"  {entry.name:{width}}  {entry.line()}" for entry in found]
        parts.append("\n".join([takers(commands), *lines]))
    return "\n\n".join(parts)


def page(schemas: Schemas, name: str) -> str:
    """All there is to say of a key. Raises EvalkitError for one that no command takes, or none any more.

    Args:
        schemas: Command -> the class of its keys.
        name: The key.
    """
    found = [(c, entry) for c, group in groups(schemas) for entry in group if entry.name == name]
    if found:
        return "\n\n".join(f"{name} of {takers(c)}\n{textwrap.indent(entry.text(), '  ')}" for c, entry in found)
    for schema in schemas.values():
        if name in schema.RETIRED:
            raise EvalkitError(f"key '{name}' no longer exists; {schema.RETIRED[name].now}")
        if words := schema.elsewhere(name):
            raise EvalkitError(f"unknown key '{name}'. {words}")
    raise unknown("key", name, {key for schema in schemas.values() for key in keys.of(schema)})


def takers(commands: list[str]) -> str:
    """Commands in words: 'evalkit robustness fgsm, pgd'."""
    by_verb: dict[str, list[str]] = {}
    for command in commands:
        verb, _, rest = command.partition(" ")
        by_verb.setdefault(verb, []).append(rest)
    return "; ".join(f"evalkit {verb} {', '.join(rest)}".rstrip() for verb, rest in by_verb.items())
