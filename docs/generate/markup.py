"""Pieces of Markdown."""

import inspect
import re
from collections.abc import Iterable, Sequence


def literal(text: str) -> str:
    """Plain text as Markdown: indented lines, which are formulas, as they are; nothing else means anything."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            parts.append(formula(inspect.cleandoc("\n" + block)))
        else:
            parts.append("\n".join(safe(line.strip()) for line in lines))
    return "\n\n".join(parts)


def formula(text: str) -> str:
    """Symbols in a fenced block whose lines may break."""
    return f"```{{code-block}} text\n:class: formula\n\n{text}\n```"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of what is what."""
    return "\n".join(f"* **{name}**: {safe(words)}" for name, words in pairs)


def code(text: str, language: str = "text") -> str:
    """A fenced block.

    Args:
        text: What stands in it.
        language: Whose colours it gets.
    """
    return f"```{language}\n{text}\n```"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; cells that are not code or links are plain text.

    Args:
        titles: Of the columns.
        rows: Its cells.
    """
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


def contents(names: Iterable[str]) -> str:
    """The pages that lie below this one, in the site's navigation alone.

    Args:
        names: Paths relative to the page.
    """
    return "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```"


def page(parts: Iterable[str]) -> str:
    """Blocks with empty lines between."""
    return "\n\n".join(part for part in parts if part) + "\n"
