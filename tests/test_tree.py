"""The shape of the sources: short argument lists, short files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ("evalkit", "train", "downstream", "robustness", "configs")
SOURCES = sorted(p.relative_to(ROOT).as_posix() for f in (*LIBRARY, "benchmarks") for p in (ROOT / f).rglob("*.py"))
MOST_ARGUMENTS, MOST_LINES = 8, 350
# Constructors of methods and networks have one argument for each thing that papers and architectures vary.
CONSTRUCTORS = ("train/mixups/", "evalkit/models/")
# A context is made by hand in somebody's own loop; the arguments of a command are its options, as typer has it; the
# others stand in for functions of mmcv and torch.
EXCEPTED = {
    ("train/mixups/base.py", "simple"),
    ("evalkit/cli/study.py", "study_run"),
    ("downstream/mm/operators.py", "roi_align_forward"),
    ("downstream/mm/operators.py", "roi_align_backward"),
}


def long_signatures(path: str, source: str) -> list[str]:
    """The functions of a file that take too many arguments, `self` and `cls` not counted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            constructor = node.name == "__init__" and path.startswith(CONSTRUCTORS)
            if count > MOST_ARGUMENTS and not constructor and (path, node.name) not in EXCEPTED:
                found.append(f"{path}:{node.lineno} {node.name} takes {count} arguments")
    return found


@pytest.mark.parametrize("path", [p for p in SOURCES if p.startswith(LIBRARY)])
def test_functions_take_few_arguments(path):
    assert long_signatures(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_exceptions_are_still_needed():
    for path, name in EXCEPTED:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize(
    "path, source, count",
    [
        ("train/loop.py", "def f(a, b, c, d, e, /, f, g, *, h, i): pass", 1),
        ("train/loop.py", "class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i): pass", 1),
        ("train/loop.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h): pass", 0),
        ("train/mixups/a.py", "class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i): pass", 0),
        ("train/mixups/a.py", "def f(a, b, c, d, e, f, g, h, i): pass", 1),
    ],
)
def test_the_count_of_arguments_is_right(path, source, count):
    assert len(long_signatures(path, source)) == count


@pytest.mark.parametrize("path", SOURCES)
def test_files_are_short(path):
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= MOST_LINES
