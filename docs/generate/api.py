"""The pages on Python: what the packages promise, and every public name of every module."""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from .markup import contents, page

PACKAGES = ("evalkit", "evalkit.train", "evalkit.robustness", "evalkit.downstream")
NEED_MM = "evalkit.downstream.mm"  # imported where mmengine is installed
FORMULA = re.compile(r"^ {4,}\S")  # lines of a docstring that are set as they are
GROUP = re.compile(r"^ {4}[A-Z][^:]*:$")  # a heading over some of the arguments


def pages() -> dict[str, str]:
    """Name -> text."""
    found: dict[str, list[ModuleType]] = {}
    for module in modules():
        name = module.__name__
        found.setdefault(name if hasattr(module, "__path__") else name.rpartition(".")[0], []).append(module)
    promised = [module for module in modules() if hasattr(module, "__all__")]
    listed = sorted(found)
    return {
        "api": page(
            [
                "# Python API",
                "What these modules name in `__all__` is what others may build on, see"
                " [compatibility](../pages/compatibility). Every other public name, for those who add to evalkit,"
                " is on the page of its package: "
                + ", ".join(f"[{name}](modules/{name})" for name in listed)
                + f". `{NEED_MM}` works with mmengine and is described in its source.",
                *(block for module in promised for block in promise(module)),
                contents(f"modules/{name}" for name in listed),
            ]
        ),
        **{
            f"modules/{name}": page([f"# {name}", *(b for m in below for b in documented(m))])
            for name, below in found.items()
        },
    }


def promise(module: ModuleType) -> Iterator[str]:
    """What a module names in `__all__`."""
    yield f"## {module.__name__}"
    yield first_paragraph(module)
    for name in module.__all__:
        yield entry(module.__name__, name, getattr(module, name), index=False)


def documented(module: ModuleType) -> Iterator[str]:
    """A module with the functions and classes that it defines."""
    if hasattr(module, "__path__"):
        yield inspect.getdoc(module) or ""
    else:
        yield f"## {module.__name__}"
        yield directive("automodule", module.__name__)
    for name, value in vars(module).items():
        made_here = getattr(value, "__module__", None) == module.__name__ and inspect.isroutine(
            value
        ) | inspect.isclass(value)
        if made_here and not name.startswith("_"):
            yield entry(module.__name__, name, value)


def entry(module: str, name: str, value: Any, index: bool = True) -> str:
    """The documentation of a name.

    Args:
        module: Where it is.
        name: It.
        value: What it is.
        index: Whether links lead here; of a name that is in two places, one.
    """
    options = () if index else ("no-index",)
    if inspect.isclass(value):
        return directive("autoclass", f"{module}.{name}", "members", "show-inheritance", *options)
    if inspect.isroutine(value):
        return directive("autofunction", f"{module}.{name}", *options)
    words = meaning(module, name, value)
    if isinstance(value, dict | tuple | list):
        words += f" A {type(value).__name__} of {len(value)}: {', '.join(map(str, value))}."
    elif isinstance(value, str | int | float):
        words += f" {value!r}."
    return directive("py:data", f"{module}.{name}", *options, text=words)


def meaning(module: str, name: str, value: Any) -> str:
    """The comment `#: ...` above the line that makes a constant. Raises ValueError where there is none.

    Args:
        module: Where it is promised.
        name: It.
        value: What it is.
    """
    for place in [import_module(module), *(m for m in modules() if vars(m).get(name) is value)]:
        if found := re.search(rf"^ *#: (.+)\n *{name}\b", inspect.getsource(place), re.MULTILINE):
            return found[1]
    raise ValueError(f"nothing says what {module}.{name} is; write `#: ...` above the line that makes it")


def directive(kind: str, name: str, *options: str, text: str = "") -> str:
    """A directive of Sphinx, in reStructuredText as docstrings are read.

    Args:
        kind: Its name.
        name: What it is given.
        options: Its options, without values.
        text: What stands in it.
    """
    lines = [f".. {kind}:: {name}", *(f"   :{option}:" for option in options)]
    lines += ["   :exclude-members: __init__, __new__, loader_extras"] if "members" in options else []
    lines += ["", f"   {text}"] if text else []
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```"


def first_paragraph(module: ModuleType) -> str:
    """How its docstring begins."""
    return " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split())


def modules() -> list[ModuleType]:
    """Every module of the library that can be imported without mmengine and without being run."""
    found: list[str] = []
    for package in PACKAGES:
        found.append(package)
        for info in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            outside = any(info.name.startswith(p + ".") for p in PACKAGES[1:]) and package == "evalkit"
            if not outside and not info.name.endswith("__main__") and not info.name.startswith(NEED_MM):
                found.append(info.name)
    return [import_module(name) for name in found]


def literal_formulas(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Sphinx's hook, before napoleon reads `Args:`: docstrings here are plain text whose indented paragraphs are
    formulas, which become literal blocks; groups of arguments lose their headings."""
    out: list[str] = []
    arguments = grouped = formula = False
    for line in lines:
        if not line.strip():
            arguments = grouped = formula = False
        elif line.strip() in ("Args:", "Arguments:"):
            arguments = True
        elif arguments and GROUP.match(line):
            grouped = True
            continue
        elif not arguments and FORMULA.match(line) and (formula or not out or not out[-1].strip()):
            out += [] if formula else ["::", ""]
            formula = True
        if grouped and line.startswith(" " * 8):
            line = line[4:]
        out.append(line if formula else re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", line))
    lines[:] = out
