"""What a page of the site asks its reader to do: blocks of Python, files to write, commands with what they print."""

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted((DOCS / "pages").glob("*.md"))
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        kind: "python", "file" or "console".
        how: "" for a block that is run; "not-run" and "fails" for commands that need what is not here, and that must
            end with an error.
        name: Of the file, for a "file".
        body: Its text.
        line: Where it begins on the page.
    """

    kind: str
    how: str
    name: str
    body: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The blocks of `page` that a reader acts on, in order. Raises ValueError for a console block whose mark is
    unknown, and for one that is not run without the page's saying so just above."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        info, body, line = match["info"].strip(), match["body"], text[: match.start()].count("\n") + 1
        language, _, how = info.partition(" ")
        if language == "{code-block}":
            name = re.search(r"^:caption: (\S+)$", body, re.MULTILINE)
            if name:
                found.append(Block("file", "", name[1], body.split("\n\n", 1)[1], line))
        elif language == "python":
            found.append(Block("python", how, "", body, line))
        elif language == "console":
            if how not in ("", "not-run", "fails"):
                raise ValueError(f"{page.name}:{line}: unknown mark '{how}'")
            before = " ".join(text[: match.start()].strip().split("\n\n")[-1].split())
            if how == "not-run" and "not run" not in before:
                raise ValueError(f"{page.name}:{line}: the paragraph above must say that this is not run")
            found.append(Block("console", how, "", body, line))
    return found


def commands(block: Block) -> list[tuple[str, str]]:
    """(command line, what the page says it prints) of a console block."""
    found: list[tuple[str, str]] = []
    for line in block.body.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].strip(), ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found
