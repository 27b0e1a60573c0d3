"""YAML whose values are what a reader sees: what YAML 1.1 and 1.2 read differently, what names something outside of the
file, and what stands for something else in it is refused rather than guessed."""

import re
from typing import Any

import yaml

from .errors import EvalkitError
from .text import check_text

# plain scalars that YAML 1.1 takes for something else than its successor or a reader does
SURPRISES = {
    r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?": "YAML 1.1 reads a time in base 60 there; put it into quotes",
    r"[-+]?0[0-9_]+": "YAML 1.1 reads a number in base 8 there; leave out the zeros in front, or put it into quotes",
    r"[-+]?0[bo][0-9_]+": "write the number in base 10",
    r"[-+]?[0-9.]*_[0-9_.]*([eE][-+]?[0-9]+)?": "write the number without underscores, or put it into quotes",
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?": "YAML 1.1 reads a date there; put it into quotes",
    r"(=|<<)": "put it into quotes",
}
MAX_DEPTH = 40  # of mappings and lists within one another


class _Loader(yaml.SafeLoader):
    """SafeLoader that takes 1e-3 for a number, and refuses what `SURPRISES` names, aliases, repeated keys and tags."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not for recipes", problem_mark=self.peek_event().start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        event = self.peek_event()
        if event.style is None and event.tag is None:
            for pattern, advice in SURPRISES.items():
                if re.fullmatch(pattern, event.value, flags=re.IGNORECASE) and event.value != "0":
                    raise yaml.MarkedYAMLError(
                        problem=f"'{event.value}' may mean several things: {advice}", problem_mark=event.start_mark
                    )
        return super().compose_scalar_node(anchor)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int) or isinstance(key, bool) or key in seen:
                problem = f"found duplicate key {key}" if key in seen else f"{key!r} is no key"
                if isinstance(key, bool):  # YAML 1.1 takes yes, no, on and off for these
                    problem = f"'{key_node.value}' stands for {str(key).lower()} and is no key; put it into quotes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def parse(text: str) -> Any:
    """The value of a YAML text in plain containers. Raises yaml.YAMLError for what is not YAML or a surprise."""
    try:
        value = yaml.load(text, _Loader)
    except (RecursionError, ValueError, TypeError, OverflowError) as e:
        raise yaml.YAMLError(" ".join(str(e).split()) or type(e).__name__) from e
    odd = next((v for v in _values(value) if not isinstance(v, str | int | float | bool | None)), None)
    if odd is not None:
        raise yaml.YAMLError(f"a value of type {type(odd).__name__} has no meaning in a recipe")
    return value


def check_literal(value: Any, where: str) -> None:
    """Raise EvalkitError for a text, at any depth, that would be replaced by something else (`${...}` and `???`), or
    that no file can hold: bytes that are no text in this locale.

    Args:
        value: A value of a recipe.
        where: The key that holds it, for the error.
    """
    for text in _values(value):
        if isinstance(text, str):
            check_text(text, where)
        if isinstance(text, str) and ("${" in text or text == "???"):
            sign = "${" if "${" in text else "???"
            raise EvalkitError(
                f"{where}: '{sign}' stands for nothing here, and is not replaced; write the value itself"
            )


def _values(value: Any) -> list[Any]:
    """All scalars in lists and mappings, keys included."""
    found, left = [], [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            left += item
        else:
            found.append(item)
    return found
