"""The pages of the site do what they say: every snippet runs, every command prints what stands beneath it."""

import copy
import doctest
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from timm.models import _registry

from evalkit import cli, config, downstream, robustness
from evalkit.cli import described, invoke
from evalkit.cli.words import split
from evalkit.robustness import AllConfig
from evalkit.robustness.sets import SETS
from evalkit.train import METHODS
from evalkit.train.config import TrainConfig

from .pages import DOCS, PAGES, blocks, commands

TRAIN = ("quickstart", "zoo", "around", "own-data", "own-method", "own-protocol", "foreign-checkpoints", "export")
LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader works: three classes of small photographs lie there."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for colour, name in ((40, "cat"), (120, "dog"), (200, "owl")):
            (where := tmp_path / "my-photos" / part / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 40, (40, 48, 3))
                Image.fromarray((colour + noise).astype(np.uint8)).save(where / f"{name}{i}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known, modules = (METHODS, SETS, robustness.PROTOCOLS, downstream.PROTOCOLS), set(sys.modules)
    timms = [v for k, v in vars(_registry).items() if not k.startswith("__") and isinstance(v, dict | set)]
    known += tuple(timms)  # an export brings networks under the names of evalkit's own
    before = [copy.copy(registry) for registry in known]
    yield tmp_path
    for registry, names in zip(known, before):
        registry.clear()
        registry.update(names)
    for name in set(sys.modules) - modules:  # what a page wrote is another page's name
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def run(words, monkeypatch):
    """(exit code, message) of `evalkit WORDS`, or of `python FILE WORDS` where the file ends in `main()`."""
    if words[0] == "evalkit":
        return invoke(words[1:])
    assert words[0] == "python", words
    ended = []
    monkeypatch.setattr(cli, "main", lambda: ended.append(invoke(words[2:])))
    runpy.run_path(words[1], run_name="__main__")
    return ended[0]


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in TRAIN)) for p in PAGES]
)
def test_page(page, folder, capsys, monkeypatch):
    scope = {}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.kind == "file":
            (folder / block.name).write_text(block.body)
        elif block.kind == "python":
            exec(compile(block.body, where, "exec"), scope)
        else:
            for line, expected in commands(block):
                words = shlex.split(line)
                if block.how == "not-run":
                    read(words[1:])
                    continue
                capsys.readouterr()
                code, message = run(words, monkeypatch)
                printed = capsys.readouterr().out + (f"error: {message}\n" if message else "")
                assert code == (1 if block.how == "fails" else 0), f"{where}: {line}\n{printed}"
                assert doctest.OutputChecker().check_output(expected, printed, LIKE) or not expected, (
                    f"{where}: {line}\nprinted\n{printed}\nbut the page says\n{expected}"
                )


def read(words):
    """Check a command that is not run as far as it can be read: its options, and the recipe and keys of those that take
    some."""
    command, rest = typer.main.get_command(cli.app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context("evalkit", list(rest))  # raises for an option that does not exist or lacks its value
    names, keys = split([w for w in rest if not w.startswith("-")])
    if words[0] == "train" and "--resume" not in words:
        # a checkpoint that the reader has
        keys = ["model=resnet18" if k.startswith("init=") else k for k in keys]
        assert config.load(TrainConfig, names[0], keys)
    elif words[0] == "robustness":
        schema = AllConfig if words[1] == "all" else described.robustness()[words[1]].config
        assert config.load(schema, None, keys)
    elif words[0] == "transfer" and not any(k.startswith("config=") for k in keys) and "--recipe" not in words:
        protocol = described.transfers()[words[1]]
        assert config.load(protocol.config, protocol.load().recipe(keys), keys, folder=words[1])


def shell_commands(text):
    """The evalkit commands in the shell blocks of a page, as words."""
    for body in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            words = shlex.split(line, comments=True) if "$" not in line else []
            if "evalkit" in words and words[0] in ("evalkit", "srun"):
                yield words[words.index("evalkit") + 1 :]


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *PAGES, *sorted(DOCS.glob("*.md"))], ids=lambda p: p.stem)
def test_commands_that_are_shown_and_not_run_can_be_read(page):
    for words in shell_commands(page.read_text(encoding="utf-8")):
        try:
            read(words)
        except Exception as e:
            raise AssertionError(f"{page.name}: evalkit {' '.join(words)}: {e}") from e


def test_a_command_that_does_not_exist_is_found():
    for words in (
        ["train", "digits", "epocs=2"],
        ["train", "digit"],
        ["study", "run", "x", "--job", "2"],
        ["evel", "a"],
    ):
        with pytest.raises(Exception):  # noqa: B017
            read(words)


def test_every_page_is_in_the_contents():
    text = (DOCS / "index.md").read_text()
    assert [p.stem for p in PAGES if f"\npages/{p.stem}\n" not in text] == []


def test_links_between_pages_exist():
    for page in [*PAGES, DOCS / "index.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                made = "reference/" in target
                assert made or (page.parent / (target.removesuffix(".md") + ".md")).exists(), f"{page.name}: {target}"
