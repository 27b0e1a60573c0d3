"""Names of runs, classes and files that a terminal, a page, a table or a spreadsheet would obey instead of show."""

import codecs
import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from evalkit import checkpoint, config, models, results
from evalkit.cli import invoke
from evalkit.text import cell, markdown, plain, without_signs
from evalkit.train.config import TrainConfig
from tests.evalkit.fake_records import occlusion

from .cases import Case
from .make import ARGS, NAME, put, run_folder

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


def of_lines(folder, name):
    """A run whose name has several lines, in report.html."""
    assert not ESCAPES.search(report(folder, f"first line\n{name}")["html"])


def on_a_sheet(folder, name):
    """Images of such names, on the page of `mixup preview`."""
    images = [put(folder / f"{name.replace('/', '_')} {seed}.png", seed) for seed in (1, 2)]
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["mixup", "preview", *map(str, images), "--methods", "mixup", "--pairs", "--out", f"{folder}/x.html"]
        code, line = invoke(words)
    page = (folder / "x.html").read_text()
    assert not ESCAPES.search(page) and "label shares" in page.lower()
    return code, line


def harmless(folder, name):
    assert plain(name).isprintable() and "\x1b" not in plain(name)


ODD = "</code>```\n---\n<script>x</script> [a](javascript:b) | =1+1 \x1b[31m\u202e {{x}} ${y} # - : ' \" \\"


def exported(folder):
    """The card of an export whose run and class have names that a page, a terminal and YAML would obey."""
    model = models.create(NAME, num_classes=2, **ARGS).model
    recipe = config.to_dict(config.load(TrainConfig, "digits", ["image_size=32"])) | {"data": "folder", "label": ODD}
    meta = {"model": NAME, "model_args": ARGS, "num_classes": 2, "classes": [ODD, "b"], "label": ODD, "config": recipe}
    checkpoint.save(folder / "run", 1, model.state_dict(), None, {}, meta)
    code, line = invoke(["export", str(folder / "run"), str(folder / "out"), "--to", "hf"])
    assert code == 0, line
    _, front, page = (folder / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "timm" and not ESCAPES.search((front + page).replace("\n", ""))
    outside = "".join(page.split("\n```")[::2])  # of the blocks of code
    assert "script" in outside and "<script" not in outside and "](javascript" not in outside.replace("\\](", "")
    assert json.loads((folder / "out" / "config.json").read_text())["label_names"] == [ODD, "b"]


def in_ascii(folder, command):
    """What a command prints where the terminal knows ASCII alone, is 20 columns wide and shows no colour."""
    terminal = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "20"}
    done = subprocess.run(
        [sys.executable, "-m", "evalkit", *command.split()], capture_output=True, env=os.environ | terminal, check=True
    )
    text = done.stdout.decode("ascii")
    assert text and not ESCAPES.search(text.replace("\n", "")) and "\\x" not in text and "\\u" not in text
    assert "+-" in text


CASES = [
    *(Case(f"a run of two lines, the second {n!r}, in report.html", of_lines, "", "mended", n) for n in TERMINAL[:6]),
    *(Case(f"an image called {n!r}, on the sheet of a preview", on_a_sheet, "", "mended", n) for n in TERMINAL[:6]),
    Case("a run and a class of such names, in an exported card", exported, fate="mended"),
    *(
        Case(f"a terminal of ASCII, `evalkit {command}`", in_ascii, fate="mended", argument=command)
        for command in ("show zoo:mixpro-digits", "compare zoo:mixpro-digits zoo:vanilla-digits")
    ),
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


def test_signs_that_a_terminal_lacks():
    codecs.register_error("signs", without_signs)
    assert "0.5 ± 0.1 → ↑".encode("ascii", "signs") == b"0.5 +- 0.1 -> ^"
    assert "é±".encode("ascii", "signs") == rb"\xe9+-" and "±".encode("latin-1", "signs") == b"\xb1"


def test_what_is_harmless_stays_as_it_is():
    for text in ("MixPro s0", "café", "日本", "a_b-c.d", "vit_small (seed=1)"):
        assert plain(text) == markdown(text) == cell(text) == text
    assert cell(-0.5) == -0.5 and cell("-0.5") == "-0.5" and cell("=1") == "'=1" and cell(None) is None
