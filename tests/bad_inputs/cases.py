"""Bad inputs by kind: a module of this folder holds the cases of one kind, its test runs them, `python -m
tests.bad_inputs.table` counts them for docs/bad_inputs.md.

    KIND = "Image folders that hold other than what they seem"
    CASES = [Case("a link to the folder above", link_up, says="is a link to"), ...]

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_bad_input(case, tmp_path):
        case.check(tmp_path)
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import EvalkitError

UNEXPLAINED = "EVALKIT_DEBUG"  # in the line for an error that nobody thought of


@dataclass(frozen=True)
class Case:
    """One bad input.

    `meet` is given an empty folder, makes the input there and hands it to evalkit: a command line through
    `evalkit.cli.invoke`, whose (exit code, line) it returns, or a function. "refused": EvalkitError, or exit code 1,
    with one line that holds the pattern `says`. "mended": the numbers are right in spite of it, which `meet` asserts.
    "said": evalkit goes on and says what it did, on screen or in the record; `meet` returns that text, which holds
    `says`.
    """

    name: str
    meet: Callable[..., Any]
    says: str = ""
    fate: Literal["refused", "mended", "said"] = "refused"
    argument: Any = None  # a second argument of `meet`, so that one function serves several cases

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def check(self, folder: Path) -> None:
        """Meet the input and see that what is promised comes of it."""
        arguments = [folder, self.argument][: len(inspect.signature(self.meet).parameters)]
        try:
            found, code = self.meet(*arguments), None
            if isinstance(found, tuple):
                code, found = found
        except EvalkitError as e:
            found, code = str(e), 1
        if self.fate == "mended":
            assert code in (None, 0), found
            return
        assert isinstance(found, str), f"nothing was said of it: {found!r}"
        assert re.search(self.says, found), found
        if self.fate == "refused":
            assert code == 1, found
            assert "\n" not in found and len(found) < 600 and UNEXPLAINED not in found, found
