"""What is installed works: a wheel and an editable install, from the repository root and from elsewhere. Needs no
network."""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import evalkit

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "evalkit",
    "train",
    "downstream",
    "robustness",
    "configs",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    *("MANIFEST.in", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"),
)
pytestmark = pytest.mark.slow


def run(*command, cwd):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"  # which waits where there is no network
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing behind in the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_one.py").touch()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    pytest.importorskip("setuptools", reason="building without the network needs setuptools in this environment")
    out = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", checkout, "--no-deps", "--no-build-isolation", "--wheel-dir", out, cwd=out
    )
    (built,) = out.glob("evalkit-*.whl")
    return built


def environment(folder, *install):
    """A new virtual environment that sees this one's packages, with evalkit installed in it; its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    packages = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip())
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    run(
        python,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--ignore-installed",
        *install,
        cwd=folder,
    )
    return python


def check(python, folder):
    """The command, the module and every part of the package, run from `folder`."""
    assert "Usage: evalkit" in run(python.parent / "evalkit", "--help", cwd=folder)
    assert "digits-photo-mixpro" in run(python, "-m", "evalkit", "recipes", "list", cwd=folder)
    assert "mixup-switch-prob" in run(
        python, "-m", "evalkit", "recipes", "diff", "transmix", "transmix-as-run", cwd=folder
    )
    parts = (
        "import evalkit.train.run, evalkit.train.mixups, evalkit.robustness, evalkit.configs, evalkit.report,"
        " evalkit.data, evalkit.models"
    )
    return run(python, "-c", f"{parts}; print(evalkit.train.__file__, evalkit.robustness.__file__)", cwd=folder).split()


def test_wheel_holds_code_recipes_and_data(wheel):
    assert wheel.name.startswith(f"evalkit-{evalkit.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"evalkit/configs/{p.relative_to(ROOT / 'configs').as_posix()}" for p in (ROOT / "configs").rglob("*.yaml")
    }
    for folder in ("evalkit", "train", "downstream", "robustness"):
        for path in (
            p
            for p in (ROOT / folder).rglob("*")
            if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
        ):
            below = path.relative_to(ROOT).as_posix()
            expected.add(below if folder == "evalkit" else f"evalkit/{below}")
    assert expected <= names
    assert not [
        n
        for n in names
        if n.startswith(("train/", "downstream/", "robustness/", "configs/", "tests/", "evalkit/tests/"))
    ]


def test_the_metadata_pass_the_check_of_the_index(wheel):
    pytest.importorskip("twine", reason="the extra dev")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, cwd=wheel.parent)


def test_the_index_shows_the_readme_without_what_it_has_not(wheel):
    """No link to a file, and no picture with its caption: they lie in the repository."""
    packed = zipfile.ZipFile(wheel)
    (name,) = [n for n in packed.namelist() if n.endswith(".dist-info/METADATA")]
    head, _, text = packed.read(name).decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in head
    assert text.startswith("# evalkit\n") and "## Five minutes" in text
    assert "](" not in text and "Quickstart" in text
    written = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/pages/quickstart.md)" in written and "![" in written
    lines = [line for line in written.splitlines() if "](" not in line]
    assert [line[:6] for line in lines if line not in text.splitlines()] == ["*Four "]


def test_a_source_distribution_makes_the_same_wheel(wheel, checkout, tmp_path):
    code = "from setuptools import build_meta; print(build_meta.build_sdist(r'{}'))"
    name = run(sys.executable, "-c", code.format(tmp_path), cwd=checkout).split()[-1]
    with tarfile.open(tmp_path / name) as packed:
        packed.extractall(tmp_path, filter="data")
    folder = tmp_path / name.removesuffix(".tar.gz")
    assert not (folder / "tests").exists()  # a few of its files alone, as setuptools takes them, run nowhere
    assert all((folder / file).is_file() for file in ("CITATION.cff", "constraints.txt", "CHANGELOG.md", "LICENSE"))
    again = ("pip", "wheel", folder, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    run(sys.executable, "-m", *again, cwd=tmp_path)
    (built,) = tmp_path.glob("*.whl")
    names = [
        {i.filename: i.CRC for i in zipfile.ZipFile(w).infolist() if not i.filename.endswith("RECORD")}
        for w in (wheel, built)
    ]
    assert names[0] == names[1]


def test_the_zoo_of_a_wheel_answers_without_mm_packages(wheel, tmp_path):
    """From anywhere, with nothing but what it brings: its checkpoint and its data."""
    python = environment(tmp_path / "venv", wheel)
    (work := tmp_path / "work").mkdir()
    code = (
        "import sys\nfor name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'pycocotools'): sys.modules[name] = None\n"
        "from evalkit import cli, zoo\n"
        "for words in (['zoo', 'list'], ['show', 'zoo:mixpro-digits'], ['robustness', 'occlusion', 'zoo:mixpro-digits',"
        " 'limit=20', 'repeats=1', 'levels=[0.5]', 'workers=0'], ['transfer', 'cls', 'zoo:mixpro-digits',"
        " 'data=digits', 'mode=knn', 'workers=0']):\n    print(cli.invoke(words))\nprint(zoo.FOLDER)"
    )
    *_, folder = lines = run(python, "-c", code, cwd=work).splitlines()
    assert lines.count("(0, '')") == 4 and Path(folder).is_relative_to(tmp_path / "venv")
    done = run(python.parent / "evalkit", "--version", cwd=work)
    assert done == f"evalkit {evalkit.__version__}\n"


def test_wheel_works_elsewhere_and_from_the_root(wheel, checkout, tmp_path):
    python = environment(tmp_path / "venv", wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in check(python, elsewhere):
        assert Path(path).is_relative_to(tmp_path / "venv")
    # the folder evalkit/ there shadows the wheel's, and finds train/ beside itself
    for path in check(python, checkout):
        assert Path(path).is_relative_to(checkout)


def test_editable_install(checkout, tmp_path):
    pytest.importorskip("setuptools", reason="building without the network needs setuptools in this environment")
    python = environment(tmp_path / "venv", "--editable", checkout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (elsewhere, checkout):
        for path in check(python, folder):
            assert Path(path).is_relative_to(checkout)
    assert run(python, "-m", "evalkit", "doctor", cwd=elsewhere).endswith("everything that evalkit needs is there\n")


def test_type_checkers_see_what_create_gives(wheel, checkout, tmp_path):
    """With a wheel, and with a checkout whose editable install is made of links (setuptools' usual one is a hook in the
    import system, which type checkers do not run)."""
    pytest.importorskip("mypy")
    links = ("--config-settings", "editable_mode=strict", "--editable", checkout)
    code = tmp_path / "mine.py"
    code.write_text(
        "from evalkit import models\nfrom evalkit.train import create\n"
        'reveal_type(create("mixup"))\nreveal_type(models.create("resnet18"))\ncreate(5)\n'
    )
    for name, install in (("wheel", (wheel,)), ("links", links)):
        python = environment(tmp_path / name, *install)
        command = (sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", tmp_path / "cache", code)
        done = subprocess.run([str(c) for c in command], cwd=tmp_path, capture_output=True, text=True)
        assert 'Revealed type is "evalkit.train.mixups.base.MixMethod"' in done.stdout, done.stdout + done.stderr
        assert 'Revealed type is "evalkit.models.network.Network"' in done.stdout
        assert 'Argument 1 to "create" has incompatible type "int"; expected "str"' in done.stdout
