"""The table of bad inputs is the one that the cases make, and a case can fail."""

import re

import pytest

from evalkit.errors import EvalkitError

from .cases import Case
from .table import DOCUMENT, kinds, safe, text


def test_the_document_counts_these_cases():
    assert DOCUMENT.read_text(encoding="utf-8") == text(kinds()), "run `python -m tests.bad_inputs.table`"


def test_every_case_of_a_kind_has_a_name_of_its_own():
    for kind, cases in kinds().items():
        assert len({case.name for case in cases}) == len(cases), kind


def refuse(folder):
    raise EvalkitError("x is wrong; do y")


def test_what_passes_as_refused(tmp_path):
    Case("refused", refuse, says="is wrong; do").check(tmp_path)
    Case("by exit code", lambda folder: (1, "x is wrong"), says="wrong").check(tmp_path)
    Case("said", lambda folder: "12 images were left out", says="12 images", fate="said").check(tmp_path)


@pytest.mark.parametrize(
    "case",
    [
        Case("goes on", lambda folder: "done"),
        Case("another reason", refuse, says="quite right"),
        Case("exit code 0", lambda folder: (0, "x is wrong"), says="wrong"),
        Case("nothing said", lambda folder: None, says="", fate="said"),
        Case("stopped instead of mended", refuse, fate="mended"),
        Case("two lines", lambda folder: (1, "x is\nwrong"), says="x"),
        Case("not thought of", lambda folder: (1, "KeyError: 'x' (for the traceback set EVALKIT_DEBUG=1)"), says="x"),
    ],
    ids=str,
)
def test_what_does_not(case, tmp_path):
    with pytest.raises(AssertionError):
        case.check(tmp_path)


@pytest.mark.parametrize(
    "name, shown",
    [
        ("called '<img src=x onerror=alert(1)>'", "called '&lt;img src=x onerror=alert(1)>'"),
        ("[x](javascript:alert(1)) | y", "\\[x](javascript:alert(1)) \\| y"),
        ("called `<b>`", "called `<b>`"),
        ("a ` and <b>", "a \\` and &lt;b>"),
    ],
)
def test_no_name_is_more_than_text(name, shown):
    assert safe(name) == shown


def test_the_document_holds_no_tag():
    code = re.sub(r"`[^`]*`", "", DOCUMENT.read_text(encoding="utf-8"))
    assert not re.search(r"<[a-z!/]", code, re.IGNORECASE)
