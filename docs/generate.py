"""The reference pages of the site, each from what describes itself: keys, methods, protocols, records, commands, API.

`write(folder)` makes them; `python docs/generate.py DIR` does the same by hand.
"""

import inspect
import json
import pkgutil
import re
import sys
import typing
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from evalkit import keys, records, reference
from evalkit.cli import app, described, schemas
from evalkit.protocols import UNITS, Protocol
from evalkit.train.mixups import METHODS, MixMethod
from evalkit.train.showcase import overview

ROOT = Path(__file__).parent.parent
FORMULA = re.compile(r"^ {4,}\S")  # lines of a docstring that are set as they are
GROUP = re.compile(r"^ {4}[A-Z][^:]*:$")  # a heading over some of the arguments
PACKAGES = ("evalkit", "evalkit.train", "evalkit.robustness", "evalkit.downstream")
KINDS = {"accuracy": "Accuracy", "robustness": "Robustness", "transfer": "Transfer"}


def write(folder: Path) -> list[Path]:
    """Write every page of the reference into `folder`.

    Args:
        folder: Where; made if it is not there, and emptied of pages of before.

    Returns the pages.
    """
    pages = {
        "keys": key_page(),
        "methods": method_page(),
        "protocols": protocol_page(),
        "records": record_page(),
        "commands": command_page(),
        "api": api_page(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    written = []
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:  # Sphinx reads anew what is newer
            path.write_text(text)
        written.append(path)
    return written


def key_page() -> str:
    """Every key of every command, under the commands that take it."""
    parts = ["# Keys", "What follows a recipe or checkpoint as `key=value`, by the commands that take it."]
    for commands, found in reference.groups(schemas.schemas()):
        parts.append(f"## {reference.takers(commands)}")
        for entry in found:
            values = "\n".join(f"  * `{value}`: {words}" for value, words in entry.key.choices.items() if words)
            about = f"{safe(entry.key.meaning)}. *{safe(entry.allowed())}; {safe(entry.given())}; {safe(role(entry))}.*"
            parts.append(f"`{entry.name}`\n: {about}" + (f"\n\n{values}" if values else ""))
    return page(parts)


def role(entry: reference.Entry) -> str:
    """What a key decides about numbers."""
    return keys.ROLES[entry.key.role]


def method_page() -> str:
    """Every method: formula, arguments, presets, cost, BibTeX."""
    cost = bench_figures()
    parts = [
        "# Methods",
        "Each as its class describes it; `evalkit mixup list NAME` prints the same, and `evalkit mixup preview` shows"
        " what it does to your images. The cost is milliseconds for a batch over those of copying it, as"
        " `benchmarks/results/mixup_bench.json` recorded them on two CPU cores, without passes through networks.",
        table(
            ("method", "family", "needs", "extra passes", "cost", "paper"),
            [
                (f"[{name}](#{name.replace('_', '-')})", family, needs, passes, cost.get(name, "–"), paper)
                for name, family, needs, paper, passes in overview.rows()
            ],
        ),
    ]
    for name, cls in METHODS.items():
        parts += [f"({name.replace('_', '-')})=\n## {name}", docstring(cls), argument_table(cls), preset_table(cls)]
        if cls.bibtex:
            parts.append(f"```bibtex\n{inspect.cleandoc(cls.bibtex)}\n```")
    return page(parts)


def bench_figures() -> dict[str, str]:
    """Method -> its recorded ratio to copying the batch."""
    found = json.loads((ROOT / "benchmarks" / "results" / "mixup_bench.json").read_text())["methods"]
    return {name: f"{figures['ratio_to_clone']:.2f}" for name, figures in found.items()}


def argument_table(cls: type[MixMethod]) -> str:
    """The arguments of a method with type, default and meaning."""
    rows = [(f"`{name}`", kind, f"`{given}`", words) for name, kind, given, words in overview.described(cls)]
    return table(("argument", "type", "default", "meaning"), rows) if rows else ""


def preset_table(cls: type[MixMethod]) -> str:
    """The presets of a method, but for one that sets nothing."""
    rows = [
        (f"`{name}`", ", ".join(f"`{k}={v}`" for k, v in given.items())) for name, given in cls.PRESETS.items() if given
    ]
    return table(("preset", "sets"), rows) if rows else ""


def protocol_page() -> str:
    """Every protocol: what it measures, its metrics with direction, its keys, its data."""
    found = list(described.protocols().values())
    parts = ["# Protocols"]
    for kind, title in KINDS.items():
        parts.append(f"## {title}")
        for protocol in (p for p in found if p.kind == kind):
            parts += one_protocol(protocol)
    return page(parts)


def one_protocol(protocol: Protocol) -> Iterable[str]:
    """A protocol's section."""
    yield f"### {protocol.name}"
    needs = "; ".join(f"`{key}`: {data}" for key, data in protocol.needs.items())
    yield f"{protocol.sentence} Version {protocol.version}." + (f" Needs {needs}." if needs else "")
    measured = inspect.getdoc(import_module(protocol.code.partition(":")[0]))
    yield literal(measured or "")
    better = {"high": "higher", "low": "lower", "neither": "–"}
    yield table(
        ("metric", "column", "better", "what it is", "unit"),
        [(f"`{m.name}`", m.title, better[m.better], m.meaning, UNITS[m.unit]) for m in protocol.metrics],
    )
    for figure in protocol.figures:
        yield f"*Figure, {figure.title}.* {figure.caption}"


def record_page() -> str:
    """The fields of a record."""
    rows = [(f"`{name}`", kind, meaning) for name, kind, meaning in records.fields()]
    return page(
        [
            "# Records",
            f"A line of `results.jsonl` is one measurement, JSON, schema {records.SCHEMA}. `evalkit.results.read` reads"
            " the files of a folder; a file that holds another field, or lacks one, is named and left out.",
            table(("field", "type", "what it is"), rows),
        ]
    )


def command_page() -> str:
    """What every command prints for --help."""
    import typer
    from typer.testing import CliRunner

    runner, parts = CliRunner(), ["# Commands", "What each prints for `--help`."]
    for words in commands(typer.main.get_command(app)):
        printed = runner.invoke(app, [*words, "--help"], prog_name="evalkit", env={"COLUMNS": "110"}).output
        parts.append(f"## evalkit {' '.join(words)}".rstrip() + f"\n\n```text\n{printed.strip()}\n```")
    return page(parts)


def commands(command: typing.Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command below `command`."""
    below = getattr(command, "commands", {})
    if not below:
        return [words]
    return [found for name, sub in sorted(below.items()) for found in commands(sub, (*words, name))]


def api_page() -> str:
    """The public names of Python: of the packages' __all__, and every public module."""
    parts = [
        "# Python API",
        "What the packages name in `__all__` is what others may build on (see [compatibility](../pages/compatibility));"
        " the modules beneath are documented for those who add to evalkit.",
    ]
    for name in modules():
        parts.append(
            f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n"
            "   :exclude-members: __init__, __new__, loader_extras\n"
            + ("   :no-index:\n" if hasattr(import_module(name), "__path__") else "")
            + "```"
        )
    return page(parts)


def modules() -> list[str]:
    """Every module of the library that can be imported without mmengine and without being run."""
    found: list[str] = []
    for package in PACKAGES:
        found.append(package)
        for info in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            outside = any(info.name.startswith(p + ".") for p in PACKAGES[1:]) and package == "evalkit"
            if not outside and not info.name.endswith("__main__") and not info.name.startswith("evalkit.downstream.mm"):
                found.append(info.name)
    return found


def docstring(cls: type) -> str:
    """The docstring of a class without its `Args:` block, which a table replaces."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return literal(re.sub(r"(?ms)^Args:\n.*?(?=\n\S|\Z)", "", text))


def literal(text: str) -> str:
    """Plain text as Markdown: indented lines, which are formulas, as they are; nothing else means anything."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            parts.append("```text\n" + inspect.cleandoc("\n" + block) + "\n```")
        else:
            parts.append("\n".join(safe(line.strip()) for line in lines))
    return "\n\n".join(parts)


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


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells that are not code or links are plain text."""
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A cell: one line, no column of its own."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if text.startswith(("`", "[")) else safe(text)


def safe(text: str) -> str:
    """Text in which Markdown finds nothing to obey but code between backticks."""
    parts = text.split("`")
    return "`".join(re.sub(r"([*_<>\[\]$#~])", r"\\\1", p) if i % 2 == 0 else p for i, p in enumerate(parts))


def page(parts: Iterable[str]) -> str:
    """Blocks with empty lines between."""
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
