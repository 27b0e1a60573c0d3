"""Studies that are too large, and folders of studies that were edited, moved or damaged, or are another person's."""

import contextlib
import io

import pytest
import yaml

from evalkit.cli import identities, invoke
from evalkit.study import reuse
from tests.evalkit.study.made import made_study

from .cases import Case
from .make import splits, training

KIND = "Folders of studies: too large, edited, moved, damaged, another person's"


def heard(command):
    """(the exit code, the error or what was said)."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code, line = invoke(command)
    return code, line or said.getvalue()


# ---- too large


def large(folder, axes):
    file = folder / "mine.yaml"
    file.write_text(f"recipe: digits\naxes: {axes}\n")
    return invoke(["study", "run", str(file), "--out", str(folder / "out"), "--dry-run"])


# ---- edited


def recipe_edited(folder):
    """Between two runs of a study, the file of the recipe that its cells train by."""
    words = [word.split("=", 1) for word in training(splits(folder / "data"))[2:-2]]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": "digits"} | {key: yaml.safe_load(value) for key, value in words}))
    file, out, made = made_study(folder, {"recipe": str(recipe), "axes": {"seed": [0]}})
    assert reuse.changed(out, made, identities.of_jobs(out)) == []
    recipe.write_text(f"{recipe.read_text()}label_smoothing: 0.25\n")
    return invoke(["study", "run", str(file), "--out", str(out)])


def numbers(count):
    return f"[{', '.join(map(str, range(count)))}]"


CASES = [
    Case(
        "10^9 cells of three axes",
        large,
        "1,000,000,000 cells .*10,000 at most",
        argument=f"{{x: {numbers(1000)}, y: {numbers(1000)}, seed: {numbers(1000)}}}",
    ),
    Case(
        "10^6 seeds",
        large,
        "has 7.5 MiB, and a recipe or study has 1 MiB at most",
        argument=f"{{seed: {numbers(10**6)}}}",
    ),
    Case("12,000 seeds in one list", large, "holds more than 10,000 values", argument=f"{{seed: {numbers(12_000)}}}"),
    Case("a recipe edited between two runs", recipe_edited, "another label_smoothing than the recipe has now"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
