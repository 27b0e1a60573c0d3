"""Text that is no ASCII where the locale knows ASCII alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from evalkit import results

POSIX = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
TINY = ["train", "digits", "epochs=1", "limit=50", "model_args={depth: 1}", "eval_epochs=1"]


def evalkit(folder: Path, *words: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    own = {k: v for k, v in os.environ.items() if k not in (*POSIX, "LANG", "LC_CTYPE")}
    command = [sys.executable, "-m", "evalkit", *words]
    return subprocess.run(command, cwd=folder, env=own | POSIX | environment, capture_output=True)


def test_words_that_are_no_text_are_refused(tmp_path):
    odd = [
        [*TINY, "label=Zoë"],
        [*TINY, b"label=Zo\xeb"],
        [*TINY, "--out", "Zoë"],
        ["eval", "Zoë"],
        ["report", b"\xff"],
    ]
    for words in odd:
        ended = evalkit(tmp_path, *words)
        said = ended.stderr.decode("ascii")
        assert ended.returncode == 1 and said.count("\n") == 1 and "PYTHONUTF8=1" in said, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_letters_go_through(tmp_path):
    """A recipe file that names its run outside ASCII: trained, evaluated, reported and resumed."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: digits\nlabel: Zoë\n", encoding="utf-8")
    for words in (
        ["train", "./mine.yaml", *TINY[2:], "--out", "run"],
        ["eval", "run", "--out", "evaluated"],
        ["report", "run", "evaluated", "--out", "shown"],
    ):
        ended = evalkit(tmp_path, *words)
        assert ended.returncode == 0, ended.stderr.decode()
    assert {r["label"] for r in results.read([tmp_path / "run", tmp_path / "evaluated"])} == {"Zoë"}
    assert "label: Zoë" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert "Zoë" in (tmp_path / "shown" / "report.md").read_text(encoding="utf-8")
    ended = evalkit(tmp_path, "train", "--resume", "run", "workers=0")
    assert ended.returncode == 0, ended.stderr.decode()


def test_names_of_files_that_the_locale_does_not_know(tmp_path):
    for split, grey in (("train", 30), ("val", 90)):
        for label in ("a", "Zoë"):
            (tmp_path / "d" / split / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (32, 32), (grey, 9 * i, 9 * len(label))).save(
                    tmp_path / "d" / split / label / f"{i}.png"
                )
    ended = evalkit(tmp_path, *TINY[:3], "data=folder", "data_dir=d", "batch_size=2", "micro_batch=2")
    said = ended.stderr.decode("ascii")
    assert ended.returncode == 1 and said.count("\n") == 1 and "run with PYTHONUTF8=1" in said, said
