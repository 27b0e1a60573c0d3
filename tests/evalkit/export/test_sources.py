"""What goes along with an export stands alone."""

import ast

import pytest

from evalkit.export import sources

TEXT = '''"""Doc."""
import torch
from evalkit.errors import (
    EvalkitError,
    unknown as odd,
)
from . import deformable
from ..adapted import Adapted
from timm.layers import Mlp


def f():
    from ..maps import Maps
    return Maps
'''


def test_imports_of_evalkit_become_imports_beside():
    text, needed = sources.flat("evalkit.downstream.mm.ext", TEXT)
    assert sorted(needed) == [
        *("evalkit.downstream.adapted", "evalkit.downstream.maps", "evalkit.downstream.mm.deformable"),
        "evalkit.errors",
    ]
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert [(n.level, n.module, [(a.name, a.asname) for a in n.names]) for n in found] == [
        (1, "errors", [("EvalkitError", None), ("unknown", "odd")]),
        (1, None, [("deformable", None)]),
        (1, "adapted", [("Adapted", None)]),
        (0, "timm.layers", [("Mlp", None)]),
        (1, "maps", [("Maps", None)]),
    ]
    assert len(text.splitlines()) <= len(TEXT.splitlines()) and "    from .maps import Maps\n    return Maps" in text


@pytest.mark.parametrize("module", ["small", "ca_swin", "moganet", "pvt"])
def test_a_network_runs_from_its_package_alone(module, tmp_path):
    sources.write(tmp_path, [f"evalkit.models.{module}"])
    files = {path.stem for path in (tmp_path / sources.PACKAGE).iterdir()}
    assert files == {"__init__", "common", module} | ({"pvt"} if module == "small" else set())
    for path in (tmp_path / sources.PACKAGE).iterdir():
        imported = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not any("evalkit" in str(getattr(n, "module", "")) for n in imported)


def test_what_the_stand_in_for_mmcv_needs_goes_along(tmp_path):
    sources.write(tmp_path, ["evalkit.downstream.mm.ext", "evalkit.downstream.mm.exported"])
    files = {path.stem for path in (tmp_path / sources.PACKAGE).iterdir()}
    assert files == {
        *("__init__", "adapted", "deformable", "errors", "exported", "ext", "maps", "operators", "positions"),
    }


def test_nothing_is_written_for_timms_networks(tmp_path):
    sources.write(tmp_path, sources.of_architecture("timm.models.deit"))
    assert list(tmp_path.iterdir()) == []
