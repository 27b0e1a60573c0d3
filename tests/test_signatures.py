"""Public functions and constructors explain each of their arguments in an `Args:` block, one argument a line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("evalkit", "train", "downstream", "robustness")
FILES = sorted(p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


def signatures(tree: ast.Module) -> Iterator[tuple[str, list[str], str]]:
    """(name, arguments, docstring) of each public function and constructor that takes two arguments or more.

    A command describes its options to typer, a configuration its keys by `key`."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not is_command(node):
            made = node.name, arguments(node.args), ast.get_docstring(node)
        elif isinstance(node, ast.ClassDef) and not any(word in ast.unparse(node) for word in ("key(", "shared_keys.")):
            made = node.name, constructor(node), ast.get_docstring(node)
        else:
            continue
        name, names, text = made
        if len(names) >= 2 and not name.startswith("_"):
            yield name, names, text or ""


def is_command(node: ast.FunctionDef) -> bool:
    return "typer." in ast.unparse(node.args) or re.search(r"\bcommand\(", decorators(node)) is not None


def decorators(node: ast.FunctionDef | ast.ClassDef) -> str:
    return " ".join(map(ast.unparse, node.decorator_list))


def arguments(args: ast.arguments) -> list[str]:
    """Names of arguments, `**more` with its stars."""
    named = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return named + ([args.vararg.arg] if args.vararg else []) + ([f"**{args.kwarg.arg}"] if args.kwarg else [])


def constructor(node: ast.ClassDef) -> list[str]:
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return arguments(part.args)[1:]
    if "dataclass" in decorators(node) or any(ast.unparse(base) == "NamedTuple" for base in node.bases):
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        return [ast.unparse(part.target) for part in fields if "ClassVar" not in ast.unparse(part.annotation)]
    return []


def block(text: str) -> dict[str, str]:
    """Argument -> its meaning, from the `Args:` block of a docstring. Headings over groups of arguments end in a
    colon."""
    found: dict[str, str] = {}
    _, _, rest = text.partition("Args:\n")
    level, name = 4, ""
    for line in rest.split("\n\n")[0].splitlines():
        entry = re.fullmatch(rf" {{{level}}}\**(\w+): (.+)", line)
        if re.fullmatch(r" {4}[A-Z][\w ]*:", line):
            level = 8
        elif entry:
            name = entry[1]
            found[name] = entry[2]
        else:
            found[name] = f"{found.get(name, '')} {line.strip()}"  # goes on
    return found


def faults(path: str, source: str) -> list[str]:
    """What a file leaves unexplained."""
    found = []
    for name, names, text in signatures(ast.parse(source)):
        explained = block(text)
        handed_on = [n[2:] for n in names if n.startswith("**")]  # to a class or function that explains them
        if set(explained) - set(handed_on) != set(names) - {f"**{n}" for n in handed_on}:
            found.append(f"{path} {name}: the Args block explains {list(explained)}, the arguments are {names}")
        found += [f"{path} {name}: {arg} says too little" for arg, words in explained.items() if len(words) < 8]
    return found


@pytest.mark.parametrize("path", FILES)
def test_every_argument_is_explained(path):
    assert faults(path, (ROOT / path).read_text(encoding="utf-8")) == []


EXPLAINED = '''
def f(x, *, size=2, **more):
    """Does it.

    Args:
        x: Images (B, 3, H, W) in [0, 1],
            or none.
        size: Pixels per side.
        more: Keys of the model.

    Raises: nothing.
    """
'''


@pytest.mark.parametrize(
    "source, count",
    [
        (EXPLAINED, 0),
        (EXPLAINED.replace("        size: Pixels per side.\n", ""), 1),
        (EXPLAINED.replace("size: Pixels per side.", "side: Pixels per side."), 1),
        (EXPLAINED.replace("Pixels per side.", "Size."), 1),
        ("def f(x, y): pass", 1),
        ("def f(x): pass", 0),
        ("def _f(x, y): pass", 0),
        ("class A:\n    def __init__(self, x, y): pass", 1),
        ("class A:\n    def __init__(self, x): pass", 0),
        ("@dataclass(frozen=True)\nclass A:\n    x: int\n    y: int", 1),
        ("@dataclass\nclass A(Keys):\n    x: int = key(1, 'a')\n    y: int = key(1, 'b')", 0),
        ("class A(NamedTuple):\n    x: int\n    y: int", 1),
        ("@app.command()\ndef f(x: Annotated[int, typer.Option()], y: int): pass", 0),
    ],
)
def test_the_count_is_right(source, count):
    assert len(faults("a.py", source)) == count
