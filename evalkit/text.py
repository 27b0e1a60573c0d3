"""Names that come from files, folders and checkpoints, made harmless for where they are shown: terminal, page, table,
cell."""

import re
import unicodedata
from collections.abc import Iterable

from .errors import EvalkitError

# formulas begin with these in a spreadsheet, behind a blank or a tab as well
FORMULA = ("=", "+", "-", "@", "|", "%")
# what turns the order of the letters around, or is not seen at all
_MARKDOWN = re.compile(r"[|`*\[\]$~]|(?<!\w)_|_(?!\w)|\\")
_DIRECTIONS = {*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF}


def plain(text: str) -> str:
    r"""`text` on one line, what a terminal would obey instead of show written as an escape.

    >>> plain("red \x1b[31m\n")
    'red \\x1b[31m\\n'
    """
    return "".join(_shown(letter) for letter in text)


def check_text(text: str, where: str) -> None:
    """Raise EvalkitError for what no file of records can hold: bytes that are no text in the locale of this command.

    Args:
        text: What was given.
        where: What holds it, for the error.
    """
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise EvalkitError(
            f"{where}: '{text}' holds bytes that are no text here; run with PYTHONUTF8=1 if they are UTF-8, else give"
            " it a name that is"
        ) from e


def look_alike(a: Iterable[str], b: Iterable[str]) -> list[tuple[str, str]]:
    """Names of `a` and of `b` that are different and look the same but for case: by spaces around them, letters that
    are composed or not (as macOS and Linux write an umlaut) and signs without width.

    >>> look_alike(["cat", "dog"], ["Cat ", "fox"])
    [('cat', 'Cat ')]

    Args:
        a: Names of classes or the like.
        b: Others, or the same.
    """
    seen = {_look(name): name for name in b}
    return [(name, other) for name in a if (other := seen.get(_look(name), name)) != name]


def _look(name: str) -> str:
    letters = unicodedata.normalize("NFKC", name)
    return "".join(c for c in letters if unicodedata.category(c) != "Cf").strip(" .\t").casefold()


def _shown(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") or ord(letter) in _DIRECTIONS
    return letter.encode("unicode_escape").decode() if hidden else letter


# of what evalkit itself prints, for a terminal that lacks it
PLAIN_SIGNS = {
    "±": "+-",
    "↑": "^",
    "↓": "v",
    "→": "->",
    "–": "-",
    "·": "*",
    "×": "x",
    "λ": "lambda",
    "≥": ">=",
    "≤": "<=",
}


def without_signs(e: UnicodeError) -> tuple[str, int]:
    """How text is written to a terminal that does not know its letters, as `codecs.register_error` takes it: evalkit's
    own signs in plain ones, anything else as an escape."""
    if not isinstance(e, UnicodeEncodeError):
        raise e
    odd = e.object[e.start : e.end]
    return "".join(PLAIN_SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in odd), e.end


def markdown(text: str) -> str:
    """`text` as Markdown shows it: nothing in it is a tag, a link, a table's border or emphasis."""
    return _MARKDOWN.sub(
        lambda m: f"\\{m[0]}", plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )


def say(*lines: str) -> None:
    """Print each as one line, at once."""
    for line in lines:
        print(plain(line), flush=True)


def cell(value: object) -> object:
    """`value` for a cell of a spreadsheet: text that would be a formula there gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
