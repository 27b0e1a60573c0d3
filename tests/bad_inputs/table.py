"""docs/bad_inputs.md: every kind of bad input, the inputs tried, what comes of them and how many there are. Written by
`python -m tests.bad_inputs.table`."""

from collections import Counter
from importlib import import_module
from pathlib import Path

from .cases import Case

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "bad_inputs.md"
HEAD = """# Bad inputs

What evalkit does when it is given something wrong. Each input below is a test: *refused* means an error of one line
that says what is wrong and what to do, and exit code 1; *said* means that evalkit goes on and names what it did on the
screen or in the record; *mended* means that the numbers are right in spite of it. Written by `python -m
tests.bad_inputs.table`.
"""


def kinds() -> dict[str, list[Case]]:
    """Kind -> its cases, of every module that has some, by name of the module."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_table")
    modules = [import_module(f"{__package__}.{name}") for name in names]
    found: dict[str, list[Case]] = {}
    for module in modules:  # several may hold cases of one kind
        found.setdefault(module.KIND, []).extend(module.CASES)
    return found


def safe(name: str) -> str:
    """A name as Markdown that shows it, and does nothing else; what stands between backticks is code already."""
    parts = name.split("`")
    if len(parts) % 2 == 0:  # a backtick that closes nothing
        parts = [name.replace("`", "\\`")]
    parts[::2] = [part.replace("<", "&lt;").replace("[", "\\[") for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


def text(found: dict[str, list[Case]]) -> str:
    """The document."""
    fates = ("refused", "said", "mended")
    count = {kind: Counter(case.fate for case in cases) for kind, cases in found.items()}
    total = [sum(c[fate] for c in count.values()) for fate in fates]
    rows = [
        "| kind | inputs | refused | said | mended |",
        "|---|---:|---:|---:|---:|",
        *(f"| {kind} | {c.total()} | {' | '.join(str(c[fate]) for fate in fates)} |" for kind, c in count.items()),
        f"| **all** | **{sum(total)}** | {' | '.join(f'**{n}**' for n in total)} |",
    ]
    parts = [HEAD, "\n".join(rows)]
    for kind, cases in found.items():
        parts.append(f"## {kind}")
        parts += [
            f"*{fate.capitalize()}:* {'; '.join(names)}."
            for fate in fates
            if (names := [safe(case.name) for case in cases if case.fate == fate])
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(text(kinds()), encoding="utf-8")
    print(f"{DOCUMENT}: {sum(map(len, kinds().values()))} inputs")
