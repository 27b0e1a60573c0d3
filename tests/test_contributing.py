"""CONTRIBUTING.md tells the truth: its table names files that are there, and the things named as examples stand in
these files alone. The workflow, the hooks and the text call commands that exist."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from evalkit.keys import Keys
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import METHODS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LIBRARY = ("evalkit", "train", "downstream", "robustness")
MOST = {"protocol": 6, "metric": 4, "mixup": 4, "data set of the robustness protocols": 4, "transfer task": 7}
WORKFLOW = ROOT / ".github" / "workflows" / "checks.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"


def table() -> dict[str, tuple[str, list[str]]]:
    """What is added -> (the example, the files)."""
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {what: (example, re.findall(r"`([^`]+)`", files)) for what, example, files in rows}


ROWS = table()


def test_the_table_has_every_kind():
    assert set(MOST) < set(ROWS) and {"key of training", "recipe", "backbone"} < set(ROWS)


@pytest.mark.parametrize("what", ROWS)
def test_the_files_of_a_row_are_there_and_few(what):
    example, files = ROWS[what]
    for file in files:
        assert (ROOT / file.replace("NAME", example)).is_file(), file
    assert len(set(files)) == len(files) <= MOST.get(what, 4)
    assert "CHANGELOG.md" in files


@pytest.mark.parametrize(
    "what, pattern, besides",
    [
        ("mixup", r"smoothmix|SmoothMix", set()),
        # a method looks at the stages of networks
        ("backbone", r"moganet|MogaNet", {"train/mixups/manifold.py"}),
        ("protocol", r"imagenet_c\b|IMAGENET_C\b|ImageNetC", set()),
        # the formula, its spread, and what the paper prints, all of which were there before
        (
            "metric",
            r"\baurra\b",
            {"evalkit/metrics/__init__.py", "evalkit/metrics/selective.py", "evalkit/bootstrap.py"},
        ),
        # the protocol that reads it
        (
            "data set of the robustness protocols",
            r"imagenet_r_wnids|\"imagenet-r\"",
            {"robustness/about/shifts.py", "robustness/shifts.py"},
        ),
    ],
)
def test_an_example_stands_in_its_files_alone(what, pattern, besides):
    """A second list of names anywhere in the library would show here."""
    example, files = ROWS[what]
    allowed = {file.replace("NAME", example) for file in files} | besides
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in LIBRARY
        for path in (ROOT / folder).rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found - allowed == set() and found & allowed


def test_every_method_stands_where_the_row_says():
    _, files = ROWS["mixup"]
    assert files[0] == "train/mixups/NAME.py"
    for name, cls in METHODS.items():
        assert cls.__module__ == f"evalkit.train.mixups.{name}"
        assert (ROOT / "tests" / "train" / "mixups" / f"test_{name}.py").is_file()


def test_keys_stand_in_the_class_of_the_row():
    assert issubclass(TrainConfig, Keys) and ROWS["key of training"][0] in TrainConfig.__dataclass_fields__


# ---- commands


def commands() -> list[str]:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_the_workflow_covers_pythons_dependencies_and_documentation():
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert jobs["all"]["strategy"]["matrix"]["python"] == supported == ["3.11", "3.12", "3.13"]
    assert [c["name"] for c in jobs["dependencies"]["strategy"]["matrix"]["include"]] == ["oldest", "newest"]
    assert "documentation" in jobs
    # every job that can start does something, on pinned major versions of the actions
    for job in jobs.values():
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_the_oldest_versions_allowed_are_those_recorded():
    """Of what is needed to run; the record says which tests ran with them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    record = json.loads((ROOT / "benchmarks/results/oldest_dependencies.json").read_text(encoding="utf-8"))
    needed = [Requirement(r) for r in (*project["dependencies"], *project["optional-dependencies"]["downstream"])]
    lowest = {r.name: next(Version(s.version) for s in r.specifier if s.operator in (">=", "==")) for r in needed}
    assert lowest == {name: Version(record["versions"][name]) for name in lowest} and not record["failed"]


@pytest.mark.parametrize("command", commands())
def test_what_the_workflow_calls_is_there(command):
    for module in re.findall(r"-m (tests\.[\w.]+)", command):
        place = ROOT.joinpath(*module.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    for path in re.findall(r"(?<!\S)((?:tests|docs|\.ci)/[\w./]+)", command):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\bmake (\w+)", command):
        assert is_target(target)


def is_target(name: str) -> bool:
    return re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_the_commands_of_the_text_are_there():
    targets = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    assert {"install", "test", "types"} <= set(targets) and all(map(is_target, targets))
    assert (ROOT / ".ci" / "run").is_file()


def test_hooks_are_valid_and_call_what_is_there():
    hooks = [hook for repo in yaml.safe_load(HOOKS.read_text(encoding="utf-8"))["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["format", "lint", "types"]
    for hook in hooks:
        assert hook["language"] == "system"
        assert re.match(r"\.venv/bin/python -m ruff (format|check)\b|make types$", hook["entry"])
    if importlib.util.find_spec("pre_commit"):
        command = [sys.executable, "-m", "pre_commit", "validate-config", str(HOOKS)]
        assert subprocess.run(command, capture_output=True).returncode == 0


# ---- how it is packed and cited


def test_the_citation_is_of_this_version():
    import evalkit

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and {"message", "title", "authors"} < set(cited)
    assert cited["version"] == cited["preferred-citation"]["version"] == evalkit.__version__
    assert (
        cited["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"]
    )


def test_nothing_of_an_extra_is_needed_without_it_and_every_pin_fits():
    """The tested versions lie within the bounds of every requirement, those of extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {k: [Requirement(t) for t in v] for k, v in project["optional-dependencies"].items()}
    base = [Requirement(text) for text in project["dependencies"]]
    assert not any(r.name.startswith(("mm", "snakemake", "wandb", "sphinx")) for r in base)
    names = {r.name for r in base}
    assert not any(r.name in names for k, v in extras.items() for r in v) and set(extras) >= {"downstream", "study"}
    assert {e for r in extras["all"] for e in r.extras} == {"downstream", "study", "track"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonical(k): v for k, _, v in (line.partition("==") for line in lines if "==" in line)}
    for requirement in (*base, *(r for v in extras.values() for r in v if r.name != "evalkit")):
        version = pins[canonical(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} and the pin {version}"


def test_a_plain_install_asks_for_seventeen_packages_at_most():
    """Own code may import besides what one of them asks for itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) <= 17
    of_sklearn = {Requirement(text).name for text in metadata.requires("scikit-learn") or [] if "extra" not in text}
    assert "threadpoolctl" in of_sklearn  # which `transfer cls` imports, and only the extra `downstream` declares


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_containers_and_the_release_name_what_is_there():
    recipe = (ROOT / "containers" / "evalkit.def").read_text(encoding="utf-8")
    files = re.search(r"%files\n(.*?)\n\n", recipe, re.DOTALL)[1].split("\n")
    for source, target in (line.split() for line in files):
        assert (ROOT / source).exists() and target == f"/opt/evalkit/{source}"
    assert {"evalkit", "train", "downstream", "robustness", "configs"} < {line.split()[0] for line in files}
