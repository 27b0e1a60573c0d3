"""Imports run one way: cli -> {train, downstream, robustness} -> evalkit core. Every file is parsed, imports inside
functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
APPLICATIONS = ("train", "downstream", "robustness")
MM = {"mmengine", "mmcv", "mmseg", "mmdet", "mmpretrain"}
ENTRY = "evalkit/cli/"  # the only part of the core that may know the applications
# what `evalkit --help` imports
LIGHT = (
    *("evalkit/__init__.py", "evalkit/__main__.py", "evalkit/cli/", "evalkit/errors.py", "evalkit/protocols.py"),
    *("evalkit/about.py", "robustness/__init__.py", "robustness/config.py", "robustness/about/", "robustness/sets.py"),
    *("downstream/__init__.py", "downstream/about.py"),
)
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "sklearn",
    "cv2",
    "matplotlib",
    "PIL",
    "omegaconf",
    "rich",
    "tensorboard",
}
FILES = sorted(
    p.relative_to(ROOT).as_posix()
    for folder in ("evalkit", "configs", *APPLICATIONS)
    for p in (ROOT / folder).rglob("*.py")
)


def module_of(path: str) -> list[str]:
    """The package parts in which a file lives: train/mixups/base.py -> [evalkit, train, mixups]."""
    folders = path.split("/")[:-1]
    return folders if folders[0] == "evalkit" else ["evalkit", *folders]


def imports(path: str, source: str, top: bool = False) -> list[tuple[str, int]]:
    """(absolute module, level) of every import in a file; with `top` only those that run when the file is imported."""
    found = []
    tree = ast.parse(source)
    inside = (
        {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
        if top
        else set()
    )
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path)
            above = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*above, *([node.module] if node.module else [])])
            # `from . import x` and `from evalkit import x` name modules in their list
            found += (
                [(f"{name}.{alias.name}", node.level) for alias in node.names]
                if name == "evalkit" or node.module is None
                else [(name, node.level)]
            )
    return found


def problems(path: str, source: str) -> list[str]:
    own = module_of(path)
    application = own[1] if len(own) > 1 and own[1] in APPLICATIONS else None
    found = []
    for module, level in imports(path, source):
        parts = module.split(".")
        target = parts[1] if parts[0] == "evalkit" and len(parts) > 1 and parts[1] in APPLICATIONS else None
        if parts[0] in (*APPLICATIONS, "configs", "tests", "benchmarks"):
            found.append(f"{module}: only `evalkit...` is installed")
        elif target and application and target != application:
            found.append(f"{module}: applications never import one another")
        elif target and not application and not path.startswith(ENTRY):
            found.append(f"{module}: the core does not know the applications")
        elif target and application and level == 0:
            found.append(f"{module}: relative inside a folder")
        elif parts[0] == "evalkit" and not target and application and level:
            found.append(f"{module}: the core is imported by its full name from an application")
        elif parts[0] == "evalkit" and not application and not level:
            found.append(f"{module}: relative inside the core")
        elif parts[0] in MM and own[1:3] != ["downstream", "mm"]:
            found.append(f"{module}: only downstream/mm imports mm packages")
    if path.startswith(LIGHT):
        found += [
            f"{module}: too slow for --help"
            for module, _ in imports(path, source, top=True)
            if module.split(".")[0] in HEAVY
        ]
    return found


@pytest.mark.parametrize("path", FILES)
def test_imports_run_one_way(path):
    assert problems(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_all_folders_are_looked_at():
    assert {path.split("/")[0] for path in FILES} >= {"evalkit", "configs", "train", "downstream", "robustness"}


@pytest.mark.parametrize(
    "path, source, fault",
    [
        ("train/loop.py", "from evalkit.robustness import run", "applications never import one another"),
        ("train/mixups/base.py", "from ...robustness import run", "applications never import one another"),
        ("train/loop.py", "from .. import robustness", "applications never import one another"),
        ("train/loop.py", "from evalkit import robustness", "applications never import one another"),
        ("train/loop.py", "from evalkit.train.losses import x", "relative inside a folder"),
        ("train/loop.py", "import train.losses", "only `evalkit...` is installed"),
        ("train/loop.py", "from ..runtime import x", "by its full name"),
        ("evalkit/metrics.py", "from .train.run import train", "the core does not know the applications"),
        ("evalkit/metrics.py", "from . import robustness", "the core does not know the applications"),
        (
            "evalkit/metrics.py",
            "def f():\n    from evalkit.train import run",
            "the core does not know the applications",
        ),
        ("evalkit/models/load.py", "from ..train import run", "the core does not know the applications"),
        ("evalkit/metrics.py", "from evalkit.errors import x", "relative inside the core"),
        ("robustness/run.py", "import mmcv", "only downstream/mm imports mm packages"),
        ("evalkit/cli/app.py", "import torch.nn", "too slow for --help"),
        ("evalkit/cli/app.py", "if True:\n    from timm import create_model", "too slow for --help"),
    ],
)
def test_the_check_sees_what_is_forbidden(path, source, fault):
    (problem,) = problems(path, source)
    assert fault in problem


@pytest.mark.parametrize(
    "path, source",
    [
        (
            "train/loop.py",
            "from evalkit.runtime import x\nfrom evalkit import data\nfrom .config import y\nfrom . import z",
        ),
        ("train/mixups/base.py", "from ..losses import x"),
        ("evalkit/models/load.py", "from ..errors import x\nfrom .network import y\nimport torch"),
        ("evalkit/cli/app.py", "def f():\n    import torch\n    from ..train.run import train"),
        ("downstream/mm/seg.py", "import mmseg"),
    ],
)
def test_the_check_lets_pass_what_is_allowed(path, source):
    assert problems(path, source) == []
