"""Each statement of how a method differs from its paper or official code, beside what shows it.

DIFFERS of test_METHOD.py has the clauses of the method's paragraph word by word and in order, each with lines
"= EVIDENCE | EVIDENCE": "::test" of the same file, "file::test" from this folder, "golden:ITEM" for vectors of the
official code, or "read: SOURCE, PLACE" where a clause is about a source alone."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from evalkit.train import METHODS

from ...golden.ledger import paragraph

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "golden"
INTRO = re.compile(r"(Differs from|Does not differ from) the paper / the official code")
BETWEEN = re.compile(r"(as|but|and|in|[;:,.])*")  # what may stand between two clauses, without spaces


def clauses_of(text: str) -> list[tuple[str, list[str]]]:
    """Clauses and their evidence."""
    found: list[tuple[str, list[str]]] = []
    clause: list[str] = []
    for line in filter(None, text.splitlines()):
        if not line.startswith("= "):
            clause.append(line)
        elif clause:
            found.append((" ".join(clause), line[2:].split(" | ")))
            clause = []
        else:
            found[-1][1].extend(line[2:].split(" | "))
    assert not clause, f"a clause without evidence: {clause}"
    return found


def differs(name: str) -> list[tuple[str, list[str]]]:
    """A method's clauses; none where its test file has no DIFFERS."""
    module = importlib.import_module(f".test_{name}", __package__)
    return clauses_of(getattr(module, "DIFFERS", ""))


def left_over(text: str, clauses: list[str]) -> list[str]:
    """What of a paragraph no clause says, and clauses that it does not have in this order."""
    rest, problems = INTRO.sub("", text, count=1), []
    for clause in clauses:
        before, found, after = rest.partition(clause)
        if not found:
            problems.append(f"not there: {clause}")
            continue
        problems += [before.strip()] * (not BETWEEN.fullmatch("".join(before.split())))
        rest = after
    return problems + [rest.strip()] * (not BETWEEN.fullmatch("".join(rest.split())))


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def is_there(evidence: str, name: str) -> bool:
    kind, _, what = evidence.partition(":")
    if kind == "read":
        return len(what.split()) > 1
    if kind == "golden":
        return any(GOLDEN.rglob(f"{what}.npz"))
    file, _, test = evidence.partition("::")
    path = HERE / (file or f"test_{name}.py")
    return path.is_file() and test in functions_of(path)


@pytest.mark.parametrize("name", METHODS)
def test_every_clause_has_evidence(name):
    clauses = differs(name)
    assert left_over(paragraph(name), [clause for clause, _ in clauses]) == []
    assert [e for _, evidence in clauses for e in evidence if not is_there(e, name)] == []


def test_few_clauses_rest_on_reading_alone():
    """Statements about a source that no line of ours can show."""
    read = {
        (name, clause)
        for name in METHODS
        for clause, found in differs(name)
        if all(e.startswith("read:") for e in found)
    }
    assert {name for name, _ in read} == {
        *("alignmix", "comixup", "guidedmixup", "patchmix", "puzzlemix", "saliency_grafting", "smmix")
    }
    assert len(read) == 7


@pytest.mark.parametrize(
    ("text", "clauses", "problems"),
    [
        ("in a, b; and in c.", ["a", "b", "c."], []),
        ("in a, which is new, and in c.", ["a", "c."], [", which is new, and in"]),
        ("in a; c is new.", ["a"], ["; c is new."]),
        ("in a.", ["a", "b"], ["not there: b"]),
        ("in y and x.", ["x", "y"], ["in y and", "not there: y"]),
    ],
)
def test_what_is_not_listed_is_found(text, clauses, problems):
    assert left_over("Differs from the paper / the official code " + text, clauses) == problems


@pytest.mark.parametrize("evidence", ["::test_nothing", "test_none.py::test_a", "golden:none", "read: x"])
def test_evidence_that_does_not_exist_is_found(evidence):
    assert not is_there(evidence, "cutmix")
