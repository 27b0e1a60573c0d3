"""Names of runs, classes and files that a terminal, a page, a table or a spreadsheet would obey instead of show."""

import contextlib
import csv
import io
import json
import re

import pytest

from evalkit import results
from evalkit.cli import invoke
from evalkit.text import cell, markdown, plain
from tests.evalkit.fake_records import occlusion

from .cases import Case
from .make import put, run_folder

KIND = "Names that a terminal, a page, a table or a cell would obey"
TERMINAL = (
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "a\rb",
    "bell\x07",
    "\x9b2J",
    "\u202egnp.exe",
    "a\nb: 100 %",
    "\x08\x08ok",
)
FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")', " =1", "%0A=1")
MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "a|b",
    "**x**",
    "![x](y)",
)
TEX = (r"\input{/etc/passwd}", "a&b", "50%", "$x$", "[x]", r"\\", "a_b^c", "#1{", "~x", 'x"`y')


def shown(folder, name):
    """`evalkit eval` prints no escape that a file or a run brought along."""
    root, run = folder / "data", run_folder(folder / "run")
    put(root / "a" / "0.png")
    put(root / "b" / "0.png")
    (root / "b" / f"{name.replace('/', '_')}.png").write_bytes(b"no image")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code, line = invoke(
            ["eval", str(run), "--data", str(root), "device=cpu", "workers=0", "--out", f"{folder}/out"]
        )
    assert code == 2, line
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said.getvalue())
    assert any(text.startswith("unreadable: b/") for text in said.getvalue().splitlines())


def report(folder, name):
    results.append(folder, occlusion(label=name))
    code, line = invoke(["report", str(folder), "--out", str(folder / "out")])
    assert code == 0, line
    return {suffix: (folder / "out" / f"report.{suffix}").read_text() for suffix in ("md", "csv", "tex", "html")}


def tabled(folder, name):
    """No cell of report.csv begins as a formula does, and numbers stay numbers."""
    for row in csv.DictReader(io.StringIO(report(folder, name)["csv"])):
        for key, value in row.items():
            assert not value.lstrip().startswith(("=", "+", "@", "-", "%", "|")), (key, value)
        float(row["value"])


def paged(folder, name):
    made = report(folder, name)
    assert name not in made["html"] or "<" not in name
    assert (
        "<script>alert" not in made["md"]
        and "<img src=x" not in made["md"]
        and not re.search(r"(?<!\\)\]\(javascript", made["md"])
    )
    lines = [line for line in made["md"].splitlines() if line.startswith("|")]
    assert lines and all(len(re.findall(r"(?<!\\)\|", line)) > 2 for line in lines)


def typeset(folder, name):
    tex = report(folder, name)["tex"]
    assert r"\input" not in tex and (name not in tex or name == r"\\")  # which ends the rows of a table
    assert tex.count(r"\begin") == tex.count(r"\end")


ESCAPES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def printed(folder, command):
    """What commands print of the files that they are given: titles, names, values and paths."""
    odd = "\x1b[31m\x9b2J\u202e"
    quoted = json.dumps(odd)  # YAML reads JSON's escapes
    (folder / "study.yaml").write_text(
        f"title: {quoted}\nrecipe: digits\naxes:\n  a: {{{quoted}: {{label: {quoted}}}}}\n  seed: [0]\n"
    )
    (folder / "mine.yaml").write_text(f"base: digits\nlabel: {quoted}\n")
    for side in "ab":
        results.append(folder / side, occlusion(label=odd + side))
    words = [word.replace("DIR", str(folder)) for word in command.split()]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        _, line = invoke(words)
    assert said.getvalue() or line
    assert not ESCAPES.search(said.getvalue().replace("\n", "")) and not ESCAPES.search(line), said.getvalue()


COMMANDS = (
    *("study show DIR/study.yaml", "study run DIR/study.yaml --out DIR/s --dry-run", "study status DIR/\x1b[31m"),
    *(
        "recipes show DIR/mine.yaml",
        "recipes diff digits DIR/mine.yaml",
        "report DIR --out DIR/out",
        "compare DIR/a DIR/b",
    ),
    *("recipes show digits label=\x1b[31m", "mixup list \x1b[31m", "train \x1b[31m", "eval DIR/\x1b[31m --data DIR"),
)


def harmless(folder, name):
    assert plain(name).isprintable() and "\x1b" not in plain(name)


CASES = [
    *(Case(f"a file called {name!r}", shown, fate="mended", argument=name) for name in TERMINAL),
    *(Case(f"a run called {name!r}, in report.csv", tabled, fate="mended", argument=name) for name in FORMULAS),
    *(Case(f"a run called `{name}`, in report.md and .html", paged, fate="mended", argument=name) for name in MARKUP),
    *(Case(f"a run called `{name}`, in report.tex", typeset, fate="mended", argument=name) for name in TEX),
    *(Case(f"what `evalkit {words}` prints", printed, fate="mended", argument=words) for words in COMMANDS),
    *(Case(f"the text {name!r}", harmless, fate="mended", argument=name) for name in TERMINAL),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_what_is_harmless_stays_as_it_is():
    for text in ("MixPro s0", "café", "日本", "a_b-c.d", "vit_small (seed=1)"):
        assert plain(text) == markdown(text) == cell(text) == text
    assert cell(-0.5) == -0.5 and cell("-0.5") == "-0.5" and cell("=1") == "'=1" and cell(None) is None
