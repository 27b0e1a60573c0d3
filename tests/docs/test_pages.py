"""The pages of the site do what they say: every snippet runs, every command prints what stands beneath it."""

import doctest
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from evalkit import config
from evalkit.cli import described, invoke
from evalkit.train.config import TrainConfig

from .pages import DOCS, PAGES, blocks, commands

SLOW = ("quickstart", "own-data", "own-method", "foreign-checkpoints", "export")  # they train
LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader works: three classes of small photographs lie there."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for colour, name in ((40, "cat"), (120, "dog"), (200, "owl")):
            (where := tmp_path / "my-photos" / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 40, (40, 48, 3))
                Image.fromarray((colour + noise).astype(np.uint8)).save(where / f"{name}{i}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in PAGES]
)
def test_page(page, folder, capsys):
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
                assert words[0] == "evalkit", f"{where}: {line}"
                if block.how == "not-run":
                    read(words[1:])
                    continue
                capsys.readouterr()
                code, message = invoke(words[1:])
                printed = capsys.readouterr().out + (f"error: {message}\n" if message else "")
                assert code == (1 if block.how == "fails" else 0), f"{where}: {line}\n{printed}"
                assert doctest.OutputChecker().check_output(expected, printed, LIKE) or not expected, (
                    f"{where}: {line}\nprinted\n{printed}\nbut the page says\n{expected}"
                )


def read(words):
    """Check a command that cannot run here as far as it can be read: its options, recipe and keys."""
    command = next(w for w in (" ".join(words[:2]), words[0]) if invoke([*w.split(), "--help"])[0] == 0)
    rest = words[len(command.split()) :]
    keys = [w for w in rest if re.match(r"^[a-z_.]+=", w)]
    if command == "train":
        assert config.load(TrainConfig, rest[0], keys)
    elif words[0] == "robustness":
        assert config.load(described.robustness()[words[1]].config, None, keys)


def test_every_page_is_in_the_contents():
    text = (DOCS / "index.md").read_text()
    assert [p.stem for p in PAGES if f"\npages/{p.stem}\n" not in text] == []


def test_links_between_pages_exist():
    for page in [*PAGES, DOCS / "index.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                made = "reference/" in target
                assert made or (page.parent / (target.removesuffix(".md") + ".md")).exists(), f"{page.name}: {target}"
