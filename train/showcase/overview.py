"""What there is to choose from: every method with its family, needs, source and cost; one method with all it says of
itself."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from evalkit.keys import kind
from evalkit.recipe_text import flow

from ..mixups import METHODS, MixMethod, arguments, find

SECTION = re.compile(r"^(\s*)Args:\s*$")
GROUP = re.compile(r"^\s+[A-Z][\w ]*:$")  # a heading over some of the arguments
AS = re.compile(r"^As (\w+(?: [A-Z]\w*)*)")  # the meaning of an argument that another method has too
ARGUMENT = re.compile(r"^(\s+)(`?\w+`?(?:, `?\w+`?)*):\s+(.*)$")


def rows() -> list[tuple[str, str, str, str, str]]:
    """(name, family, needs, paper, extra passes through a network per step) of every method."""
    return [(name, cls.family, cls.needs or "-", paper(cls), cls.extra_passes) for name, cls in METHODS.items()]


def paper(cls: type[MixMethod]) -> str:
    """The source that the class names first: the first brackets of its docstring with a year or an arXiv number."""
    found = re.search(r"\(([^()]*(?:arXiv:\d|\b(?:19|20)\d\d\b)[^()]*)\)", " ".join((cls.__doc__ or "").split()))
    return re.sub(r", (?:equations? |\").*", "", found[1]) if found else "-"


def table() -> str:
    """The methods as lines of aligned columns under a heading; below, which of them make the host wait for the
    device."""
    lines = [
        ("method", "family", "needs", "extra passes", "paper"),
        *((name, family, needs, passes, paper) for name, family, needs, paper, passes in rows()),
    ]
    waiting = ", ".join(f"{name} ({cls.waits})" for name, cls in METHODS.items() if cls.waits)
    return f"{aligned(lines)}\n\nMixing never waits for the device, but for: {waiting}."


def page(name: str) -> str:
    """All that the method `name`, of METHODS or "module:Class", says of itself. Raises EvalkitError for any other."""
    cls = find(name)
    facts = [("family", cls.family), ("needs", cls.needs or "nothing"), ("extra passes", cls.extra_passes)]
    facts += [("takes", {"vit": "ViTs only", "cnn": "CNNs only"}[cls.takes])] if cls.takes != "any" else []
    facts += [("waits for the device", cls.waits)] if cls.waits else []
    presets = [(preset, flow(dict(given)) if given else "as above") for preset, given in cls.PRESETS.items()]
    parts = [
        (name, about(cls)),
        ("About", aligned(facts)),
        ("Arguments", aligned(described(cls)) or "none"),
        ("Presets", aligned(presets)),
        ("BibTeX", inspect.cleandoc(cls.bibtex) or "none"),
    ]
    return "\n\n".join(f"{title}\n{textwrap.indent(text, '  ')}" for title, text in parts)


def about(cls: type[MixMethod]) -> str:
    """What a class says of itself, but for its arguments, which have a table of their own."""
    lines = inspect.cleandoc(cls.__doc__ or "(nothing is written about it)").splitlines()
    start = next((i for i, line in enumerate(lines) if SECTION.match(line)), len(lines))
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return "\n".join([*lines[:start], *lines[end + 1 :]]).strip()


def described(cls: type[MixMethod]) -> list[tuple[str, ...]]:
    """(name, type, default, meaning) of every argument."""
    words = meanings(cls)
    found: list[tuple[str, ...]] = []
    for name, p in arguments(cls).items():
        default = "must be given" if p.default is p.empty else flow(plain(p.default))
        found.append((name, typed(p.annotation), default, spelled_out(name, words.get(name, ""))))
    return found


def spelled_out(name: str, words: str) -> str:
    """The meaning of an argument; before 'As CutMix.' stands what CutMix says of it.

    Args:
        name: The argument.
        words: Its meaning as the class has it.
    """
    said = words
    while match := AS.match(said):
        other = next(cls for cls in METHODS.values() if cls.__name__ == match[1].replace(" ", ""))
        said = meanings(other)[name]
    return words if said is words else f"{said} {words}"


def meanings(cls: type[MixMethod]) -> dict[str, str]:
    """Argument -> its meaning in the `Args:` block of the class, or of one above it."""
    found: dict[str, str] = {}
    for owner in cls.__mro__:
        lines = inspect.cleandoc(vars(owner).get("__doc__") or "").splitlines()
        start = next((i for i, line in enumerate(lines) if SECTION.match(line)), len(lines))
        own: dict[str, str] = {}
        names: list[str] = []
        depth = 0
        for line in itertools.takewhile(str.strip, lines[start + 1 :]):
            match = ARGUMENT.match(line)
            if GROUP.match(line):
                names = []
            elif match and (not names or len(match[1]) <= depth):
                names, depth = match[2].replace("`", "").split(", "), len(match[1])
                own |= dict.fromkeys(names, match[3])
            else:
                own |= {name: f"{own[name]} {line.strip()}" for name in names}
        found = own | found
    return found


def typed(annotation: Any) -> str:
    """A type in words."""
    words = "" if annotation is inspect.Parameter.empty else kind(annotation)
    return {"MixMethod": "a method", "a list of MixMethod": "a list of methods"}.get(words, words)


def plain(value: Any) -> Any:
    """A default as YAML can hold it."""
    return list(value) if isinstance(value, tuple) else value


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Cells in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
